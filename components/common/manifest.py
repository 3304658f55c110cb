"""What an artifact consists of: its files with their sizes and digests, and where it came from.

An artifact's manifest is written after all its files, so a reader who finds one knows that the
artifact is whole; and it is read back from places that others can write to, so nothing in it is
believed before it was checked.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

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

    def refuse(why: str) -> NoReturn:
        raise DataError(
            f"{where} is not a valid manifest: {why}",
            hint="Publish the artifact again, or check who else may write there",
        )

    if len(data) > MAX_BYTES:
        refuse(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        value = strict_json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        sealed, found = value.pop("sha256", None), _seal(value)
    except ValueError as error:
        refuse(_short(error))
    if sealed != found:
        refuse("its content does not match its own sha256")
    if value.get("version") != 1 or isinstance(value["version"], bool):
        refuse(f"version {_short(value.get('version'))}, and only 1 is known")
    folder, created = value.get("folder"), value.get("created")
    if not isinstance(folder, str) or not _FOLDER.match(folder):
        refuse(f"folder {_short(folder)}")
    if not isinstance(created, str) or not _CREATED.match(created):
        refuse(f"created {_short(created)}")
    notes: dict[str, dict[str, Scalar]] = {}
    for name in ("producer", "inputs"):
        note = value.get(name)
        if not isinstance(note, dict) or len(note) > MAX_NOTES:
            refuse(f"{name} is not an object of at most {MAX_NOTES} entries")
        if not all(v is None or isinstance(v, str | int | float | bool) for v in note.values()):
            refuse(f"{name} holds more than plain values")
        notes[name] = note
    listed = value.get("files")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_FILES:
        refuse(f"files is not a list of 1 to {MAX_FILES} entries")
    files = []
    for number, entry in enumerate(listed):
        if not isinstance(entry, dict):
            refuse(f"files[{number}] is not an object")
        path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256")
        if not isinstance(path, str):
            refuse(f"files[{number}].path {_short(path)}")
        if why := path_fault(path):
            refuse(f"files[{number}].path {_short(path)}: {why}")
        if type(size) is not int or not 0 <= size <= MAX_FILE_SIZE:
            refuse(f"files[{number}].size {_short(size)}")
        if not isinstance(sha256, str) or not _SHA256.match(sha256):
            refuse(f"files[{number}].sha256 {_short(sha256)}")
        files.append(FileEntry(path, size, sha256))
    if clash := _clash(f.path for f in files):
        refuse(f"{_short(clash)} is listed twice, or as a file and as a folder")
    return Manifest(tuple(files), folder, created, notes["producer"], notes["inputs"])


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


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
