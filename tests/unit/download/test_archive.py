"""What unpack promises, to a folder and to one file: all of an honest archive, none of another."""

import gzip
import io
import os
import random
import resource
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import DataError
from components.common.packed import SUMS, packing, unpacked
from components.download.archive import Limits, Unpacked, unpack

PACKED = ".packed"

FILES = {
    "RACE/train/high/1.txt": b"one",
    "RACE/train/high/2.txt": b"",
    "RACE/dev/3.txt": bytes(range(256)) * 5000,
    "größe/日本語.txt": b"names are text",
}


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """The folder to unpack into; beside it lies a file that no archive may touch."""
    folder = tmp_path / "around" / "into"
    folder.mkdir(parents=True)
    (folder.parent / "canary").write_text("alive")
    return folder


@pytest.fixture
def refused(into: Path) -> Any:
    """Asserts that an archive is refused in so many words, and wrote nothing outside its folder."""

    def check(archive: Path, *parts: str, limits: Limits | None = None) -> None:
        target = into / str(len(os.listdir(into)))
        (target / PACKED).mkdir(parents=True)
        with pytest.raises(DataError) as failure:
            unpack(archive, target, limits)
        line = str(failure.value)
        with pytest.raises(DataError) as packed, packing(target / PACKED) as one_file:
            unpack(archive, one_file, limits)
        assert str(packed.value) == line
        assert not (target / PACKED / SUMS).exists()
        assert line.startswith(f"{archive.name}: ")
        for part in parts:
            assert part in line
        assert sorted(os.listdir(into.parent)) == ["canary", "into"]
        assert (into.parent / "canary").read_text() == "alive"

    return check


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def packed_content(archive: Path, folder: Path) -> dict[str, bytes]:
    """The files of an archive that was packed, and read again."""
    (folder / PACKED).mkdir()
    with packing(folder / PACKED) as one_file:
        made = unpack(archive, one_file)
    with unpacked(folder / PACKED) as found:
        paths = [f"{path}/{name}" for path, names in found.entries.items() for name in names]
        files = [path.lstrip("/") for path in paths if path.lstrip("/") not in found.entries]
        assert made == Unpacked(len(files), sum(map(found.size, files)))
        return {path: found.read(path) for path in files}


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def make_zip(path: Path, *members: Any, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in members:
            archive.writestr(name, data)
    return path


def zip_special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a"])
def test_an_honest_tar_comes_out_whole(
    make_tar: Callable[..., Path], into: Path, name: str, format: int
) -> None:
    archive = make_tar(*FILES.items(), name=name, format=format)
    assert unpack(archive, into) == Unpacked(4, sum(map(len, FILES.values())))
    assert content(into) == FILES
    assert packed_content(archive, into) == FILES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_zip_comes_out_whole(tmp_path: Path, into: Path, method: int) -> None:
    archive = make_zip(tmp_path / "a.zip", *FILES.items(), method=method)
    assert unpack(archive, into) == Unpacked(4, sum(map(len, FILES.values())))
    assert content(into) == FILES
    assert packed_content(archive, into) == FILES


def test_folders_come_out_even_when_empty_or_listed_twice(
    make_tar: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [special(name, tarfile.DIRTYPE) for name in ("./", "./a", "a/b", "./a")]
    for archive in (
        make_tar(*folders, ("./a/b/file", b"x"), name="a.tar"),
        make_zip(tmp_path / "a.zip", ("a/", b""), ("a/b/", b""), ("a/b/file", b"x")),
    ):
        target = tmp_path / archive.suffix
        target.mkdir()
        assert unpack(archive, target) == Unpacked(1, 1)
        assert content(target) == {"a/b/file": b"x"}


def test_long_names_come_out(make_tar: Callable[..., Path], into: Path) -> None:
    name = "/".join(["folder" * 10] * 5) + "/file"
    for number, format in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        unpack(make_tar((f"{number}/{name}", b"x"), format=format), into)
    assert content(into) == {f"0/{name}": b"x", f"1/{name}": b"x"}


def test_permissions_and_owners_are_not_taken_over(
    make_tar: Callable[..., Path], into: Path
) -> None:
    info, folder = tarfile.TarInfo("file"), special("folder", tarfile.DIRTYPE)
    for member in (info, folder):
        member.mode, member.uid, member.gid = 0o7777, 12345, 12345
    unpack(make_tar((info, b"x"), folder, ("folder/x", b"x")), into)
    old = os.umask(0)
    os.umask(old)
    for path, mode in (("file", 0o666), ("folder", 0o777)):
        found = (into / path).stat()
        assert stat.S_IMODE(found.st_mode) == mode & ~old
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


CLIMBING = [
    ("../canary", "climbs out"),
    ("a/../../canary", "climbs out"),
    ("a/..", "climbs out"),
    ("..", "climbs out"),
    ("/tmp/canary", "an absolute path"),
    ("//tmp/canary", "an absolute path"),
    ("..\\canary", "another system"),
    ("C:\\canary", "another system"),
    ("a\x1b]0;owned\x07", "control characters"),
    ("a\nb", "control characters"),
    ("a/" * 40 + "b", "too long or too deep"),
    ("a" * 300, "too long or too deep"),
    ("a/" * 30 + "b" * 240 + "/" + "c" * 255 + "/" + "d" * 255 + "/" + "e" * 255, "too long"),
]


@pytest.mark.parametrize(("name", "why"), CLIMBING)
def test_a_member_with_a_bad_name_is_refused(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any, name: str, why: str
) -> None:
    members = (("good", b"x"), (name, b"dead"))
    refused(make_tar(*members), why)
    refused(make_zip(tmp_path / "evil.zip", *members), why)


def test_the_refusal_names_the_member_and_stays_one_clean_line(
    make_tar: Callable[..., Path], refused: Any
) -> None:
    refused(make_tar(("a\n\x1b[31mb", b"")), "a \\x1b[31mb: ")
    refused(make_tar(("../" + "a" * 5000, b""), name="long.tar"), "a" * 197 + "...: ")


def test_a_name_that_is_no_text_is_refused(make_tar: Callable[..., Path], refused: Any) -> None:
    refused(make_tar(("a\udcff", b""), format=tarfile.GNU_FORMAT), "control characters, or bytes")


def test_a_folder_that_climbs_out_is_refused(make_tar: Callable[..., Path], refused: Any) -> None:
    refused(make_tar(special("../other", tarfile.DIRTYPE)), "../other", "climbs out")


@pytest.mark.parametrize(
    ("kind", "target", "why"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "a symbolic link"),
        (tarfile.SYMTYPE, "good", "a symbolic link"),
        (tarfile.SYMTYPE, "..", "a symbolic link"),
        (tarfile.LNKTYPE, "../canary", "a hard link"),
        (tarfile.LNKTYPE, "good", "a hard link"),
        (tarfile.CHRTYPE, "", "a device"),
        (tarfile.BLKTYPE, "", "a device"),
        (tarfile.FIFOTYPE, "", "a named pipe"),
        (b"Z", "", "neither a file nor a folder"),
    ],
)
def test_a_tar_member_that_is_no_plain_data_is_refused(
    make_tar: Callable[..., Path], refused: Any, kind: bytes, target: str, why: str
) -> None:
    archive = make_tar(("good", b"x"), special("link", kind, target), ("link/canary", b"dead"))
    refused(archive, "link", why)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (stat.S_IFLNK, "a symbolic link"),
        (stat.S_IFCHR, "neither a file nor a folder"),
        (stat.S_IFBLK, "neither a file nor a folder"),
        (stat.S_IFIFO, "neither a file nor a folder"),
        (stat.S_IFSOCK, "neither a file nor a folder"),
    ],
)
def test_a_zip_member_that_is_no_plain_data_is_refused(
    tmp_path: Path, refused: Any, kind: int, why: str
) -> None:
    refused(make_zip(tmp_path / "evil.zip", (zip_special("link", kind), "/etc/passwd")), why)


