"""What strangers hand in, changed at random: it is read, or refused in one line, and no more.

Every test runs on few inputs; with `-m slow` on 10,000 or FUZZ_INPUTS. FUZZ_SEED=N makes others.
"""

import gzip
import importlib
import io
import itertools
import json
import os
import pkgutil
import re
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzzing import ENCODER, INPUTS, PASSAGE, PROGRESS, RECORD, damage, encoded, fuzz

import components
from components.binarize.bpe import read_encoder
from components.common import executor, manifest
from components.common.asked import read_asked
from components.common.cli import config_of, explain_os_error, options, parser
from components.common.errors import DataError
from components.common.packed import packing, unpacked
from components.common.program import Program, handed
from components.download.archive import Limits, Unpacked, unpack
from components.preprocess import passage
from components.preprocess.core import PreprocessConfig, preprocess
from components.train.supervisor import resume

pytestmark = INPUTS


# JSON


MANIFEST = json.loads(
    manifest.Manifest(
        files=(manifest.FileEntry("a/b", 3, "0" * 64),),
        folder="20260131T120000-0123456789ab",
        created="2026-01-31T12:00:00Z",
    ).to_json()
)


def seal(data: bytes) -> bytes:
    """A manifest with its own sha256, as whoever may write there can make it."""
    try:
        value = json.loads(data)
        value.pop("sha256", None)
        return json.dumps({**value, "sha256": manifest._seal(value)}).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return data


def read_bpe(path: Path) -> None:
    (path.parent / "vocab.bpe").write_text("#version: 0.2\na b\n")
    read_encoder(path, path.parent / "vocab.bpe")


@pytest.mark.parametrize(
    ("reader", "value", "refusal"),
    [
        (lambda path: passage.parse(path.read_bytes()), PASSAGE, passage.InvalidPassage),
        (read_bpe, ENCODER, DataError),
        (
            lambda path: manifest.parse(path.read_bytes(), where="s3://b/m.json"),
            MANIFEST,
            DataError,
        ),
        (lambda path: resume.read_progress(path, "s3://bucket/run"), PROGRESS, DataError),
        (lambda path: resume.read_records(path, "s3://bucket/run"), RECORD, DataError),
    ],
    ids=["passage", "encoder", "manifest", "progress", "record"],
)
def test_json(
    sandbox: Path,
    inputs: int,
    reader: Callable[[Path], None],
    value: object,
    refusal: type[Exception],
) -> None:
    def make(chance: Random) -> bytes:
        data = encoded(value, chance)
        return seal(data) if value is MANIFEST else data

    def read(data: bytes) -> None:
        (sandbox / "file").write_bytes(data)
        reader(sandbox / "file")

    tally = fuzz(make, read, sandbox, inputs // 5, (refusal,))
    assert tally.refused > inputs // 20


# Archives


MEMBERS = [("a/b.txt", b"hello" * 99), ("c" * 120, b""), ("größe/x", b"x" * 600), ("d/e/f", b"f")]
NAMES = [
    *(
        "../up",
        "/etc/passwd",
        "a/../../b",
        "a",
        "a/b.txt",
        "a/b.txt/c",
        "",
        ".",
        "./",
        "d/",
        "c\\d",
    ),
    *("x" * 300, "y/" * 40 + "z", "n" * 2000, "\0", "a\nb", "\udc80", "C:x", "~/x", "a//b", "con"),
]
NUMBERS = [
    *(
        b"\x80" + bytes(10) + b"\x7f",
        b"\xff" * 12,
        b"77777777777\0",
        b"00000000000\0",
        b"-0000001 ",
    ),
    *(b"9" * 12, b"\x80" + b"\xff" * 11, b"00000001130\0", b"            ", b"1e5\0"),
]
# Of a tar's header: name, mode, uid, size, time, kind, link, magic, prefix.
FIELDS = [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8)]
FIELDS += [(345, 155)]
KINDS = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V", b"\0"]
RECORDS = ["size=99999999", "size=-1", "path=../up", "path=", "linkpath=/x", "GNU.sparse.size=9"]
RECORDS += ["GNU.sparse.map=0,1", "GNU.sparse.major=1", "hdrcharset=BINARY", "mtime=nan", "uid=x"]


