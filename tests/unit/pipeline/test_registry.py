"""What `race submit` finds out of its images, from a registry on this machine."""

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError
from pipeline import cli, registry
from pipeline.image_build import TransferError
from pipeline.images import Images

DIGEST = f"sha256:{'0' * 64}"
USER = f"Basic {base64.b64encode(b'me:hunter2').decode()}"


class Registry:
    """What it holds, and how it answers."""

    def __init__(self) -> None:
        self.host = ""
        self.held = {"team/data:1", "team/train:1", f"team/train:{DIGEST}"}
        self.log_in = ""  # "basic", or "bearer" for a token
        self.status = 0  # answer everything so
        self.asked: list[tuple[str, str]] = []

    def answer(self, method: str, path: str, given: str) -> tuple[int, dict[str, str], Any]:
        self.asked.append((method, path))
        if self.status:
            return self.status, {}, "nothing"
        if path.startswith("/token?"):
            return (200 if given in ("", USER) else 401), {}, {"token": f"for {given}"}
        wanted = {"basic": USER, "bearer": f"Bearer for {USER}", "anyone": "Bearer for "}
        if self.log_in and given.strip() != wanted[self.log_in].strip():
            realm = f'Bearer realm="http://{self.host}/token",service="here",scope="pull"'
            challenge = 'Basic realm="here"' if self.log_in == "basic" else realm
            return 401, {"WWW-Authenticate": challenge}, {}
        name, _, version = path.removeprefix("/v2/").partition("/manifests/")
        if f"{name}:{version}" in self.held:
            return 200, {}, {}
        return 404, {}, {"errors": [{"code": "MANIFEST_UNKNOWN"}]}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    state = Registry()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    class Handler(http.server.BaseHTTPRequestHandler):
        def respond(self) -> None:
            given = self.headers.get("Authorization", "")
            status, headers, body = state.answer(self.command, self.path, given)
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = respond

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.host = f"127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def logged_in(folder: Path, host: str) -> None:
    auth = {"auths": {host: {"auth": USER.removeprefix("Basic ")}}}
    (folder / "config.json").write_text(json.dumps(auth))


def asked(here: Registry, data: str = "team/data:1", train: str = "team/train:1") -> None:
    registry.require_pullable(Images(f"{here.host}/{data}", f"{here.host}/{train}"))


@pytest.mark.parametrize("log_in", ["", "basic", "bearer", "anyone"])
def test_images_that_are_there_are_taken(here, log_in, tmp_path, capsys) -> None:
    here.log_in = log_in
    if log_in in ("basic", "bearer"):
        logged_in(tmp_path, here.host)
    asked(here, train=f"team/train:other@{DIGEST}")
    assert capsys.readouterr().err == ""
    assert {method for method, path in here.asked if "/manifests/" in path} == {"HEAD"}


@pytest.mark.parametrize("log_in", ["", "bearer"])
def test_a_tag_that_the_registry_lacks_is_refused(here, log_in, tmp_path) -> None:
    here.log_in = log_in
    logged_in(tmp_path, here.host)
    with pytest.raises(ConfigError, match=r"/team/train:2: the registry lacks it\. Push it"):
        asked(here, train="team/train:2")


def test_a_registry_that_lets_us_not_see_is_warned_of(here, capsys) -> None:
    here.log_in = "basic"
    asked(here)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: ")
    assert first.endswith("team/data:1: it answered 401 Unauthorized")
    assert "team/train:1" in second


@pytest.mark.parametrize("status", [404, 500])
def test_what_is_no_registry_s_answer_is_warned_of(here, status, capsys) -> None:
    here.status = status
    asked(here)
    assert capsys.readouterr().err.count("warning: ") == 2


def test_nobody_there_is_warned_of(capsys) -> None:
    image = "127.0.0.1:1/team/race:1"
    registry.require_pullable(Images(image, image))
    assert capsys.readouterr().err.count("refused") == 1


# race submit and its images


def test_images_that_nobody_pushed_reach_no_server(kubeflow, capsys, monkeypatch) -> None:
    for name in ("RACE_IMAGE_PREFIX", "RACE_DATA_IMAGE", "RACE_TRAIN_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["submit", "--host", kubeflow.host]) == 2
    assert "is in no registry: a cluster cannot pull it" in capsys.readouterr().err
    assert not kubeflow.requests


def test_a_pushed_image_goes_from_push_to_submit_in_a_file(
    kubeflow, here, tmp_path, monkeypatch, capsys
) -> None:
    file = str(tmp_path / "images.env")
    pushed = {"data": f"{here.host}/team/data:1", "train": f"{here.host}/team/train@{DIGEST}"}
    monkeypatch.setattr("pipeline.image_build.push", lambda *_, **__: pushed)
    assert cli.main(["images", "push", "--write", file]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["submit", "--host", kubeflow.host, "--images", file]) == 0
    assert all(reference in kubeflow.packages[0] for reference in pushed.values())


def test_a_push_that_fails_leaves_no_file_and_prints_nothing(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "images.env"
    file.write_text("RACE_DATA_IMAGE=an/old:one\n")

    def push(*_: Any, **__: Any) -> None:
        raise TransferError("refused")

    monkeypatch.setattr("pipeline.image_build.push", push)
    assert cli.main(["images", "push", "--write", str(file)]) == 4
    assert capsys.readouterr().out == ""
    assert not file.exists()
    assert cli.main(["compile", "--images", str(file), "--output", str(tmp_path / "p.yaml")]) == 2
    assert "race images push --write" in capsys.readouterr().err


def test_a_file_of_something_else_holds_no_images(tmp_path, capsys) -> None:
    file = tmp_path / "other.env"
    file.write_text("PATH=/bin\n")
    assert cli.main(["compile", "--images", str(file), "--output", str(tmp_path / "p.yaml")]) == 2
    assert "does not hold the references of images" in capsys.readouterr().err