def test_a_sparse_file_is_refused(make_tar: Callable[..., Path], refused: Any) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 12}
    info = tarfile.TarInfo("holes")
    info.pax_headers = headers
    refused(make_tar((info, b"0\n".ljust(512, b"\0"))), "holes", "a sparse file")


@pytest.mark.parametrize("pair", [("a/b", "a/b"), ("a/b", "./a//b"), ("a/b", "a/./b")])
def test_a_second_member_of_the_same_name_is_refused(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any, pair: tuple[str, str]
) -> None:
    members = [(name, b"x") for name in pair]
    refused(make_tar(*members), "a second member of the same name")
    refused(make_zip(tmp_path / "evil.zip", *members), "a second member of the same name")


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a", "a/b/c")])
def test_a_name_that_is_both_a_file_and_a_folder_is_refused(
    make_tar: Callable[..., Path], refused: Any, names: tuple[str, str]
) -> None:
    refused(make_tar(*((name, b"x") for name in names)), "both a file and a folder")


def test_what_is_there_already_is_not_written_to(make_tar: Callable[..., Path], into: Path) -> None:
    (into / "a").write_bytes(b"alive")
    for archive in (make_tar(("a", b"dead")), make_tar(("a/b", b"dead"))):
        with pytest.raises(DataError, match="its name is taken already"):
            unpack(archive, into)
    (into / "link").symlink_to("../canary")
    with pytest.raises(DataError, match="link: its name is taken already"):
        unpack(make_tar(("link", b"dead")), into)
    assert content(into) == {"a": b"alive", "link": b"alive"}


