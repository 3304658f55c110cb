"""What command lines promise: flags from a dataclass, and one line for whatever goes wrong."""

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from components.common import cli
from components.common.cli import (
    config_of,
    option,
    options,
    parser,
    require_ranges,
    run_step,
)
from components.common.disk import no_space
from components.common.errors import ConfigError, DataError, GateError, TransferError


@dataclass(frozen=True)
class Config:
    race: Path = option(help="a folder")
    invalid: Literal["stop", "skip"] = option("stop", help="what to do")
    learning_rate: float = option(1e-5, help="100% of it", metavar="RATE")
    epochs: int = option(5, least=0, help="how often")
    unpack: bool = option(False, help="unpack it")
    url: tuple[str, ...] = option((), help="an address")
    size: tuple[int, ...] = option((1, 2), least=1, below=9, help="sizes")
    inner: int = field(default=0)

    def __post_init__(self) -> None:
        require_ranges(self)


@pytest.mark.parametrize("value", ["x" * 5000, [["x"]] * 5000])
def test_of_a_long_value_the_refusal_shows_the_beginning(value: object) -> None:
    (choice,) = (o for o in options(Config) if o.name == "invalid")
    with pytest.raises(ConfigError, match="parameter invalid: ") as error:
        choice.check(value)
    assert len(str(error.value)) < 200


def parsed(*argv: str) -> Config:
    return config_of(Config, parser(Config, prog="step", description="A step.").parse_args(argv))


def test_the_defaults_are_the_dataclass_s() -> None:
    assert parsed("--race", "a") == Config(Path("a"))


def test_every_flag_reaches_its_field() -> None:
    argv = (
        "--race a --invalid skip --learning-rate 0.5 --epochs 7 --unpack --url x --url y --size 3"
    )
    assert parsed(*argv.split()) == Config(Path("a"), "skip", 0.5, 7, True, ("x", "y"), (3,))
    assert not parsed("--race", "a", "--unpack", "--no-unpack").unpack


def test_a_repeated_flag_may_have_several_values_at_once() -> None:
    argv = "--race a --url x y --size 3 --url z"
    assert parsed(*argv.split()) == Config(Path("a"), url=("x", "y", "z"), size=(3,))


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "--race"),
        (["--race", "a", "--epochs", "x"], "--epochs"),
        (["--race", "a", "--invalid", "x"], "choose from"),
        (["--race", "a", "--inner", "1"], "--inner"),
        (["--race", "a", "--epoch", "1"], "--epoch"),
        (["--race", "a", "--epochs", "-1"], "epochs is -1. It must be at least 0"),
        (["--race", "a", "--size", "3", "9"], "size is 9. It must be at least 1 and below 9"),
        (["--race", "a", "extra"], "extra"),
    ],
)
def test_a_wrong_argument_is_a_config_error(argv: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as failure:
        parsed(*argv)
    assert part in str(failure.value)


def test_help_gives_defaults_and_choices() -> None:
    text = " ".join(parser(Config, prog="step", description="A step.").format_help().split())
    for part in (
        "--race PATH a folder",
        "--invalid {stop,skip} what to do (default: stop)",
        "--learning-rate RATE 100% of it (default: 1e-05)",
        "unpack it (default: off)",
        "an address; may be repeated (default: none)",
        "sizes; may be repeated (default: 1 2)",
    ):
        assert part in text


def test_options_tell_of_each_field_made_with_option() -> None:
    found = {o.name: o for o in options(Config)}
    assert "inner" not in found
    assert (found["race"].type, found["race"].required) == (Path, True)
    assert found["race"].default is MISSING
    assert found["invalid"].choices == ("stop", "skip")
    assert (found["size"].type, found["size"].repeated) == (int, True)
    assert found["learning_rate"].flag == "--learning-rate"


def surrogates() -> UnicodeEncodeError:
    try:
        os.fsdecode(b"/a\xff").encode()
    except UnicodeEncodeError as error:
        return error
    raise AssertionError


def step_that(raised: BaseException | None) -> int:
    def main(argv: Sequence[str] | None) -> None:
        if raised:
            raise raised

    return run_step(main, [])


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (None, 0, ""),
        (ConfigError("what", hint="Change it"), 2, "error: what. Change it\n"),
        (DataError("a\nb"), 3, "error: a b\n"),
        (TransferError("what"), 4, "error: what\n"),
        (GateError("what"), 7, "error: what\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            OSError(errno.ENOSPC, "x", "/out"),
            5,
            f"error: {no_space(OSError(errno.ENOSPC, 'x', '/out'))}\n",
        ),
        (
            PermissionError(errno.EACCES, "x", "/a\x1b[31m"),
            5,
            "error: /a\\x1b[31m: permission denied. "
            "Choose a path that this user may use, or change its permissions\n",
        ),
    ],
)
def test_what_a_step_raises_becomes_a_line_and_a_status(
    raised: BaseException | None, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step_that(raised) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "defect", [ValueError("ours"), OSError("no number"), UnicodeEncodeError("ascii", "–", 0, 1, "")]
)
def test_a_defect_of_ours_is_not_hidden(defect: Exception) -> None:
    with pytest.raises(type(defect)):
        step_that(defect)


