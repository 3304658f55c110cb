"""What the download step promises as a whole."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataError, TransferError
from components.common.packed import unpacked
from components.download import known
from components.download.core import DownloadConfig, Downloaded, download

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


def left_behind(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of its own, to see what is left in it."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def step() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "components.download", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_files_lie_in_the_folder_under_their_own_names(server: Any, place: Path) -> None:
    urls = (server.put("a/one.txt", BODY), server.put("two.txt", b"2"))
    results = download(DownloadConfig(urls, place / "out"))
    assert results == [
        Downloaded(urls[0], place / "out" / "one.txt", len(BODY), DIGEST, pinned=False),
        Downloaded(
            urls[1], place / "out" / "two.txt", 1, hashlib.sha256(b"2").hexdigest(), pinned=False
        ),
    ]
    assert (place / "out" / "one.txt").read_bytes() == BODY
    assert left_behind(place) == ["out"]
    assert left_behind(place / "out") == ["one.txt", "two.txt"]


def test_an_archive_is_replaced_by_its_content(make_tar: Callable[..., Path], place: Path) -> None:
    # A member has the very name of the archive.
    archive = make_tar(("a/file", b"x"), ("evil.tar.gz", b"y"))
    (result,) = download(DownloadConfig((str(archive),), place / "out", unpack=True))
    assert result.path == place / "out"
    assert result.bytes == archive.stat().st_size
    assert left_behind(place / "out") == ["a", "evil.tar.gz", "origin.json"]
    assert (place / "out" / "evil.tar.gz").read_bytes() == b"y"


def test_two_archives_may_not_overwrite_each_other(
    make_tar: Callable[..., Path], place: Path
) -> None:
    one, two = make_tar(("a", b"1"), name="1.tar"), make_tar(("a", b"2"), name="2.tar")
    with pytest.raises(DataError, match=r"2\.tar: a: its name is taken already"):
        download(DownloadConfig((str(one), str(two)), place / "out", unpack=True))
    assert left_behind(place) == []


def test_an_archive_is_packed_into_one_file(make_tar: Callable[..., Path], place: Path) -> None:
    one, two = make_tar(("a/b", b"1"), name="1.tar.gz"), make_tar(("c", b"2"), name="2.tar")
    first, _ = download(DownloadConfig((str(one), str(two)), place / "out", pack=True))
    assert first.path == place / "out"
    assert left_behind(place / "out") == ["SHA256SUMS", "content.zip"]
    with unpacked(place / "out") as packed:
        assert (packed.read("a/b"), packed.read("c")) == (b"1", b"2")


def test_a_bad_archive_is_not_packed_and_two_do_not_overwrite_each_other(
    make_tar: Callable[..., Path], place: Path
) -> None:
    one, two = make_tar(("a", b"1"), name="1.tar"), make_tar(("a", b"2"), name="2.tar")
    with pytest.raises(DataError, match=r"2\.tar: a: its name is taken already"):
        download(DownloadConfig((str(one), str(two)), place / "out", pack=True))
    with pytest.raises(DataError, match="climbs out of the output folder"):
        download(DownloadConfig((str(make_tar(("../x", b""))),), place / "out", pack=True))
    assert left_behind(place) == []
    with pytest.raises(ConfigError, match="unpack and pack exclude each other"):
        DownloadConfig((str(one),), place / "out", unpack=True, pack=True)


def test_a_folder_is_packed_but_for_what_is_hidden(place: Path) -> None:
    folder = place / "race"
    for name in ("train/1.txt", "dev/.hidden", ".cache/2.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (result,) = download(DownloadConfig((str(folder),), place / "out", pack=True))
    inner = hashlib.sha256(b"train/1.txt").digest()
    assert result.sha256 == hashlib.sha256(b"train/1.txt\n" + inner).hexdigest()
    assert result.bytes == len("train/1.txt")
    with unpacked(place / "out") as packed:
        assert packed.entries == {
            "": {"dev": True, "train": True},
            "dev": {},
            "train": {"1.txt": False},
        }
        assert packed.read("train/1.txt") == b"train/1.txt"
    (folder / "test").symlink_to(folder / "dev")
    with pytest.raises(DataError, match="test: a link to a folder"):
        download(DownloadConfig((str(folder),), place / "other", pack=True))


def test_archives_of_one_folder_join(make_tar: Callable[..., Path], place: Path) -> None:
    one, two = make_tar(("a", b"1"), name="1.tar"), make_tar(("b", b"2"), name="2.tar")
    download(DownloadConfig((str(one), str(two)), place / "out", unpack=True))
    assert left_behind(place / "out") == ["a", "b"]


def test_a_digest_that_agrees_is_accepted_in_either_case(server: Any, place: Path) -> None:
    url = server.put("file", BODY)
    (result,) = download(DownloadConfig((f"{url}#sha256={DIGEST.upper()}",), place / "out"))
    assert result.pinned


def test_a_wrong_checksum_names_both_digests_and_leaves_nothing(server: Any, place: Path) -> None:
    url = server.put("file", BODY)
    with pytest.raises(DataError) as failure:
        download(DownloadConfig((f"{url}#sha256={'0' * 64}",), place / "out"))
    assert f"expected sha256 {'0' * 64}, computed {DIGEST}" in str(failure.value)
    assert len(server.requests) == 1
    assert left_behind(place) == []


def test_an_archive_with_a_wrong_checksum_is_not_unpacked(
    make_tar: Callable[..., Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.download.core.unpack", pytest.fail)
    url = str(make_tar(("a", b"x")))
    with pytest.raises(DataError, match="wrong checksum"):
        download(DownloadConfig((f"{url}#sha256={'0' * 64}",), place / "out", unpack=True))


def test_a_known_address_is_checked_by_default(
    server: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put("RACE.tar.gz", BODY)
    monkeypatch.setitem(known.SHA256, url, "0" * 64)
    with pytest.raises(DataError, match="wrong checksum"):
        download(DownloadConfig((url,), place / "out"))
    download(DownloadConfig((f"{url}#sha256={DIGEST}",), place / "out"))


def test_another_address_of_the_same_name_is_not_checked_by_default() -> None:
    config = DownloadConfig((known.RACE, "https://mirror/RACE.tar.gz".replace("R", "r")), Path("o"))
    assert config.sources[known.RACE].startswith("b2769cc9")
    assert config.sources[config.url[1]] == ""


def test_known_digests_are_of_known_addresses() -> None:
    assert set(known.SHA256) == {known.RACE, known.ENCODER_JSON, known.VOCAB_BPE}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in known.SHA256.values())


def test_the_second_of_two_failing_leaves_nothing(server: Any, place: Path) -> None:
    urls = (server.put("one", BODY), server.put("two", steps=[{"status": 404}]))
    with pytest.raises(TransferError, match="404"):
        download(DownloadConfig(urls, place / "out"))
    assert left_behind(place) == []


def test_an_output_with_something_in_it_is_refused_before_anything_is_fetched(
    server: Any, place: Path
) -> None:
    (place / "out").mkdir()
    (place / "out" / "old").touch()
    with pytest.raises(FileExistsError):
        download(DownloadConfig((server.put("file", BODY),), place / "out"))
    assert server.requests == []
    assert left_behind(place / "out") == ["old"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": ()}, "no URL"),
        ({"url": ("ftp://host/file",)}, "unknown scheme"),
        ({"url": ("http://a/file", "http://b/file")}, "both named file"),
        ({"url": ("http://host/file#sha256=abc",)}, "'abc' is not a sha256"),
        ({"attempts": 0}, "attempts is 0"),
        ({"connect_timeout": 0.0}, "connect_timeout is 0"),
        ({"read_timeout": float("nan")}, "read_timeout is nan"),
        ({"max_gib": -1.0}, "max_gib is -1"),
        ({"max_gib": float("inf")}, "max_gib is inf"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        DownloadConfig(**({"url": ("http://host/file",), "output": Path("out")} | changes))


def test_the_command_prints_one_line_a_file(step: Any, server: Any, place: Path) -> None:
    one, two = server.put("one", BODY), server.put("two", BODY)
    done = step("--url", f"{one}#sha256={DIGEST}", "--url", two, "--output", place / "o")
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert re.fullmatch(rf"downloaded one 0\.2 MiB in .* s, sha256 {DIGEST} \(matches\)", first)
    assert re.fullmatch(
        rf"downloaded two 0\.2 MiB in .* s, sha256 {DIGEST} \(not pinned, unchecked\)", second
    )


def test_the_command_tells_what_it_unpacked(
    step: Any, make_tar: Callable[..., Path], place: Path
) -> None:
    done = step("--url", make_tar(("a", b"x")), "--output", place / "out", "--unpack")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert ", unpacked 1 files, 0.0 MiB in " in line


@pytest.fixture
def bad_runs(
    server: Any, make_tar: Callable[..., Path], place: Path
) -> dict[str, tuple[list[str | Path], int, str]]:
    """Arguments (less the output), exit status, and a part of the one line."""
    return {
        "wrong checksum": (
            ["--url", f"{server.put('file', BODY)}#sha256={'0' * 64}"],
            3,
            f"wrong checksum: expected sha256 {'0' * 64}, computed {DIGEST}. Check the address",
        ),
        "404": (["--url", f"http://{server.address}/absent"], 4, "absent: the server answered 404"),
        "403": (["--url", server.put("f", steps=[{"status": 403}])], 4, "answered 403 Forbidden"),
        "always cut": (
            ["--url", server.put("c", BODY, steps=[{"cut": 5}]), "--attempts", "1"],
            4,
            "cut",
        ),
        "climbing archive": (
            ["--url", make_tar(("../x", b"x")), "--unpack"],
            3,
            "evil.tar.gz: ../x: climbs out of the output folder",
        ),
        "absent file": (["--url", place / "absent"], 3, "absent: no such file"),
        "bad scheme": (["--url", "gopher://host/file"], 2, "unknown scheme 'gopher'"),
        "no url": ([], 2, "--url"),
        "bad number": (["--url", "http://a/b", "--attempts", "many"], 2, "--attempts"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "wrong checksum",
        "404",
        "403",
        "always cut",
        "climbing archive",
        "absent file",
        "bad scheme",
        "no url",
        "bad number",
    ],
)
def test_the_command_fails_with_one_line_and_leaves_nothing(
    step: Any, bad_runs: Any, place: Path, case: str
) -> None:
    arguments, status, part = bad_runs[case]
    done = step(*arguments, "--output", place / "out")
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert part in line
    assert done.stdout == ""
    assert left_behind(place) == []


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("file/out", "place/file: file exists"),
        ("file", "place/file: file exists"),
        ("/proc/out", "/proc"),
    ],
)
def test_an_output_that_cannot_be_written_fails_with_one_line(
    step: Any, server: Any, place: Path, output: str, why: str
) -> None:
    (place / "file").write_text("in the way")
    done = step("--url", server.put("a", BODY), "--output", place / output)
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert why in line
    assert server.requests == []
    assert left_behind(place) == ["file"]


def test_a_full_disk_fails_with_one_line_that_names_the_output(
    server: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from components.common.cli import run_step
    from components.download.__main__ import main

    open_path = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return open_path(Path("/dev/full") if mode == "xb" else self, mode.replace("x", "w"))

    monkeypatch.setattr(Path, "open", full)
    url = server.put("file", BODY)
    assert run_step(main, ["--url", url, "--output", str(place / "out")]) == 5
    line = capsys.readouterr().err
    assert line.startswith(f"error: {place}/out: no space left on device. The file system at ")
    assert left_behind(place) == []


def test_help_teaches(step: Any) -> None:
    done = step("--help")
    assert done.returncode == 0
    for part in ("examples:", known.RACE, "(default: 6)", "#sha256="):
        assert part in done.stdout


def test_a_bar_is_shown_on_a_terminal(server: Any, place: Path) -> None:
    """With amount, rate and time left."""
    import pty
    import termios

    url = server.put("file", BODY * 40, steps=[{"stall": len(BODY)}])
    command = [sys.executable, "-m", "components.download", "--url", url, "--output", place / "o"]
    main, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 100))
    with subprocess.Popen([*command, "--read-timeout", "0.3"], stderr=child) as process:
        os.close(child)
        seen = b""
        while True:
            try:
                seen += os.read(main, 4096)
            except OSError:  # EIO: the other side is closed
                break
    os.close(main)
    assert process.returncode == 0
    assert re.search(rb"file: +\d+%\|.*250k/9\.77M \[.*B/s\]", seen)
    assert b"trying again" in seen
    assert b"downloaded file 9.8 MiB" in seen


def test_sigterm_leaves_nothing(server: Any, place: Path) -> None:
    import signal

    url = server.put("file", BODY, steps=[{"stall": 1000}])
    command = [sys.executable, "-m", "components.download", "--url", url, "--output", place / "o"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(place.glob(".o.partial-*/*/file")) or not server.requests:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 143
    assert errors == "error: terminated by SIGTERM\n"
    assert left_behind(place) == []


A_DIGEST, ANOTHER = "a" * 64, "B" * 64


@pytest.mark.parametrize(
    ("url", "files", "sources"),
    [
        (f"https://h/f#sha256={A_DIGEST}", (), {"https://h/f": A_DIGEST}),
        ("https://h/f#part", (), {"https://h/f#part": ""}),
        ("https://h/bpe/", ("a", "b"), {"https://h/bpe/a": "", "https://h/bpe/b": ""}),
        (
            f"s3://b/bpe#a.json={A_DIGEST}&b={ANOTHER}",
            ("a.json", "b"),
            {"s3://b/bpe/a.json": A_DIGEST, "s3://b/bpe/b": ANOTHER.lower()},
        ),
    ],
)
def test_an_address_may_name_the_digests_and_be_a_folder(
    url: str, files: tuple[str, ...], sources: dict[str, str], tmp_path: Path
) -> None:
    assert DownloadConfig((url,), tmp_path, files=files).sources == sources