def test_too_many_members_are_refused(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any
) -> None:
    members = [(str(number), b"") for number in range(11)]
    limits = Limits(members=10)
    refused(make_tar(*members), "10: more than 10 members", limits=limits)
    refused(make_zip(tmp_path / "evil.zip", *members), "more than 10 members", limits=limits)


def many_members(make_tar: Callable[..., Path], _: Path) -> Path:
    return make_tar(*((str(number), b"") for number in range(11)))


def many_folders(make_tar: Callable[..., Path], _: Path) -> Path:
    return make_tar(("a/b/c/d/e/f", b""), ("g/h/i/j/k/l", b""), name="evil.tar")


def many_in_a_zip(_: Callable[..., Path], folder: Path) -> Path:
    return make_zip(folder / "evil.zip", *((str(number), b"") for number in range(11)))


def many_behind_a_size_of_its_own(make_tar: Callable[..., Path], _: Path) -> Path:
    """The first header says that the rest is its content, an extended one that it has none."""
    info = tarfile.TarInfo("first")
    info.pax_headers = {"size": "0"}
    path = make_tar(info, *((str(number), b"") for number in range(10)), name="evil.tar")
    blocks = bytearray(path.read_bytes())
    info.size, info.pax_headers = 1 << 20, {}
    blocks[1024:1536] = info.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(blocks)
    return path


def long_names(make_tar: Callable[..., Path], _: Path) -> Path:
    return make_tar(*((f"{'long' * 60}/{number}", b"") for number in range(9)))


@pytest.mark.parametrize(
    "archive",
    [many_members, many_folders, many_in_a_zip, many_behind_a_size_of_its_own, long_names],
)
def test_what_holds_too_many_is_refused_before_anything_is_written(
    make_tar: Callable[..., Path], tmp_path: Path, into: Path, archive: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match=r"more than 10 members|names .* more than 2,000 bytes"):
        unpack(archive(make_tar, tmp_path), into, Limits(members=10, names=2000))
    assert content(into) == {}
    assert list(into.iterdir()) == []


def test_folders_that_names_imply_count_as_members(
    make_tar: Callable[..., Path], refused: Any
) -> None:
    members = [(f"{number}/a/b/c/file", b"") for number in range(3)]
    refused(make_tar(*members), "more than 12 members", limits=Limits(members=12))