def tar(chance: Random) -> tuple[bytes, list[int]]:
    """A tar of a few members, some with strange records; and where their headers are."""
    found = io.BytesIO()
    kind = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=found, mode="w", format=kind) as archive:
        for name, data in MEMBERS:
            info = tarfile.TarInfo(name[:99] if kind == tarfile.USTAR_FORMAT else name)
            info.size = len(data)
            if chance.random() < 0.2:
                record = chance.choice(RECORDS).partition("=")
                info.pax_headers = {record[0]: record[2]}
            archive.addfile(info, io.BytesIO(data))
    made = found.getvalue()
    return made, [at for at in range(0, len(made), 512) if made[at + 257 : at + 262] == b"ustar"]


def zipped(chance: Random) -> tuple[bytes, list[int]]:
    """A zip of a few members, some with strange names or kinds; and where its headers are."""
    found = io.BytesIO()
    method = chance.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
    with zipfile.ZipFile(found, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in MEMBERS:
            name = chance.choice(NAMES) if chance.random() < 0.05 else name
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "e")
            info.external_attr = chance.choice((*[0o644] * 40, 0o120777, 0o60000, 0o40755)) << 16
            info.compress_type = method
            archive.writestr(info, data)
    made = found.getvalue()
    return made, [found.start() for found in re.finditer(b"PK(\x01\x02|\x03\x04|\x05\x06)", made)]


ARCHIVES = {
    kind: [make(Random(number)) for number in range(50)]
    for kind, make in (("tar", tar), ("zip", zipped))
}


