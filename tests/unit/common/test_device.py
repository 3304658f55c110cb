"""A GPU that cannot be used is an error, and never the CPU without a word."""

import warnings
from pathlib import Path

import pytest
import torch

from components.common import device
from components.common.errors import ConfigError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its /dev and the version file of its driver; no GPU at first, and CUDA does not start."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "NODES", ((str(tmp_path), "nvidia[0-9]*"), (str(tmp_path), "dxg")))
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def test_without_a_gpu_auto_is_the_cpu(machine: Path) -> None:
    (machine / "nvidiactl").touch()
    assert device.usable_gpus("auto") == 0


@pytest.mark.parametrize("name", ["nvidia0", "nvidia12", "dxg"])
def test_a_gpu_that_is_here_is_not_left_out(machine: Path, name: str) -> None:
    (machine / name).touch()
    with pytest.raises(ConfigError, match=f"a GPU is here .*{name}.*but CUDA does not start"):
        device.usable_gpus("auto")
    assert device.usable_gpus("cpu") == 0


def test_the_error_has_the_reason_and_both_versions(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old() -> bool:
        warnings.warn(
            "CUDA initialization: The driver is too old (Triggered at x.cpp)", stacklevel=1
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Sat Jan 1 2022"
    (machine / "version").write_text(line)
    with pytest.raises(ConfigError) as raised:
        device.usable_gpus("cuda")
    assert raised.value.what == (
        "--device cuda was given, but CUDA does not start: CUDA initialization: The driver is too"
        f" old; the driver is 470.82.01; torch {torch.__version__} is built for CUDA 13.0"
    )


@pytest.mark.parametrize(("visible", "refused"), [("", False), ("-1", False), ("0,1", True)])
def test_gpus_can_be_hidden_on_purpose(
    machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str, refused: bool
) -> None:
    (machine / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if refused:
        with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES is 0,1"):
            device.usable_gpus("auto")
    else:
        assert device.usable_gpus("auto") == 0
    with pytest.raises(ConfigError):
        device.usable_gpus("cuda")


def test_gpus_that_work_are_counted(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "nvidia0").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device.usable_gpus(name) for name in ("auto", "cuda", "cpu")] == [2, 2, 0]