def test_whatever_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for number in errno.errorcode.keys() - {errno.EPIPE, errno.ESHUTDOWN}:
        error = OSError(number, "x", "/a")
        network = isinstance(error, ConnectionError | TimeoutError)
        assert step_that(error) == (4 if network else 5)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: /a: {os.strerror(number).lower()}. ")


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (OSError(9999, "x"), 5, "unknown error 9999. Check"),
        (shutil.Error([("a", "b", "[Errno 28] No space"), ("c", "d", "")]), 5, "a: [Errno 28] No"),
        (shutil.Error("Destination path 'b' already exists"), 5, "Destination path 'b' already"),
        (shutil.SpecialFileError("`a` is a named pipe"), 5, "`a` is a named pipe. Give a plain"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 4, "name or service not"),
        (surrogates(), 5, "'/a\\udcff' is not text. Rename"),
    ],
)
def test_errors_without_a_number_of_the_system_are_explained_too(
    raised: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step_that(raised) == status
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_signal_handlers_are_as_before_after_a_step() -> None:
    before = signal.getsignal(signal.SIGTERM)
    step_that(DataError("x"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_unwinds_and_a_second_one_does_not_stop_the_cleaning_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cleaned = []

    @contextlib.contextmanager
    def half_made() -> Iterator[None]:
        try:
            yield
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    def main(argv: Sequence[str] | None) -> None:
        with half_made():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on after SIGTERM")

    assert run_step(main, []) == 143
    assert cleaned == [True]
    assert capsys.readouterr().err == "error: terminated by SIGTERM\n"


def python(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_error_stands_in_the_pod_s_status_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setattr(cli, "TERMINATION_LOG", log)

    def main(argv: Sequence[str] | None) -> None:
        raise DataError("two\nlines", hint="\u00fc" * 9000)

    assert run_step(main, []) == 3
    assert not log.exists()  # only Kubernetes makes it
    log.touch()
    assert run_step(main, []) == 3
    said = log.read_bytes()
    assert len(said) <= 4096
    assert said.decode().startswith("two lines. \u00fc\u00fc")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_goes_away_is_no_error(lines: int) -> None:
    code = (
        "import sys; from components.common.cli import run_step\n"
        "def main(argv):\n"
        "    sys.stdin.read()\n"
        f"    for n in range({lines}): print(n)\n"
        "raise SystemExit(run_step(main))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
        assert process.wait(30) == 141
    assert errors == b""


def test_a_step_s_own_lines_are_shown_and_a_library_s_chatter_is_not() -> None:
    code = (
        "import logging; from components.common.cli import run_step\n"
        "def main(argv):\n"
        "    logging.getLogger('components.x').info('ours')\n"
        "    logging.getLogger('components.x').debug('too much')\n"
        "    logging.getLogger('botocore.credentials').info('chatter')\n"
        "    logging.getLogger('botocore.x').warning('trouble')\n"
        "raise SystemExit(run_step(main))"
    )
    with python(code) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "ours\ntrouble\n")


def test_an_argument_that_is_no_text_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_step(lambda argv: None, ["--race", os.fsdecode(b"caf\xe9")]) == 2
    assert (
        capsys.readouterr().err
        == "error: 'caf\\udce9' is not text in utf-8. Rename what is called so\n"
    )


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_json_log_lines_are_for_machines(how: str, tmp_path: Path) -> None:
    flag = ["--log-format", "json"] if how == "flag" else []
    variable = {"RACE_LOG_FORMAT": "json"} if how == "variable" else {}
    source = tmp_path / "file.txt"
    source.write_text("text")
    for address, status, level in ((source, 0, "INFO"), (tmp_path / "gone.txt", 3, "ERROR")):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "components.download", *flag, "--url", str(address)),
                *("--output", str(tmp_path / f"out-{status}")),
            ],
            env=os.environ | variable,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        (line,) = map(json.loads, done.stderr.splitlines())
        assert line["level"] == level
        assert address.name in line["message"]
        assert line["time"].endswith("+00:00")


def test_a_log_format_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "components.download", "--help"],
        env=os.environ | {"RACE_LOG_FORMAT": "xml"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: RACE_LOG_FORMAT is 'xml'. Use text or json\n"
