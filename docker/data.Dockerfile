# The image of the data steps (download, preprocess, binarize) and of those that judge figures (gate,
# select): no torch, no compiler, no pip of its own.
#
#   docker build -f docker/data.Dockerfile -t race-pipeline-data .        (or: make images)
#   docker run --rm race-pipeline-data python -m components.binarize --help
#
# Builds with the classic builder as well as with BuildKit; only stages and copies are used.
# A base image has to be a Debian with Python 3.11 or 3.12, pip and venv, as `python3` on the PATH.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS packages
# Where pip looks, when not at its default. Arguments stay in this stage, so that an address with
# a password in it reaches neither the final layers nor their history.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
# 1: with pyarrow, for input as Parquet. The image then has 264 MB instead of 94.
ARG PARQUET
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv --without-pip /opt/race
COPY requirements/data.txt requirements/parquet.txt requirements/sbom.py /requirements/
# What gigatoken wants for its command line and for answers as awkward arrays would double the image.
# huggingface_hub downloads without its second protocol (hf-xet), file systems and command line.
RUN awk -v out='^(annotated-doc|annotated-types|awkward|awkward-cpp|click|fsspec|hf-xet|importlib-metadata\
|lazy-importer|markdown-it-py|mdurl|packaging|pydantic|pydantic-core|pygments|rich|shellingham|typer\
|typing-inspection|zipp)==' '/^[a-z]/ {keep = $0 !~ out} keep' \
      /requirements/data.txt ${PARQUET:+/requirements/parquet.txt} >/requirements/used.txt \
 && python3 -m pip --python /opt/race/bin/python install --no-compile --no-deps \
      --requirement /requirements/used.txt
# numpy's bridge to Fortran, types for editors, huggingface_hub's commands and model calls: never used.
# botocore describes some 400 services; S3 and the sources of its credentials are the ones in use.
# Byte code is made here, since the final image is never written to. It is checked neither for its
# time nor for its content, and everything has the same time, so that the same input gives the same
# layers, which need not be pushed or pulled again.
RUN cd /opt/race/lib/python3*/site-packages \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -r {} + \
 && rm -rf numpy/f2py numpy/distutils huggingface_hub/cli huggingface_hub/inference \
 && find . -name '*.pyi' -delete \
 && find . -type d -name tests -prune -exec rm -r {} + \
 && PYTHONHASHSEED=0 /opt/race/bin/python -m compileall -q -f \
      --invalidation-mode unchecked-hash . \
 && /opt/race/bin/python -P /requirements/sbom.py /made/app \
 && mkdir --parents /made/opt && mv /opt/race /made/opt/ \
 && find /made -exec touch --no-dereference --date 1980-01-01T00:00:00Z {} +

FROM ${BASE_IMAGE} AS code
COPY components/__init__.py /app/components/
COPY components/common /app/components/common
COPY components/download /app/components/download
COPY components/preprocess /app/components/preprocess
COPY components/binarize /app/components/binarize
COPY components/gate /app/components/gate
COPY components/trials /app/components/trials
COPY components/select /app/components/select
# The rest of evaluate wants torch.
COPY components/evaluate/__init__.py components/evaluate/statistics.py /app/components/evaluate/
COPY components/evaluate/report.py /app/components/evaluate/
COPY components/evaluate/templates /app/components/evaluate/templates
RUN PYTHONHASHSEED=0 python3 -m compileall -q -f --invalidation-mode unchecked-hash /app \
 && chmod -R u=rwX,go=rX /app \
 && mkdir --parents /made/data && mv /app /made/ \
 && find /made -exec touch --date 1980-01-01T00:00:00Z {} +

FROM ${BASE_IMAGE}
COPY --from=packages /made/ /
# Any user may run it, on a read-only root: what has to be written goes below /tmp.
ENV PATH=/opt/race/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=race
COPY --from=code /made/ /
# Where a folder is mounted when a step is run by hand: its paths can then be relative.
WORKDIR /data
USER 10001
CMD ["python", "-m", "components.binarize", "--help"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG VERSION=0
LABEL org.opencontainers.image.title="race-pipeline-data" \
      org.opencontainers.image.description="RACE: download, preprocess and binarize" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