def lie_in_tar(data: bytearray, at: int, chance: Random) -> None:
    start, size = chance.choice(FIELDS)
    new = chance.choice((*NUMBERS, *KINDS)) if size < 20 else b""
    new = new or chance.choice(NAMES).encode("utf-8", "surrogateescape")
    data[at + start : at + start + size] = new[:size].ljust(size, b"\0")
    # With a right checksum, the lie comes to what lies behind the checksum's test.
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def lie_in_zip(data: bytearray, at: int, chance: Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    at += chance.randrange(4, 46)
    value = chance.choice((0, 1, 2, 8, 12, 0x2000, 0xFFFF, 0xFFFFFFFF, 2**63, 600, 46))
    data[at : at + size] = value.to_bytes(8, "little")[:size]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_archives(sandbox: Path, inputs: int, kind: str) -> None:
    limits = Limits(members=40, bytes=1 << 20, ratio_free=1 << 20, names=1 << 15)

    def make(chance: Random) -> bytes:
        whole, heads = chance.choice(ARCHIVES[kind[:3]])
        changed = bytearray(whole)
        for _ in range(chance.choice((0, 1, 1, 2))):
            lie = lie_in_zip if kind == "zip" else lie_in_tar
            lie(changed, chance.choice(heads), chance)
        data = damage(bytes(changed), chance) if chance.random() < 0.3 else bytes(changed)
        if kind == "tar.gz":
            data = gzip.compress(data, 1)
            if chance.random() < 0.2:
                data = damage(data, chance)
        return data

    def read(data: bytes) -> None:
        (sandbox / "archive").write_bytes(data)
        (target := sandbox / "into").mkdir()
        try:
            made = unpack(sandbox / "archive", target, limits)
            found = [path for path in target.rglob("*") if not path.is_dir()]
            assert made == Unpacked(len(found), sum(path.stat().st_size for path in found))
            (packed := sandbox / "packed").mkdir()
            with packing(packed) as one_file:
                assert unpack(sandbox / "archive", one_file, limits) == made
            with unpacked(packed) as files:
                for path in found:
                    assert files.read(path.relative_to(target).as_posix()) == path.read_bytes()
        finally:
            shutil.rmtree(target)
            shutil.rmtree(sandbox / "packed", ignore_errors=True)

    tally = fuzz(make, read, sandbox, inputs // 3)
    assert min(tally.read, tally.refused) > inputs // 30


# Files of RACE


FILES = ["1.txt", "1", "²", "٣.txt", "9" * 200, "a\nb", "\udc80", "\u2028", ".1.txt", "-", "#0"]


def test_race_files(sandbox: Path, inputs: int) -> None:
    dataset = sandbox / "dataset"
    for part in ("train", "dev", "test"):
        (dataset / part / "middle").mkdir(parents=True)
        (dataset / part / "middle" / "0.txt").write_text(json.dumps(PASSAGE))

    def make(chance: Random) -> tuple[str, str, str, bytes]:
        name = chance.choice(FILES) if chance.random() < 0.1 else "1.txt"
        level = chance.choice(FILES) if chance.random() < 0.05 else "middle"
        where = f"{chance.choice(('train', 'dev', 'test'))}/{level}/{name}"
        return where, chance.choice(("stop", "skip")), level, encoded(PASSAGE, chance)

    def read(given: tuple[str, str, str, bytes]) -> None:
        where, invalid, level, data = given
        made = [dataset / part / level for part in ("train", "dev", "test")]
        for path in made:
            path.mkdir(exist_ok=True)
        (dataset / where).write_bytes(data)
        output = sandbox / "text"
        try:
            preprocess(PreprocessConfig(dataset, output, invalid=invalid))
            for split in {"dev"} | {path.name[:-3] for path in output.glob("test*.id")}:
                asked = len(read_asked(output, split))
                for column in ("label", "id", *(f"input{number}" for number in range(5))):
                    assert (output / f"{split}.{column}").read_text().count("\n") == asked
        finally:
            (dataset / where).unlink()
            shutil.rmtree(output, ignore_errors=True)
            for path in made:
                if path.name != "middle":
                    path.rmdir()

    tally = fuzz(make, read, sandbox, inputs)
    assert min(tally.read, tally.refused) > inputs // 20


# What Kubeflow Pipelines hands to a step


PROGRAMS = [
    importlib.import_module(f"{step.name}.__main__").main
    for step in pkgutil.iter_modules(components.__path__, "components.")
    if importlib.util.find_spec(f"{step.name}.__main__")
]


def artifacts(*names: str) -> dict[str, Any]:
    """As an executor input has them, of a kind of its own each."""
    kinds = itertools.cycle(("Dataset", "Metrics", "ClassificationMetrics", "HTML", "Model"))
    return {
        name: {"artifacts": [{"type": {"schemaTitle": f"system.{kind}"}, "uri": f"work/{name}"}]}
        for name, kind in zip(names, kinds, strict=False)
    }


def handed_over(program: Program) -> dict[str, Any]:
    """An executor input with each of the program's paths, and outputs of each kind."""
    paths = [o.name for o in options(program.config) if o.is_path and o.name != "output"]
    outputs = {
        "artifacts": artifacts("output", "figures", "confusion", "page", "part"),
        "parameters": {"Output": {"outputFile": "work/parameter"}},
        "outputFile": "work/answer",
    }
    return {"inputs": {"artifacts": artifacts(*paths)}, "outputs": outputs}


def test_executor_input_and_settings(sandbox: Path, inputs: int) -> None:
    parsers = {p.name: parser(p.config, prog=p.name, description="") for p in PROGRAMS}
    outcome = executor.Outcome({"accuracy": 70.0}, [[1, 0], [0, 1]], {}, {"Output": [1]})
    output = Path("work/output")

    def make(chance: Random) -> tuple[Program, list[str]]:
        program = chance.choice(PROGRAMS)
        known = options(program.config)
        some = [chance.choice(known) for _ in range(4)]
        values = {
            o.name: o.default for o in some if not (o.is_path or o.required or o.default is None)
        }
        given = handed_over(program)
        if chance.random() < 0.5:
            text = encoded(values, chance), json.dumps(given).encode()
        else:
            text = json.dumps(values).encode(), encoded(given, chance)
        settings, input_ = (t.decode("utf-8", "replace") for t in text)
        flags = [f"{o.flag}=work/{o.name}" for o in known if o.required]
        return program, [*flags, f"--settings={settings}", f"--executor-input={input_}"]

    def read(given: tuple[Program, list[str]]) -> None:
        program, arguments = given
        flags, found = handed(arguments, program.config)
        assert not any("\0" in flag for flag in flags), "no command line can hold it"
        config_of(program.config, parsers[program.name].parse_args(flags))
        paths = [
            *found.parameters.values(),
            found.answer,
            *(a.path for a in found.outputs.values()),
            *(output / name for name in found.outputs),
        ]
        paths = [os.path.realpath(path) for path in paths]
        if not all(path.startswith(f"{sandbox}/") and len(path) < 2000 for path in paths):
            return  # the launcher says where; it is believed
        shutil.rmtree(sandbox / "work", ignore_errors=True)
        (output / "part").mkdir(parents=True)
        (output / "report.html").touch()
        try:
            found.write(outcome, output)
        except OSError as error:
            raise explain_os_error(error) or error from error

    tally = fuzz(make, read, sandbox, inputs)
    assert min(tally.read, tally.refused) > inputs // 20