def test_too_many_bytes_are_refused(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any
) -> None:
    data = random.Random(1).randbytes(200_000)
    limits = Limits(bytes=100_000)
    refused(make_tar(("big", data)), "unpacks to more than 100,000 bytes", limits=limits)
    refused(make_zip(tmp_path / "a.zip", ("big", data)), "big", "100,000", limits=limits)


def test_a_bomb_is_refused_by_its_ratio(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any
) -> None:
    zeros = bytes(2 << 20)
    limits = Limits(ratio_free=1 << 20)
    refused(make_tar(("bomb", zeros)), "more than 100 times its size", limits=limits)
    refused(make_zip(tmp_path / "a.zip", ("bomb", zeros)), "bomb", "100 times", limits=limits)


def test_small_archives_may_shrink_well(make_tar: Callable[..., Path], into: Path) -> None:
    assert unpack(make_tar(("a", bytes(2 << 20))), into) == Unpacked(1, 2 << 20)


def test_a_zip_whose_members_share_their_bytes_is_refused(tmp_path: Path, refused: Any) -> None:
    # Every entry of the list leads to the same compressed bytes.
    archive = make_zip(tmp_path / "evil.zip", ("a", bytes(1 << 20)))
    data = archive.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry, end = data[start:-22], data[-22:]
    entries = b"".join(entry.replace(b"a", bytes([98 + n])) for n in range(20))
    archive.write_bytes(
        data[:start]
        + entries
        + end[:8]
        + struct.pack("<HHII", 20, 20, len(entries), start)
        + end[20:]
    )
    refused(archive)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_that_claim_to_be_huge_do_not_fill_the_memory(
    tmp_path: Path, refused: Any, kind: bytes
) -> None:
    info = special("name", kind)
    info.size = 8 << 30
    archive = tmp_path / "evil.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        packed.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(32):
            packed.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(archive, "headers take more than")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_headers_within_headers_do_not_exhaust_the_stack(tmp_path: Path, refused: Any) -> None:
    header = special("x", tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    archive = tmp_path / "evil.tar"
    archive.write_bytes(header * 700 + bytes(1024))
    refused(archive)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_negative_size_is_refused(tmp_path: Path, refused: Any, kind: bytes) -> None:
    info = special("x", kind)
    info.size = -1024
    archive = tmp_path / "evil.tar"
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    refused(archive)


def test_a_zip_with_an_endless_list_is_refused(tmp_path: Path, refused: Any) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for number in range(20):
            info = zipfile.ZipInfo(str(number))
            info.comment = bytes(65_535)
            archive.writestr(info, b"")
    refused(tmp_path / "evil.zip", "damaged", limits=Limits(members=20))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_archive_that_was_cut_anywhere_is_refused(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any, into: Path, name: str
) -> None:
    members = [(f"{number}", bytes([number]) * 700) for number in range(5)]
    whole = (
        make_zip(tmp_path / name, *members) if name == "a.zip" else make_tar(*members, name=name)
    )
    data = whole.read_bytes()
    # Of a plain tar, the zeros behind its first closing block may be missing.
    last = len(data) - 1 if name != "a.tar" else 5 * (512 + 1024) + 511
    for length in sorted({*range(1, last, 97), *range(512, last, 512), last}):
        target = into / str(length)
        target.mkdir()
        whole.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"damaged or cut off|not a tar"):
            unpack(whole, target)


def test_a_tar_cut_between_two_members_is_refused(
    make_tar: Callable[..., Path], refused: Any
) -> None:
    archive = make_tar(("a", b"x"), ("b", b"x"), name="cut.tar")
    archive.write_bytes(archive.read_bytes()[:1024])
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["a"]  # what tarfile makes of it
    refused(archive, "damaged or cut off", "Download it again")


def test_a_tar_that_was_cut_before_it_was_packed_is_refused(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any
) -> None:
    whole = make_tar(("a", b"x"), ("b", b"x"), name="whole.tar").read_bytes()
    archive = tmp_path / "cut.tar.gz"
    archive.write_bytes(gzip.compress(whole[:1024]))
    refused(archive, "damaged or cut off")


