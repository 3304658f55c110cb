"""What an artifact consists of: its files with their sizes and digests, and where it came from.

An artifact's manifest is written after all its files, so a reader who finds one knows that the
artifact is whole; and it is read back from places that others can write to, so nothing in it is
believed before it was checked.
"""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from components.common import strict_json
from components.common.errors import ConfigError, DataError

NAME = "manifest.json"

Scalar = str | int | float | bool | None

# A manifest is kept in memory: these bounds keep a hostile one from filling it.
MAX_BYTES = 16 << 20
MAX_FILES = 100_000
MAX_NOTES = 1_000
MAX_FILE_SIZE = 5 << 40  # bytes; the largest object that S3 holds
MAX_PATH = 700  # bytes of UTF-8; an S3 key has 1024, the artifact's address needs some of them
MAX_PART = 255  # bytes; a file name on Linux

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_FOLDER = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{12}\Z")
_CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")


@dataclasses.dataclass(frozen=True, order=True)
class FileEntry:
    """One file: its path inside the artifact (with "/"), its bytes and their digest (hex)."""

    path: str
    size: int
    sha256: str


def made_by(step: str, parameters: Mapping[str, Any]) -> dict[str, Scalar]:
    """A manifest's `producer`: the step, what runs here as far as the container tells, parameters.

    Of those, others than plain values are left out.
    """
    return {
        "step": step,
        "revision": os.environ.get("RACE_REVISION", ""),
        "image": os.environ.get("RACE_IMAGE", ""),
        **{
            f"parameters.{name}": value
            for name, value in parameters.items()
            if isinstance(value, str | int | float | bool)
        },
    }


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of an artifact.

    `folder` is where its files lie, beside the manifest: each publication has a folder of its own,
    so two writers never mix their files. `producer` says what made it (step, parameters, image,
    code version), `inputs` from what (name to digest); both are flat.
    """

    files: tuple[FileEntry, ...]
    folder: str
    created: str  # UTC, 2026-01-31T12:00:00Z
    producer: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(f.size for f in self.files)

    @property
    def digest(self) -> str:
        """One sha256 (hex) for the whole content: paths, sizes and digests, and nothing else."""
        content = [[f.path, f.size, f.sha256] for f in sorted(self.files)]
        text = strict_json.dumps(content, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> bytes:
        """The manifest as it is stored.

        Raises:
            ConfigError: a reader would refuse it (see `parse`).
        """
        value = {"version": 1, **dataclasses.asdict(self)}
        try:
            value["sha256"] = _seal(value)
            data = (strict_json.dumps(value, indent=1) + "\n").encode()
            parse(data, where="manifest")
        except (TypeError, ValueError, DataError) as error:
            raise ConfigError(f"cannot be published: {getattr(error, 'what', error)}") from error
        return data


def parse(data: bytes, *, where: str) -> Manifest:
    """The manifest in `data`, which is not trusted; `where` names it in errors.

    Raises:
        DataError: it is not a manifest, is too large or does not match its own sha256; or a path in
            it could leave the folder that it is fetched to, occurs twice, or is a file and a
            folder at once.
    """

    try:
        _need(len(data) <= MAX_BYTES, f"larger than {MAX_BYTES >> 20} MiB")
        return _manifest(strict_json.loads(data))
    except ValueError as error:
        raise DataError(
            f"{where} is not a valid manifest: {error}",
            hint="Publish the artifact again, or check who else may write there",
        ) from None


def _need(good: bool, why: str) -> None:
    if not good:
        raise ValueError(why)


def _manifest(value: Any) -> Manifest:
    _need(isinstance(value, dict), "not an object")
    sealed = value.pop("sha256", None)
    _need(sealed == _seal(value), "its content does not match its own sha256")
    version, folder, created = (value.get(name) for name in ("version", "folder", "created"))
    known = version == 1 and version is not True
    _need(known, f"version {version!a:.80}, and only 1 is known")
    _need(_fits(_FOLDER, folder), f"folder {folder!a:.80}")
    _need(_fits(_CREATED, created), f"created {created!a:.80}")
    listed = value.get("files")
    some = isinstance(listed, list) and 0 < len(listed) <= MAX_FILES
    _need(some, f"files is not a list of 1 to {MAX_FILES} entries")
    files = tuple(_entry(f"files[{number}]", entry) for number, entry in enumerate(listed))
    clash = _clash(file.path for file in files)
    _need(not clash, f"{clash!a:.80} is listed twice, or as a file and as a folder")
    return Manifest(files, folder, created, _notes(value, "producer"), _notes(value, "inputs"))


def _entry(name: str, value: Any) -> FileEntry:
    _need(isinstance(value, dict), f"{name} is not an object")
    path, size, sha256 = (value.get(key) for key in ("path", "size", "sha256"))
    fault = path_fault(path) if isinstance(path, str) else "not text"
    _need(not fault, f"{name}.path {path!a:.80}: {fault}")
    _need(type(size) is int and 0 <= size <= MAX_FILE_SIZE, f"{name}.size {size!a:.80}")
    _need(_fits(_SHA256, sha256), f"{name}.sha256 {sha256!a:.80}")
    return FileEntry(path, size, sha256)


def _notes(value: Mapping[str, Any], name: str) -> dict[str, Scalar]:
    found = value.get(name)
    if not isinstance(found, dict) or len(found) > MAX_NOTES:
        raise ValueError(f"{name} is not an object of at most {MAX_NOTES} entries")
    plain = all(v is None or isinstance(v, str | int | float | bool) for v in found.values())
    _need(plain, f"{name} holds more than plain values")
    return found


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.match(value))


def _seal(value: Mapping[str, Any]) -> str:
    """The sha256 of everything else in a manifest: a flipped byte is found before it misleads.

    Raises:
        ValueError: the value holds what JSON cannot say (not-a-number, half a surrogate pair).
    """
    text = strict_json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def path_fault(path: str) -> str:
    """Why `path` may not name a file inside an artifact; empty where it may."""
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return "not valid Unicode"
    if len(encoded) > MAX_PATH:
        return f"longer than {MAX_PATH} bytes"
    if any(ord(c) < 32 or ord(c) == 127 for c in path) or "\\" in path:
        return "a control character or backslash in it"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "not a plain relative path"
        if len(part.encode("utf-8")) > MAX_PART:
            return f"a name in it is longer than {MAX_PART} bytes"
    return ""


def _clash(paths: Iterable[str]) -> str | None:
    """A path that occurs twice, or that is a folder of another one."""
    # With the separator sorting below every other character, a folder comes right before its files.
    ordered = sorted(paths, key=lambda path: path.replace("/", "\0"))
    for path, following in itertools.pairwise(ordered):
        if following == path or following.startswith(path + "/"):
            return path
    return None
