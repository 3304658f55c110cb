"""Where a checkpoint or a model comes from: what is written into its manifest."""

import functools
import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from components.common.files import sha256_of
from components.common.manifest import Manifest, Scalar, made_by
from components.common.results.metrics import FORMER
from components.common.vocabulary import Vocabulary
from components.train.config import Plan, TrainConfig, as_dict
from components.train.flags import OURS

# Parameters that may differ when a run goes on: they do not change what an update does.
FREE = {
    "data",  # its digest may not
    "pretrained",  # likewise
    "output",
    "epochs",
    "max_updates",
    *OURS,
    "stop_collapsed_after",
    "stop_overflows",
    "num_workers",
    "device",
    "num_nodes",  # counted in the split
    "processes",  # likewise
}
# Checkpoints of 0.1.0 lack their digests.
VOCABULARY = {"encoder.json", "vocab.bpe", "dict.txt"}


@dataclass(frozen=True)
class Provenance:
    """`producer` says by what something was made, `inputs` from what, as a manifest holds them.

    Args:
        read: gives `inputs`, when they are first asked for: a run that publishes nothing does not
            wait for the digest of a large checkpoint.
    """

    producer: dict[str, Scalar]
    read: Callable[[], dict[str, Scalar]]

    @functools.cached_property
    def inputs(self) -> dict[str, Scalar]:
        return self.read()

    def differences(self, manifest: Manifest) -> list[str]:
        """What a checkpoint was made with and from that this run could not go on with."""
        today = {f"parameters.{former}": f"parameters.{name}" for former, name in FORMER.items()}
        producer = {today.get(name, name): value for name, value in manifest.producer.items()}
        found = [
            f"{name} is {value}, the checkpoint's is {theirs.get(name, 'not known')}"
            for ours, theirs in ((self._fixed(), producer), (self.inputs, manifest.inputs))
            for name, value in ours.items()
            if theirs.get(name, value if name in VOCABULARY else None) != value
        ]
        return [text.replace("parameters.", "") for text in found]

    @property
    def common(self) -> dict[str, Scalar]:
        """What all nodes of a training have to have in common; where it lies may differ."""
        paths = {"parameters.data", "parameters.pretrained", "parameters.output"}
        own = paths | {"revision", "image"}
        everything = {**self.producer, **{f"the {k}": v for k, v in self.inputs.items()}}
        return {name: value for name, value in everything.items() if name not in own}

    def _fixed(self) -> dict[str, Scalar]:
        return {
            name: value
            for name, value in self.producer.items()
            if name.startswith("split.")
            or (name.startswith("parameters.") and name.partition(".")[2] not in FREE)
        }


def provenance(
    config: TrainConfig, plan: Plan, pretrained: Path, vocabulary: Vocabulary
) -> Provenance:
    """Of a run; `inputs` reads the whole data set and the pretrained checkpoint once.

    Args:
        vocabulary: of the data.
    """
    producer: dict[str, Scalar] = {
        **made_by("train", as_dict(config)),
        "code_sha256": _digest(Path(__file__).parents[2], "**/*.py"),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "fairseq", "numpy")},
        "split.processes": plan.ranks,
        "split.update_freq": plan.update_freq,
    }

    def inputs() -> dict[str, Scalar]:
        data = _digest(config.data, "input*/*", "label/*")
        return {"data": data, "pretrained": sha256_of(pretrained), **vocabulary.digests}

    return Provenance(producer, inputs)


def _digest(folder: Path, *patterns: str) -> str:
    """One sha256 (hex) for the names and contents of files below a folder."""
    total = hashlib.sha256()
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        total.update(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()
