"""What a build is told, and what a registry is given: nothing secret, and a digest to rely on."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from components.common.errors import ConfigError, TransferError
from pipeline.image_build import CHECKOUT, build, checkout_date, push
from pipeline.images import Images

pytestmark = pytest.mark.slow


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Served:
    """An HTTP server on this machine's loopback."""

    def __init__(self, handler: type[Quiet]) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_password_in_pips_address_stays_out_of_the_image(
    built: Images, docker_engine: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = f"canary{secrets.token_hex(12)}"
    seen = []

    class Links(Quiet):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            if not seen[-1]:
                self.reply(401, WWW_Authenticate='Basic realm="links"')
                return
            self.reply(200, b"<html><body></body></html>", Content_Type="text/html")

    base = docker_engine.images.get(built.data).labels["org.opencontainers.image.base.name"]
    with Served(Links) as links:
        environment = {
            **os.environ,
            "PIP_FIND_LINKS": f"http://reader:{canary}@{links.address}/",
            "AWS_SECRET_ACCESS_KEY": canary,
        }
        (image,) = build(
            ["data"], tag="canary", base_image=base, network="host", environment=environment
        )
    basic = base64.b64encode(f"reader:{canary}".encode()).decode()
    assert f"Basic {basic}" in seen, "pip did not use the address"
    try:
        found = docker_engine.images.get(image.reference)
        assert canary not in json.dumps(found.attrs)
        assert canary not in json.dumps(found.history())
        assert_not_in_layers(canary.encode(), found)
    finally:
        docker_engine.images.remove(image.reference)
    shown = capfd.readouterr()
    assert canary not in shown.out + shown.err


def test_built_again_from_nothing_it_is_the_same_image(
    built: Images, docker_engine: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    first = docker_engine.images.get(built.data)
    base = first.labels["org.opencontainers.image.base.name"]
    (again,) = build(["data"], tag="again", base_image=base, network="host", cache=False)
    try:
        second = docker_engine.images.get(again.reference)
        assert second.attrs["RootFS"]["Layers"] == first.attrs["RootFS"]["Layers"]
        assert second.id == first.id
    finally:
        docker_engine.images.remove(again.reference)
    # It is whole: what the Dockerfile says of it is there, and what was done for it.
    done = [entry["CreatedBy"] for entry in first.history()]
    assert len([entry for entry in first.history() if entry["Size"]]) >= 3
    assert any("USER 10001" in entry for entry in done)
    assert {entry["Created"] for entry in first.history()[:9]} == {checkout_date()}


def test_buildkit_gives_the_same_image_twice(
    built: Images, docker_engine: Any, tmp_path: Path
) -> None:
    """As docs/containers.md has it."""
    if shutil.which("docker") is None or subprocess.run(["docker", "buildx", "version"]).returncode:
        pytest.skip("docker has no buildx here")
    base = docker_engine.images.get(built.data).labels["org.opencontainers.image.base.name"]
    made = []
    for number in range(2):
        written = tmp_path / f"{number}.json"
        command = ["docker", "buildx", "build", "--provenance=false", "--no-cache"]
        command += ["--file=docker/data.Dockerfile", f"--build-arg=BASE_IMAGE={base}"]
        command += ["--network=host", "--tag=race-pipeline-buildkit", f"--metadata-file={written}"]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(checkout_date())}
        subprocess.run([*command, str(CHECKOUT)], check=True, env=environment)
        made.append(json.loads(written.read_text())["containerimage.digest"])
    docker_engine.images.remove("race-pipeline-buildkit")
    assert made[0] == made[1]


def assert_not_in_layers(canary: bytes, image: Any) -> None:
    saved = io.BytesIO(b"".join(image.save()))
    files = 0
    with tarfile.open(fileobj=saved) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                continue
            data = content.read()
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            assert canary not in data, member.name
            files += 1
    assert files > 3


@dataclass
class Registry:
    """What a registry was given, and the status with which it refuses."""

    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    refuses: int = 0


@pytest.fixture
def registry() -> Iterator[Registry]:
    """As much of the registry API as a push needs."""
    state = Registry()
    uploads: dict[str, bytes] = {}

    class Handler(Quiet):
        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def do_GET(self) -> None:
            self.reply(200 if self.path == "/v2/" else 404)

        def do_HEAD(self) -> None:
            digest = self.path.rpartition("/")[2]
            found = state.blobs.get(digest) or state.manifests.get(digest)
            if found is None:
                self.reply(404)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(found)))
                self.send_header("Docker-Content-Digest", digest)
                self.end_headers()

        def do_POST(self) -> None:
            self.body()
            if state.refuses:
                error = {"errors": [{"code": "DENIED", "message": "may not be written"}]}
                self.reply(state.refuses, json.dumps(error).encode())
                return
            identity = secrets.token_hex(8)
            uploads[identity] = b""
            self.reply(202, Location=f"{self.path}{identity}")

        def do_PATCH(self) -> None:
            identity = urlsplit(self.path).path.rpartition("/")[2]
            uploads[identity] += self.body()
            last = len(uploads[identity]) - 1
            self.reply(202, Location=self.path, Range=f"0-{last}")

        def do_PUT(self) -> None:
            parts = urlsplit(self.path)
            name, body = parts.path.rpartition("/")[2], self.body()
            if "/manifests/" in parts.path:
                digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
                state.manifests[name] = state.manifests[digest] = body
            else:
                body = uploads.pop(name) + body
                digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
                state.blobs[digest] = body
            self.reply(201, Location=parts.path, Docker_Content_Digest=digest)

    with Served(Handler) as server:
        state.address = server.address
        yield state


@pytest.fixture
def small_image(docker_engine: Any, registry: Registry) -> Iterator[str]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
    repository = f"{registry.address}/team/race-pipeline-data"
    docker_engine.api.import_image_from_data(content.getvalue(), repository, "small")
    yield repository
    docker_engine.images.remove(f"{repository}:small")


def test_push_gives_the_digest_that_the_registry_has(
    docker_engine: Any, registry: Registry, small_image: str
) -> None:
    environment = {"RACE_IMAGE_PREFIX": f"{registry.address}/team"}
    pushed = push(["data"], tag="small", environment=environment)
    digest = f"sha256:{hashlib.sha256(registry.manifests['small']).hexdigest()}"
    assert pushed == {"data": f"{small_image}@{digest}"}
    layers = json.loads(registry.manifests["small"])["layers"]
    assert all(layer["digest"] in registry.blobs for layer in layers)


def test_a_registry_that_refuses_is_explained(
    docker_engine: Any, registry: Registry, small_image: str
) -> None:
    registry.refuses = 403
    environment = {"RACE_IMAGE_PREFIX": f"{registry.address}/team"}
    with pytest.raises(TransferError, match=re.escape(f"{small_image}:small: ")):
        push(["data"], tag="small", environment=environment)


def test_an_image_that_was_not_built_is_explained(docker_engine: Any, registry: Registry) -> None:
    environment = {"RACE_IMAGE_PREFIX": registry.address}
    with pytest.raises(ConfigError, match="there is no image"):
        push(["data"], tag="never-built", environment=environment)
