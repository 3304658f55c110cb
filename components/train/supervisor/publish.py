"""Write a checkpoint's model alone, in 16 bits: what others need of it, and no more.

python -m components.train.supervisor.publish runs/model/checkpoint_best.pt runs/model/model.pt
"""

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.cli import run_step
from components.common.errors import OutputError
from components.common.files import atomic_file, scratch_folder
from components.common.results.metrics import METRICS
from components.train import checkpoints
from components.train.config import TrainConfig
from components.train.rank import hooks
from components.train.supervisor.provenance import Provenance

logger = logging.getLogger(__name__)

# What fairseq reads when it loads a model to use or to fine-tune it.
_KEPT = ("args", "cfg", "optimizer_history", "extra_state")


def publish(checkpoint: Path, output: Path, *, half: bool = True) -> int:
    """Write the model of a checkpoint, its settings and the count of its updates.

    fairseq-validate loads the result, and fairseq-train continues from it with a new optimizer.

    Args:
        half: round the weights to float16, which is what training in fp16 computes with anyway.

    Returns:
        The size of the file in bytes.

    Raises:
        DataError: the checkpoint is missing, damaged or not safe to read.
        OSError: `output` cannot be written.
    """
    import torch

    state = checkpoints.load(checkpoint)
    halves: dict[tuple[int, tuple[int, ...]], Any] = {}
    model = {}
    for name, value in state["model"].items():
        # Tensors that share their memory still do afterwards.
        place = (value.data_ptr(), tuple(value.shape))
        if place not in halves:
            halves[place] = value.half() if half and value.is_floating_point() else value.clone()
        model[name] = halves[place]
    published = {key: state[key] for key in _KEPT if key in state}
    published.get("extra_state", {}).pop(hooks.EXACT, None)
    with atomic_file(output) as partial:
        torch.save({**published, "model": model, "last_optimizer_state": None}, partial)
    return output.stat().st_size


def require_free(uri: str, origin: Provenance) -> None:
    """Refuse an address that has another run's model, before the work; "" is none.

    An earlier attempt at the same run may have got as far as publishing.

    Raises:
        OutputError: another artifact is there.
        ConfigError, DataError, TransferError: as storage's `find` raises them.
    """
    if not uri:
        return
    from components.common import storage  # boto3 takes a while to import

    found = storage.find(uri)
    if found and found.manifest.producer.get("identity") != origin.identity:
        raise OutputError(
            f"{found.address}: another artifact has been published here",
            hint="Give another publish_uri, or remove what is there first",
        )


def publish_output(config: TrainConfig, origin: Provenance) -> None:
    """Publish model.pt, the best one alone, with the metrics, log and report, at `publish_uri`.

    Raises:
        TransferError, OSError: as storage's `publish` raises them. `output` is complete then.
    """
    from components.common import storage

    output = config.output.absolute()
    with scratch_folder(output.parent) as scratch:
        folder = scratch / "model"
        folder.mkdir()
        half = config.precision == "fp16"
        publish(output / "checkpoint_best.pt", folder / "model.pt", half=half)
        for name in (METRICS, "train_log.jsonl", "report.html", "vocabulary.json"):
            shutil.copyfile(output / name, folder / name)
        producer = {**origin.producer, "identity": origin.identity}
        # What an earlier attempt published is replaced: it is the same but for the times in it.
        published = storage.publish(
            folder, config.publish_uri, producer=producer, inputs=origin.inputs, overwrite=True
        )
    logger.info("published %s: %.1f MiB", published.address, published.manifest.size / 2**20)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.train.supervisor.publish", description=__doc__
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint that train wrote")
    parser.add_argument("output", type=Path, help="the file to write")
    arguments = parser.parse_args(argv)
    size = publish(arguments.checkpoint, arguments.output)
    print(f"{arguments.output}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    raise SystemExit(run_step(main))
