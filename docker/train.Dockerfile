# The image of training and evaluation, and of what is done with a model: torch with CUDA (or for CPU), and
# fairseq.
#
#   docker build -f docker/train.Dockerfile -t race-pipeline-train .      (or: make images)
#   docker run --rm --gpus all race-pipeline-train python -m components.train --help
#
# For CPU, where pip can find the CPU build of torch (its file name ends in "+cpu"):
#
#   docker build -f docker/train.Dockerfile --build-arg TORCH=cpu \
#     --build-arg PIP_EXTRA_INDEX_URL=<the index of torch's CPU builds> -t race-pipeline-train .
#
# Builds with the classic builder as well as with BuildKit; only stages and copies are used.
# A base image has to be a Debian with Python 3.11 or 3.12, its headers, pip and venv.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

# fairseq has no wheel: this stage has the compilers, and leaves a wheel behind.
FROM ${BASE_IMAGE} AS fairseq
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/fairseq.txt requirements/build.txt /requirements/
# Without torch: with torch in sight its setup wants C++ files that the sdist lacks.
# The flags keep the name of pip's temporary folder, another one each time, out of the libraries.
RUN python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --requirement /requirements/build.txt \
 && CFLAGS=-g0 LDFLAGS=-Wl,--strip-all,--build-id=none \
    /opt/build/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir /wheels \
      --requirement /requirements/fairseq.txt

FROM ${BASE_IMAGE} AS packages
# Where pip looks, when not at its default. Arguments stay in this stage, so that an address with
# a password in it reaches neither the final layers nor their history.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
# Empty: torch's default build, with CUDA. cpu: the locked version with the local label "+cpu".
ARG TORCH
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv --without-pip /opt/race
COPY requirements/train.txt requirements/torch.txt requirements/sbom.py /requirements/
# cython has done its part in fairseq's wheel.
RUN awk '/^[a-z]/ {keep = $0 !~ /^cython==/} keep' /requirements/train.txt >/requirements/used.txt \
 && python3 -m pip --python /opt/race/bin/python install --no-compile --no-deps \
      --requirement /requirements/used.txt
# What torch needs beside these are packages of CUDA, which its wheel pins.
RUN python3 -m pip --python /opt/race/bin/python install --no-compile \
      "$(cat /requirements/torch.txt)${TORCH:++$TORCH}"
COPY --from=fairseq /wheels /wheels
RUN python3 -m pip --python /opt/race/bin/python install --no-compile --no-deps /wheels/*.whl
# Without a compiler torch's headers are of no use, and its C++ tests are of none to anybody.
# botocore describes some 400 services; S3 and the sources of its credentials are the ones in use.
# Byte code is made here, since the final image is never written to. It is checked neither for its
# time nor for its content, and everything has the same time, so that the same input gives the same
# layers, which need not be pushed or pulled again.
RUN cd /opt/race/lib/python3*/site-packages \
 && rm -rf torch/include torch/test torch/bin/*Test torch/bin/test_* torch/bin/*.ptl torch/bin/*.pt \
      torch/bin/protoc* fairseq/examples \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -r {} + \
 && find . -type d -name tests -prune -exec rm -r {} + \
 && PYTHONHASHSEED=0 /opt/race/bin/python -m compileall -q -f -j 0 \
      -x '/py3[0-9]+_' --invalidation-mode unchecked-hash . \
 && /opt/race/bin/python -P /requirements/sbom.py /made/app \
 && mkdir --parents /made/opt && mv /opt/race /made/opt/ \
 && find /made -exec touch --no-dereference --date 1980-01-01T00:00:00Z {} +

FROM ${BASE_IMAGE} AS code
COPY components/ /app/components/
RUN PYTHONHASHSEED=0 python3 -m compileall -q -f --invalidation-mode unchecked-hash /app \
 && chmod -R u=rwX,go=rX /app \
 && mkdir --parents /made/data && mv /app /made/ \
 && find /made -exec touch --date 1980-01-01T00:00:00Z {} +

FROM ${BASE_IMAGE}
COPY --from=packages /made/ /
# Any user may run it, on a read-only root: what has to be written goes below /tmp. Torch wants a
# name for its user, which a bare number does not have.
ENV PATH=/opt/race/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=race \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=code /made/ /
# Where a folder is mounted when a step is run by hand: its paths can then be relative.
WORKDIR /data
USER 10001
CMD ["python", "-m", "components.train", "--help"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=0
# Written into the manifests of what is trained.
ENV RACE_REVISION=${REVISION}
LABEL org.opencontainers.image.title="race-pipeline-train" \
      org.opencontainers.image.description="RACE: fine-tune RoBERTa, evaluate, ask, serve, export and import it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