def test_a_damaged_header_between_members_is_not_taken_for_the_end(
    make_tar: Callable[..., Path], refused: Any
) -> None:
    archive = make_tar(("a", b"x"), ("b", b"x"), name="damaged.tar")
    data = bytearray(archive.read_bytes())
    data[1024] ^= 1
    archive.write_bytes(data)
    refused(archive, "damaged or cut off")


def test_data_behind_the_end_is_refused(make_tar: Callable[..., Path], refused: Any) -> None:
    one = make_tar(("a", b"x"), name="one.tar").read_bytes()
    archive = make_tar(("b", b"x"), name="two.tar")
    archive.write_bytes(one + archive.read_bytes())
    refused(archive, "damaged or cut off")


def test_a_wrong_gzip_checksum_is_refused(make_tar: Callable[..., Path], refused: Any) -> None:
    archive = make_tar(("a", b"x"))
    data = bytearray(archive.read_bytes())
    data[-8] ^= 1
    archive.write_bytes(data)
    refused(archive, "damaged or cut off")


def test_a_wrong_zip_checksum_is_refused(tmp_path: Path, refused: Any) -> None:
    archive = make_zip(tmp_path / "a.zip", ("a", b"hello"), method=zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"hello", b"jello"))
    refused(archive, "a: ", "damaged or cut off")


def test_an_encrypted_zip_is_refused(tmp_path: Path, refused: Any) -> None:
    archive = make_zip(tmp_path / "a.zip", ("a", b"x"))
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    refused(archive, "a: encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_is_packed_in_another_way_is_refused(
    tmp_path: Path, refused: Any, method: int
) -> None:
    refused(make_zip(tmp_path / "a.zip", ("a", b"x"), method=method), "unusual way")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html><title>404</title>",
        bytes(10240),
        random.Random(1).randbytes(5000),
        b"BZh9" + bytes(600),
        b"\xfd7zXZ\0" + bytes(600),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, refused: Any, data: bytes) -> None:
    path = tmp_path / "page.tar.gz"
    path.write_bytes(data)
    refused(path, "not a tar, tar.gz or zip archive", "Check the address")


def test_a_packed_file_that_is_no_tar_is_refused(tmp_path: Path, refused: Any) -> None:
    for data in (b"", b"only text", random.Random(2).randbytes(9000)):
        path = tmp_path / "dict.tar.gz"
        path.write_bytes(gzip.compress(data))
        refused(path, "damaged or cut off")


def test_an_archive_without_a_file_is_refused(
    make_tar: Callable[..., Path], tmp_path: Path, refused: Any
) -> None:
    refused(make_tar(special("folder", tarfile.DIRTYPE)), "no file is in it")
    refused(make_zip(tmp_path / "empty.zip"), "no file is in it")


def test_memory_does_not_grow_with_a_member(make_tar: Callable[..., Path], into: Path) -> None:
    archive = into.parent / "big.tar.gz"
    size = 96 << 20
    info = tarfile.TarInfo("big")
    info.size = size
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        packed.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size >> 20):
            packed.write(bytes(1 << 20))
        packed.write(bytes(10240))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert unpack(archive, into, Limits(ratio=2000)) == Unpacked(1, size)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_a_member_is_read_from_wherever_it_starts(into: Path) -> None:
    """Content of any length around the sizes that are read at once comes out right."""
    buffer = io.BytesIO()
    chance = random.Random(3)
    members = {str(n): chance.randbytes(n) for n in (0, 1, 511, 512, 513, (256 << 10) - 512)}
    members |= {str(n): chance.randbytes(n) for n in ((1 << 20) - 1, 1 << 20, (1 << 20) + 1)}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    archive = into.parent / "a.tar"
    archive.write_bytes(buffer.getvalue())
    unpack(archive, into)
    assert content(into) == members
