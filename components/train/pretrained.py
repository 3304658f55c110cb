"""The pretrained model as fairseq's checkpoint, whichever form it has come in."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from components.common import hub
from components.common.dataset import copy_origin
from components.common.errors import DataError
from components.common.files import scratch_folder
from components.common.processes import python, running


@contextlib.contextmanager
def as_fairseq(pretrained: Path) -> Iterator[Path]:
    """`pretrained`, or where that is a Hugging Face model's folder, what components.import_ makes.

    That is done by a process of its own: this one stays without torch and the weights.

    Raises:
        DataError: it cannot be imported.
        OSError: the folder for temporary files is full.
    """
    if not (pretrained / hub.SETTINGS).is_file() or any(pretrained.rglob("model.pt")):
        yield pretrained
        return
    with scratch_folder() as scratch:
        made = scratch / "pretrained"
        command = python("components.import_", f"--source={pretrained}", f"--output={made}")
        with running(command, grace=10.0, stderr=subprocess.PIPE) as process:
            said = process.communicate()[1].decode(errors="replace").strip()
        if process.returncode:
            why = said.splitlines()[-1:] or [f"exit status {process.returncode}"]
            raise DataError(
                f"{pretrained}: cannot be imported: {why[0].removeprefix('error: ')}",
                hint=f"Try by itself: python -m components.import_ --source {pretrained}",
            )
        copy_origin(pretrained, made)
        yield made
