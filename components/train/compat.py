"""Make fairseq 0.12.2 run on Python 3.11 and 3.12 with torch 2.6 and later, unchanged.

    python -m components.train.compat fairseq-validate DATA --path CHECKPOINT ...

runs one of fairseq's own commands this way. What stands in the way, and what is done about it:

- Python 3.11 refuses dataclass defaults that cannot be hashed, and fairseq's configs use instances
  of other configs as defaults. They are made hashable while fairseq is imported.
- torch.load has read with `weights_only=True` since 2.6, and fairseq's checkpoints hold a few plain
  types besides tensors. Exactly these are allowed (`components.train.checkpoints.SAFE_TYPES`).
- fairseq configures the root logger when it is imported. That is undone.
- torch and hydra warn of things that only fairseq could change. These warnings, and no others, are
  silenced.
"""

import contextlib
import dataclasses
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
    """Within the block, silence fairseq's notes and the warnings that only it could mend."""
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
    with _hashable_configs(), _untouched_root_logger(), quiet():
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


def prepare_process() -> None:
    """Make this process one that runs fairseq and nothing else: applies to all that follows."""
    from components.train import checkpoints

    _ignore_noise()
    checkpoints.allow_safe_types()


def command(name: str) -> Callable[[], None]:
    """The entry point of one of fairseq's commands; it reads its arguments from `sys.argv`."""
    module = import_fairseq(COMMANDS[name])
    # fairseq_cli set up the root logger when it was imported, and that was undone.
    logging.basicConfig(
        format="%(asctime)s | %(levelname)s | %(name)s | %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
        force=True,
    )
    entry: Callable[[], None] = module.cli_main
    return entry


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in COMMANDS:
        raise ConfigError(
            f"compat: expected one of {', '.join(COMMANDS)}",
            mend="Its own arguments follow, as in: fairseq-validate DATA --path CHECKPOINT",
        )
    prepare_process()
    sys.argv = arguments
    command(arguments[0])()


if __name__ == "__main__":
    raise SystemExit(run_step(main))
