"""Make fairseq 0.12.2 run on Python 3.11 and 3.12 with torch 2.6 and later, unchanged.

    python -m components.train.compat fairseq-validate DATA --path CHECKPOINT ...

runs one of fairseq's own commands this way. What stands in the way, and what is done about it:

- Python 3.11 refuses dataclass defaults that cannot be hashed, and fairseq's configs use instances
  of other configs as defaults. They are made hashable while fairseq is imported.
- torch.load has read with `weights_only=True` since 2.6, and fairseq's checkpoints hold a few plain
  types besides tensors. Exactly these are allowed (`components.train.checkpoints.SAFE_TYPES`).
- fairseq configures the root logger when it is imported. That is undone.
- It imports tensorboardX, which imports the clients of two object stores where they are installed,
  for half a second of each start. TensorBoard's files go to folders only.
- torch and hydra warn of things that only fairseq could change. These warnings, and no others, are
  silenced.
"""

import contextlib
import dataclasses
import gc
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from components.common.cli import run_step
from components.common.errors import ConfigError

COMMANDS = {
    "fairseq-preprocess": "fairseq_cli.preprocess",
    "fairseq-train": "fairseq_cli.train",
    "fairseq-validate": "fairseq_cli.validate",
}

STORE_CLIENTS = ("boto3", "google.cloud.storage")

# (start of the message, category): all are about code inside fairseq, or its calls into others.
_NOISE: tuple[tuple[str, type[Warning]], ...] = (
    (r"`torch\.jit\.script` is deprecated", DeprecationWarning),
    (r"`torch\.cuda\.amp\.autocast", FutureWarning),
    (r"hydra\.experimental\.\w+\(\) is no longer experimental", UserWarning),
    (r"\s*The version_base parameter is not specified", UserWarning),
    (r"\s*'config' is validated against ConfigStore schema", UserWarning),
    (r"In 'config': Usage of deprecated keyword in package header", UserWarning),
    (r"\s*The strict flag in the compose API is deprecated", UserWarning),
    (r"'pin_memory' argument is set as true but no accelerator is found", UserWarning),
    (r"The PyTorch API of nested tensors is in prototype stage", UserWarning),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block, silence fairseq's notes and the warnings that only it could act on."""
    logger = logging.getLogger("fairseq")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            _ignore_noise()
            yield
    finally:
        logger.setLevel(level)


def _ignore_noise() -> None:
    for message, category in _NOISE:
        warnings.filterwarnings("ignore", message=message, category=category)


def import_fairseq(module: str = "fairseq") -> Any:
    """fairseq or one of its modules, imported so that it works; `dataclasses` stays as it was."""
    with _hashable_configs(), _untouched_root_logger(), _without(STORE_CLIENTS), quiet():
        importlib.import_module("fairseq")
        return importlib.import_module(module)


@contextlib.contextmanager
def _hashable_configs() -> Iterator[None]:
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(decorated: type) -> type:
            if decorated.__module__.partition(".")[0] == "fairseq":
                options.setdefault("unsafe_hash", True)
            made: type = original(**options)(decorated)
            return made

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextlib.contextmanager
def _without(modules: Sequence[str]) -> Iterator[None]:
    """Within the block, modules that were not imported before cannot be."""
    absent = dict.fromkeys(name for name in modules if name not in sys.modules)
    sys.modules.update(absent)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def _untouched_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.INFO)  # fairseq recommends packages that have no use here
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def run(name: str, arguments: Sequence[str], prepare: Callable[[], None] | None = None) -> None:
    """Run one of fairseq's commands in this process, which is good for nothing else afterwards.

    Ranks, benchmarks and the command line of this module all start fairseq by this.

    Args:
        name: one of `COMMANDS`.
        arguments: the command's own.
        prepare: called by fairseq-train before it trains, when its plugin is imported too: to wrap
            functions of theirs.
    """
    import torch

    from components.train.checkpoints import SAFE_TYPES

    _ignore_noise()
    torch.serialization.add_safe_globals(SAFE_TYPES)
    module = import_fairseq(COMMANDS[name])
    gc.freeze()  # what was imported stays, and is not looked at again
    gc.enable()  # a rank has turned it off until here
    # fairseq_cli set up the root logger when it was imported, and that was undone.
    logging.basicConfig(
        format="%(asctime)s | %(levelname)s | %(name)s | %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
        force=True,
    )
    sys.argv = [name, *arguments]
    if name == "fairseq-train":
        _train(module, prepare)
    else:
        module.cli_main()


def _train(module: Any, prepare: Callable[[], None] | None) -> None:
    """As fairseq_cli.train.cli_main does, but for what is said here."""
    import torch
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.distributed import utils as distributed

    from components.train.rank import hooks

    # A CRC-32 of every tensor would take a good part of the time in which training waits for a
    # checkpoint. Nothing reads it: torch.load does not, and storage has digests of its own.
    torch.serialization.set_crc32_options(False)
    args = options.parse_args_and_arch(options.get_training_parser())
    args.tpu = False  # which --bf16 means to fairseq
    hooks.check_checkpoints()
    hooks.link_checkpoints()
    if prepare:
        prepare()
    distributed.call_main(convert_namespace_to_omegaconf(args), module.main)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in COMMANDS:
        raise ConfigError(
            f"compat: expected one of {', '.join(COMMANDS)}",
            hint="Its own arguments follow, as in: fairseq-validate DATA --path CHECKPOINT",
        )
    run(arguments[0], arguments[1:])


if __name__ == "__main__":
    raise SystemExit(run_step(main))
