"""Command lines made from config dataclasses, and the one place where a step's error is shown.

A step declares its parameters once, as a frozen dataclass:

    @dataclass(frozen=True)
    class PreprocessConfig:
        race: Path = option(help="folder that holds RACE's train, dev and test")
        invalid: Literal["stop", "skip"] = option("stop", help="what to do with an invalid file")

and gets `--race` (required) and `--invalid {stop,skip}` with types, defaults and help.
"""

import argparse
import contextlib
import copy
import dataclasses
import datetime
import errno
import logging
import math
import os
import shutil
import signal
import socket
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from components.common import streams, strict_json
from components.common.disk import no_space
from components.common.errors import ConfigError, OutputError, RaceError, TransferError, one_line
from components.common.progress import LogHandler

Config = TypeVar("Config")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    metavar: str | None = None,
    least: float = 0,
    below: float = math.inf,
) -> Any:
    """A dataclass field that is a command-line option too; without a default it is required.

    Args:
        least, below: the range of a number (or of several), which `require_ranges` checks.
    """
    about = {"help": help, "metavar": metavar, "least": least, "below": below}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=about)
    return dataclasses.field(default=default, metadata=about)


def require_ranges(config: Any) -> None:
    """Check the numbers of a config dataclass against the ranges of its options.

    Raises:
        ConfigError: one is out of its range, or not finite.
    """
    for f in (f for f in dataclasses.fields(config) if f.metadata):
        least, below = f.metadata["least"], f.metadata["below"]
        value = getattr(config, f.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int | float) and not least <= one < below:
                limit = "" if below == math.inf else f" and below {below:g}"
                raise ConfigError(
                    f"{f.name} is {one}", hint=f"It must be at least {least:g}{limit}"
                )


@dataclasses.dataclass(frozen=True)
class Option:
    """One parameter of a step, as parsers, tables and the pipeline see it."""

    name: str
    type: type
    default: Any  # dataclasses.MISSING where required
    choices: tuple[Any, ...] | None
    repeated: bool
    help: str
    metavar: str | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_path(self) -> bool:
        return self.type is Path

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    def check(self, value: Any, name: str = "") -> Any:
        """`value`, as JSON or YAML has it, in the parameter's own type.

        Raises:
            ConfigError: it is of another type, or not one of the choices; it calls the parameter
                `name`.
        """
        name = name or self.name
        if self.repeated and type(value) is list:
            return [dataclasses.replace(self, repeated=False).check(one, name) for one in value]
        if self.type is float and type(value) is int:
            value = float(value)
        elif self.type is int and type(value) is float and value.is_integer():
            value = int(value)  # KFP knows one kind of number
        infinite = type(value) is float and not math.isfinite(value)
        if self.repeated or type(value) is not self.type or infinite:
            expected = "a JSON list, such as '[]'" if self.repeated else _EXPECTED[self.type]
            raise ConfigError(f"parameter {name}: expected {expected}, got {value!r:.60}")
        if type(value) is str and "\0" in value:
            raise ConfigError(f"parameter {name}: a null character in {value!r:.60}")
        if self.choices and value not in self.choices:
            choices = ", ".join(map(repr, self.choices))
            raise ConfigError(f"parameter {name}: {value!r:.60} is none of {choices}")
        return value

    def spelled(self, value: Any) -> list[str]:
        """The arguments of a command line that give the parameter this value.

        One for each value, `--name=value`: no value is taken for another flag.
        """
        if self.repeated:
            return [f"{self.flag}={one}" for one in value]
        if self.type is bool:
            return [self.flag if value else self.flag.replace("--", "--no-", 1)]
        if self.type in (list, dict):
            value = strict_json.dumps(value)
        return [] if value is None else [f"{self.flag}={value}"]


_EXPECTED = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a JSON list, such as '[]'",
    dict: """a JSON object, such as '{"pool": "a100"}'""",
}


def _argument(kind: type) -> Callable[[str], Any]:
    """What reads a parameter of this type from a command line."""
    if kind not in (list, dict):
        return kind

    def read(text: str) -> Any:
        value = strict_json.loads(text)
        if type(value) is not kind:
            raise ValueError
        return value

    read.__name__ = f"JSON {kind.__name__}"  # argparse: invalid JSON list value
    return read


