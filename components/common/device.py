"""What computes: a GPU, or the CPU, but never the CPU in place of a GPU without a word."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from components.common.errors import ConfigError

Device = Literal["auto", "cuda", "cpu"]

DEVICE_HELP = "what computes; auto is all GPUs of this machine, and the CPU where there is none"

# Of NVIDIA's driver, in a container too; /dev/dxg is its place in Windows' Linux.
NODES = (("/dev", "nvidia[0-9]*"), ("/dev", "dxg"))
DRIVER = Path("/proc/driver/nvidia/version")


def usable_gpus(device: Device) -> int:
    """How many GPUs to compute on; 0 means the CPU.

    Raises:
        ConfigError: a GPU is here or was asked for, and CUDA does not start.
    """
    here = gpu_here(os.environ)
    if device == "cpu" or (device == "auto" and not here):
        return 0
    import torch  # takes seconds, which a machine without a GPU is spared

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return torch.cuda.device_count()
    gpu = here if device == "auto" else "--device cuda was given"
    reasons = [str(warning.message).partition(" (Triggered")[0] for warning in told]
    built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda or '(none)'}"
    raise ConfigError(
        f"{gpu}, but CUDA does not start: {'; '.join([*reasons, _driver(), built])}",
        hint="Install a driver and a torch that fit together, or compute on the CPU: --device cpu",
    )


def gpu_here(environment: Mapping[str, str]) -> str:
    """A phrase for the GPU that this process could be expected to use; "" if there is none.

    An empty CUDA_VISIBLE_DEVICES hides all GPUs on purpose, and so does -1.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        hidden = visible.strip() in ("", "-1")
        return "" if hidden else f"CUDA_VISIBLE_DEVICES is {visible}"
    found = sorted(path for folder, name in NODES for path in Path(folder).glob(name))
    return f"a GPU is here ({found[0]})" if found else ""


def _driver() -> str:
    try:
        version = re.search(r"\d+\.\d+(\.\d+)?", DRIVER.read_text(errors="replace"))
    except OSError:
        version = None
    return f"the driver is {version[0]}" if version else "no driver of NVIDIA's is loaded"
