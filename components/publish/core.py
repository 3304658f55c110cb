"""The end of a pipeline: the model that the gate let pass, where people take it from.

What is published is what export writes. In object storage each run has an artifact of its own,
which is there whole or not at all (components.common.storage); on the hub each is a commit, with
the run's id as its tag. Neither takes the place of another.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from components.common import hub, storage
from components.common.cli import option
from components.common.executor import Outcome
from components.common.files import scratch_folder
from components.common.manifest import made_by
from components.common.storage.store import require_supported
from components.common.vocabulary import read_vocabulary
from components.evaluate.trained import BPE_HELP, MODEL_HELP, Trained, as_run, find_trained
from components.export.core import export_trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishConfig:
    """What is published, and where.

    Raises:
        ConfigError: nothing can be published there.
    """

    model: Path = option(help=MODEL_HELP)
    bpe: Path | None = option(None, help=BPE_HELP)
    evaluation: Path | None = option(
        None, help="folder that evaluate or select wrote; a run's folder has its own"
    )
    publish_uri: str = option(
        "",
        help="where the model goes that the gate let pass: an s3:// address or a folder, below"
        " which a pipeline adds the run's id, or hf://OWNER/NAME, where that is a tag. Empty:"
        " nowhere",
    )
    run_id: str = option("", help="what a pipeline adds to publish_uri")

    def __post_init__(self) -> None:
        if self.publish_uri.startswith(hub.SCHEME):
            hub.require_unchosen(
                f"publish_uri: {self.publish_uri}",
                hub.parse(self.publish_uri, dataset=False),
                "Leave it out; each run becomes a tag",
            )
        else:
            require_supported("publish_uri", self.publish_uri)


@dataclass(frozen=True)
class Published:
    """`address` is where it is, "" where nothing was asked for; --model takes it."""

    address: str = ""
    bytes: int = 0

    @property
    def outcome(self) -> Outcome:
        return Outcome({"bytes": self.bytes})


def publish(config: PublishConfig) -> Published:
    """Publish a model; the same again is a success, and changes nothing.

    The weights have 16 bits where it was trained in fp16, and 32 otherwise.

    Raises:
        ConfigError, DataError, OSError: as `export` raises them.
        OutputError: something else was published under this name before.
        DataError, TransferError: the hub or the store refuses, or cannot be reached; nothing that
            a reader would see is there then.
    """
    if not config.publish_uri:
        logger.info("nothing is published: publish_uri is empty")
        return Published()
    with as_run(config.model) as model, scratch_folder() as scratch:
        trained = find_trained(model, config.bpe, config.evaluation)
        half = trained.training.parameters.get("precision") == "fp16"
        folder = scratch / "model"
        export_trained(trained, folder, "fp16" if half else "fp32")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        address = _put(folder, config, trained)
    logger.info("published %s: %.1f MiB", address, size / 2**20)
    return Published(address, size)


def _put(folder: Path, config: PublishConfig, trained: Trained) -> str:
    if config.publish_uri.startswith(hub.SCHEME):
        return str(hub.upload(folder, hub.parse(config.publish_uri), config.run_id))
    uri = "/".join(filter(None, (config.publish_uri.rstrip("/"), config.run_id)))
    producer = made_by("publish", trained.training.parameters)
    inputs = read_vocabulary(folder).digests
    done = storage.publish(folder, uri, producer=producer, inputs=inputs)
    # Here --model takes the files' own folder, as it takes any.
    return done.address if "://" in done.address else f"{done.address}/{done.manifest.folder}"