def options(config_class: type) -> list[Option]:
    """The parameters of a config dataclass, in the order of its fields.

    Field types: str, int, float, bool, Path, list and dict (spelled as JSON), a Literal of strings,
    tuple[T, ...] for a flag that may be repeated and have several values, or T | None. Fields that
    were not made with `option` are left out.
    """
    hints = typing.get_type_hints(config_class)
    found = []
    for f in dataclasses.fields(config_class):
        if "help" not in f.metadata:
            continue
        hint, choices, repeated = hints[f.name], None, False
        if typing.get_origin(hint) is types.UnionType:
            (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
        if typing.get_origin(hint) is tuple:
            hint, repeated = typing.get_args(hint)[0], True
        if typing.get_origin(hint) in (list, dict):
            hint = typing.get_origin(hint)
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            hint = type(choices[0])
        found.append(
            Option(
                name=f.name,
                type=hint,
                default=f.default
                if f.default_factory is dataclasses.MISSING
                else f.default_factory(),
                choices=choices,
                repeated=repeated,
                help=f.metadata["help"],
                metavar=f.metadata["metavar"],
            )
        )
    return found


class Parser(argparse.ArgumentParser):
    """Wrong arguments are a ConfigError like any other wrong parameter, not a usage dump."""

    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(f"{self.prog}: {message}", hint=f"See {self.prog} --help")


def parser(
    config_class: type, *, prog: str, description: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """An ArgumentParser with a flag for each parameter of `config_class`."""
    result = Parser(
        prog=prog,
        description=textwrap.dedent(description).strip(),
        epilog=textwrap.dedent(epilog).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(result, config_class)
    add_log_format(result)
    return result


class _UseLogFormat(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        use_log_format(values)


def add_log_format(arguments: argparse.ArgumentParser) -> None:
    """Give a parser `--log-format`, which holds from where it is read."""
    arguments.add_argument(
        "--log-format",
        action=_UseLogFormat,
        choices=LOG_FORMATS,
        default=log_format(),
        help="lines on stderr for people, or one JSON object a line for machines"
        f" (default: ${LOG_FORMAT_VARIABLE}, else text)",
    )


_METAVARS: dict[type, str] = {Path: "PATH", int: "N", float: "X", list: "JSON", dict: "JSON"}


def add_options(
    arguments: argparse.ArgumentParser, config_class: type, *, positional: str = ""
) -> None:
    """Give a parser a flag for each parameter of `config_class`, or no flag for one of them."""
    for o in options(config_class):
        if o.name == positional:
            arguments.add_argument(o.name, type=o.type, metavar=o.name.upper(), help=o.help)
            continue
        kind: dict[str, Any] = {"dest": o.name, "required": o.required, "help": o.help}
        if o.repeated:
            kind["help"] += "; may be repeated"
        if not o.required:
            kind["default"] = o.default
            shown = " ".join(map(str, o.default)) if o.repeated else str(o.default)
            if o.type is bool:
                shown = "on" if o.default else "off"
            if o.default is None:
                shown = ""
            kind["help"] += f" (default: {shown or 'none'})"
        kind["help"] = kind["help"].replace("%", "%%")
        if o.type is bool:
            kind["action"] = argparse.BooleanOptionalAction
        else:
            kind["type"] = _argument(o.type)
            kind["choices"] = o.choices
            if o.choices is None:
                kind["metavar"] = o.metavar or _METAVARS.get(o.type, "TEXT")
            if o.repeated:
                kind["action"], kind["nargs"] = "extend", "+"
                # argparse adds to the default, which would make it impossible to replace.
                kind["default"] = None
        arguments.add_argument(o.flag, **kind)


def config_of(config_class: type[Config], arguments: argparse.Namespace) -> Config:
    """The validated config for what a parser with the flags of `config_class` has read.

    Raises:
        ConfigError: a value is refused by the config.
    """
    values: dict[str, Any] = {}
    for o in options(config_class):
        given = getattr(arguments, o.name)
        if o.repeated:
            given = tuple(given) if given is not None else o.default
        values[o.name] = given
    return config_class(**values)


def with_paths(config: Config, **paths: Any) -> Config:
    """The same config with other paths, of which its checks know nothing: it is not built again."""
    changed = copy.copy(config)
    for name, path in paths.items():
        object.__setattr__(changed, name, path)
    return changed


def arguments_of(config: Any, **given: str) -> list[str]:
    """A command line that makes this config; what is `given` replaces its own values."""
    found: list[str] = []
    for o in options(type(config)):
        found += o.spelled(given.get(o.name, getattr(config, o.name)))
    return found


def run_step(
    main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None
) -> int:
    """Run a step's main, and turn whatever it raises into one line and an exit status.

    A defect of ours still shows its traceback: hiding it would help nobody.
    """
    streams.make_usable()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[LogHandler()])
    for library in ("boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)  # they tell of every connection
    # A pod is ended with SIGTERM: unwinding like Ctrl-C lets every half-made output be removed.
    before = signal.signal(signal.SIGTERM, _terminate)
    variable = os.environ.get(LOG_FORMAT_VARIABLE)
    try:
        use_log_format(log_format())
        _require_text(sys.argv[1:] if argv is None else argv)
        main(argv)
        sys.stdout.flush()  # here a broken pipe is still ours to handle
    except RaceError as error:
        show_error(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        show_error("interrupted")
        return 130
    except Terminated:
        show_error("terminated by SIGTERM")
        return 143
    except BrokenPipeError:
        return 141  # the reader of our output went away (`| head`): not an error worth a word
    except (OSError, UnicodeEncodeError) as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        show_error(str(explained))
        return explained.exit_status
    finally:
        streams.drop_unwritable()
        signal.signal(signal.SIGTERM, before)
        os.environ.pop(LOG_FORMAT_VARIABLE, None)
        if variable is not None:
            os.environ[LOG_FORMAT_VARIABLE] = variable
    return 0


def _require_text(argv: Sequence[str]) -> None:
    for word in argv:
        if any(map(_is_surrogate, word)):
            # Such a path could be used, but neither shown nor noted in a report.
            raise ConfigError(
                f"{word!a} is not text in {sys.getfilesystemencoding()}",
                hint="Rename what is called so",
            )


class Terminated(BaseException):
    """SIGTERM was received: raised where the program is, so that it unwinds."""


def _terminate(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not stop the cleaning up
    raise Terminated


_PLAIN = "Give a plain file or folder"
_MEMORY = "Free memory, or let this user have more processes (ulimit -u)"
_HINTS = {
    errno.EFBIG: "Choose an output folder on a file system that takes larger files",
    errno.EIO: "Check the disk, or choose another output folder",
    errno.EACCES: "Choose a path that this user may use, or change its permissions",
    errno.EPERM: "Choose a path that this user may use, or change its permissions",
    errno.EROFS: "Choose a path on a file system that is mounted writable",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.ENAMETOOLONG: "Check the path",
    errno.ELOOP: "Check the path",
    errno.EISDIR: "Check the path",
    errno.ENOTEMPTY: "Choose a new output path, or remove this one first",
    errno.EEXIST: "Choose a new output path, or remove this one first",
    errno.EMFILE: "Let this process open more files (ulimit -n)",
    errno.ENFILE: "Let this machine open more files (sysctl fs.file-max)",
    errno.EAGAIN: _MEMORY,
    errno.ENOMEM: _MEMORY,
    errno.ENXIO: _PLAIN,
    errno.ENODEV: _PLAIN,
    errno.ETXTBSY: "End the program that is running from it",
    errno.ESTALE: "Mount the network file system again",
}


def explain_os_error(error: OSError | UnicodeEncodeError) -> RaceError | None:
    """The user's error for what the operating system refused; None for a defect of ours."""
    if isinstance(error, UnicodeEncodeError):
        if not _is_surrogate(error.object[error.start]):
            return None
        return OutputError(f"{error.object[:200]!a} is not text", hint="Rename what is called so")
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of copies that failed
        source, _, why = error.args[0][0][:3]
        return OutputError(f"{source}: {why}", hint=_HINT)
    if isinstance(error, shutil.SpecialFileError):
        return OutputError(str(error), hint=_PLAIN)
    if isinstance(error, shutil.Error):  # of a move
        return OutputError(str(error), hint=_HINT)
    if error.errno is None:
        return None
    if full := no_space(error):
        return full
    where = f"{error.filename}: " if error.filename else ""
    # The numbers of failed look-ups of hosts are negative, and others.
    why = os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return TransferError(f"{where}{why.lower()}", hint="Check the address and the network")
    return OutputError(f"{where}{why.lower()}", hint=_HINTS.get(error.errno, _HINT))


_HINT = "Check the path, the disk, and what this user may use (ulimit -a)"


def _is_surrogate(character: str) -> bool:
    """Whether it stands for a byte that is no text, as in names of files."""
    return "\ud800" <= character <= "\udfff"


def show_error(line: str) -> None:
    line = one_line(line)
    shown = json_line("ERROR", line)
    if log_format() != "json":
        color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        shown = f"\x1b[1;31merror:\x1b[0m {line}" if color else f"error: {line}"
    with contextlib.suppress(OSError):  # its reader went away, or the disk below it is full
        print(shown, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), TERMINATION_LOG.open("r+b") as file:
        file.write(line.encode()[:TERMINATION_BYTES].decode(errors="ignore").encode())


# What a container leaves here is in its pod's status, and in Argo's and Trainer's messages: more
# than its exit status, and there when its log is gone. Only Kubernetes makes the file.
TERMINATION_LOG, TERMINATION_BYTES = Path("/dev/termination-log"), 4096

LOG_FORMATS = ("text", "json")
LOG_FORMAT_VARIABLE = "RACE_LOG_FORMAT"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json_line(record.levelname, record.getMessage(), record.name)


def json_line(level: str, message: str, logger: str = "") -> str:
    """What `--log-format json` writes for a line: time (ISO 8601, UTC), level, message, logger."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "message": message}
    return strict_json.dumps(line | ({"logger": logger} if logger else {}))


def use_log_format(name: str) -> None:
    """Write log lines and errors as text or as JSON from here on, in child processes too.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in LOG_FORMATS:
        raise ConfigError(
            f"{LOG_FORMAT_VARIABLE} is {name!r}", hint=f"Use {' or '.join(LOG_FORMATS)}"
        )
    os.environ[LOG_FORMAT_VARIABLE] = name
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.setFormatter(
                _JsonFormatter() if name == "json" else logging.Formatter("%(message)s")
            )


def log_format() -> str:
    """The format in use: text or json."""
    return os.environ.get(LOG_FORMAT_VARIABLE) or "text"
