"""Parts for a test of the runner."""

import os
import resource
import time
from typing import Any

from benchmarks.gpu.setting import Setting


def works(setting: Setting) -> dict[str, Any]:
    return {"value": 1}


def fails(setting: Setting) -> dict[str, Any]:
    setting.tell(half=0.5)
    raise ValueError("a number is off")


def hangs(setting: Setting) -> dict[str, Any]:
    setting.tell(half=0.5)
    if not os.fork():  # what it started is to end with it
        time.sleep(600)
    time.sleep(600)
    return {}


def is_full(setting: Setting) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return {"value": len(bytearray(1 << 31))}


def is_killed(setting: Setting) -> dict[str, Any]:
    """As the kernel does it when there is no memory left."""
    os.kill(os.getpid(), 9)
    return {}


def works_later(setting: Setting) -> dict[str, Any]:
    """Fails the first time."""
    before = setting.work / "before"
    if not before.exists():
        before.touch()
        raise ValueError("not yet")
    return {"value": 2}
