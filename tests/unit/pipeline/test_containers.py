"""How a step's container is set up; no engine is needed."""

import contextlib
import os
from pathlib import Path
from typing import Any

import docker
import pytest
from kfp.local import DockerRunner

from components.common.errors import ConfigError
from pipeline import containers, image_build, local, record
from pipeline.containers import container_arguments, has_gpus, require_image
from pipeline.images import Images


class Engine:
    """An engine without images, that cannot pull any."""

    def __init__(self, runtimes: tuple[str, ...] = ("runc",), security: str = "") -> None:
        self.images = self
        self._runtimes, self._security = runtimes, security

    def info(self) -> dict[str, Any]:
        runtimes: dict[str, Any] = {name: {} for name in self._runtimes}
        return {"Runtimes": runtimes, "SecurityOptions": [self._security]}

    def get(self, reference: str) -> None:
        raise docker.errors.ImageNotFound(reference)

    def pull(self, reference: str) -> None:
        raise docker.errors.APIError("500 Server Error", explanation="no such host")


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the device of the GPUs would be."""
    device = tmp_path / "nvidiactl"
    monkeypatch.setattr(containers, "GPU_DEVICE", device)
    monkeypatch.setattr(containers.shutil, "which", lambda _: None)
    return device


def test_every_step_is_locked_down_and_runs_as_the_caller(tmp_path: Path) -> None:
    arguments = container_arguments(Engine(), readable=[], environment={})
    assert arguments["user"] == f"{os.getuid()}:{os.getgid()}"
    assert arguments["read_only"] is True
    assert arguments["cap_drop"] == ["ALL"]
    assert arguments["security_opt"] == ["no-new-privileges"]
    assert arguments["shm_size"] == "2g"
    assert "device_requests" not in arguments


def test_inputs_are_mounted_once_and_read_only(tmp_path: Path) -> None:
    readable = [tmp_path / "runs" / "sample", tmp_path / "runs", tmp_path / "RACE.tar.gz"]
    arguments = container_arguments(Engine(), readable=readable, environment={})
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in arguments["mounts"]] == [
        (str(path), str(path), True) for path in (tmp_path / "RACE.tar.gz", tmp_path / "runs")
    ]


def test_with_selinux_containers_read_what_has_no_label_for_them() -> None:
    arguments = container_arguments(Engine(security="name=selinux"), readable=[], environment={})
    assert arguments["security_opt"] == ["no-new-privileges", "label=disable"]


def test_a_step_s_folder_for_outputs_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_build, "engine", lambda: contextlib.nullcontext(Engine()))
    monkeypatch.setattr(containers, "require_image", lambda *_: None)
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(containers, "run_container", lambda *_, **given: made.append(given) or 0)
    folder = tmp_path / "10:00, ${y}"
    folder.mkdir()
    worker = local.Worker(record.Run(folder, {}), None)
    monkeypatch.setattr(worker, "execute", lambda command, start: start(command, tmp_path / "log"))
    handler, runner = local.docker_runner(worker, Images("data", "train"), [tmp_path / "a:b"])
    assert handler("data", [], str(folder), runner).run() == 0
    (given,) = made
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in given["mounts"]] == [
        (str(tmp_path / "a:b"), str(tmp_path / "a:b"), True),
        (str(folder / "artifacts"), str(folder / "artifacts"), False),
    ]
    assert "volumes" not in given
    assert (folder / "artifacts").is_dir()


def test_only_what_storage_needs_is_handed_on() -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "secret", "HOME": "/home/me", "GITHUB_TOKEN": "token"}
    arguments = container_arguments(Engine(), readable=[], environment=environment)
    assert arguments["environment"] == {"AWS_SECRET_ACCESS_KEY": "secret"}


def test_gpus_are_requested_where_the_engine_can_hand_them_out(no_gpus: Path) -> None:
    able = Engine(("runc", "nvidia"))
    assert not has_gpus(able)
    no_gpus.touch()
    assert has_gpus(able)
    assert not has_gpus(Engine())
    (request,) = container_arguments(able, readable=[], environment={})["device_requests"]
    assert request["Count"] == -1
    assert request["Capabilities"] == [["gpu"]]


def test_kfps_runner_knows_all_of_these_arguments(no_gpus: Path) -> None:
    no_gpus.touch()
    DockerRunner(**container_arguments(Engine(("nvidia",)), readable=[], environment={}))


def test_an_image_that_was_not_built_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"has no image localhost/data:1.*make images"):
        require_image(Engine(), "localhost/data:1")
    with pytest.raises(ConfigError, match=r"r\.example\.org/data:1 cannot be pulled: no such host"):
        require_image(Engine(), "r.example.org/data:1")
