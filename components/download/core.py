"""Bring files from elsewhere into one folder, checked, and unpacked where that is asked for."""

import contextlib
import dataclasses
import hashlib
import logging
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from components.common import hub
from components.common.cli import option, require_ranges
from components.common.dataset import write_origin
from components.common.errors import ConfigError, DataError
from components.common.executor import Outcome
from components.common.files import atomic_folder, plain
from components.common.packed import is_table, packing
from components.common.retry import Patience
from components.common.storage.store import require_supported
from components.common.transfer import shown_url
from components.download import known
from components.download.archive import CHUNK, Folder, Limits, Target, unpack
from components.download.fetch import check_url, fetch, file_name, local_folder
from components.download.formats import check_format
from components.download.mirror import Mirror

log = logging.getLogger(__name__)


# The end of an address that says what its file, or files, must be.
_DIGESTS = re.compile(r"#((?:[\w.-]+=[0-9a-fA-F]{64}(?:&|$))+)$")


def without_digests(url: str) -> str:
    """An address without the digests that may end it."""
    return _DIGESTS.sub("", url)


@dataclass(frozen=True)
class DownloadConfig:
    """What to fetch, and within which limits.

    Raises:
        ConfigError: a value is out of its range, or two contradict each other.
    """

    url: tuple[str, ...] = option(
        help="where to get a file: https://, http://, s3://, file:// or a path; it may end with"
        " #sha256= and the file's digest, or with `files` #NAME=DIGEST&NAME=DIGEST; or a repository"
        " of the Hugging Face hub: hf://OWNER/MODEL, hf://datasets/OWNER/NAME, with @REVISION",
        metavar="URL",
    )
    output: Path = option(help="new folder for the files, each under the name that ends its URL")
    mirror_uri: str = option(
        "",
        help="s3:// address or folder that keeps what was downloaded; it is looked for there first",
        metavar="URI",
    )
    unpack: bool = option(False, help="put each archive's content in its place: tar, tar.gz, zip")
    pack: bool = option(
        False,
        help="put the content of archives, or of a folder, and tables of questions (.jsonl, .csv,"
        " .parquet...) into one file, content.zip, with its sha256 beside it",
    )
    attempts: int = option(6, least=1, help="attempts in a row without progress before giving up")
    connect_timeout: float = option(10.0, least=0.001, help="seconds to wait for a connection")
    read_timeout: float = option(60.0, least=0.001, help="seconds to wait for the next byte")
    max_members: int = option(Limits.members, least=1, help="most files and folders in an archive")
    max_gib: float = option(
        Limits.bytes / (1 << 30), least=1e-9, help="most GiB that an archive unpacks to"
    )
    max_ratio: float = option(
        Limits.ratio,
        least=1e-9,
        help=f"most that an archive grows by (below {Limits.ratio_free >> 20} MiB it may more)",
    )

    files: tuple[str, ...] = option(
        (), help="files to get from the folder that the url is", metavar="NAME"
    )

    def __post_init__(self) -> None:
        if not self.url:
            raise ConfigError("no URL is given", hint="Give at least one")
        for url in self.sources:
            check_url(url)
        if self.unpack and self.pack:
            raise ConfigError("unpack and pack exclude each other", hint="Give one of them")
        names = [file_name(url) for url in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"two downloads are both named {name}", hint="Download them apart"
                )
        for url in self.sources:
            if wrong := url.partition("#sha256=")[2]:
                raise ConfigError(f"{wrong!r} is not a sha256", hint="Give 64 hexadecimal digits")
        require_supported("mirror_uri", self.mirror_uri)
        require_ranges(self)

    @property
    def archives(self) -> bool:
        """Whether the files are archives, of which the content is wanted."""
        return self.unpack or self.pack

    @property
    def limits(self) -> Limits:
        return Limits(self.max_members, int(self.max_gib * (1 << 30)), self.max_ratio)

    @property
    def sources(self) -> dict[str, str]:
        """Each file's address, with the digest that it must have, in lower case, or ""."""
        found = {}
        for url in self.url:
            given, address = _DIGESTS.search(url), without_digests(url)
            digests = dict(pair.split("=") for pair in given[1].split("&")) if given else {}
            wanted = {f"{address.rstrip('/')}/{name}": name for name in self.files}
            for file, name in (wanted or {address: "sha256"}).items():
                found[file] = digests.get(name, "").lower() or known.SHA256.get(file, "")
        return found


@dataclass(frozen=True)
class Downloaded:
    """One file that has arrived.

    `url` is fit for logs: without user, password and query. `path` is the file or, of an
    archive that was unpacked or packed, the folder with its content. `bytes` and `sha256` are those
    of the file as it came; `pinned` says that the digest was known beforehand, and agreed.
    `checked` names what else it was compared with, such as the md5 that object storage has of it.
    """

    url: str
    path: Path
    bytes: int
    sha256: str
    pinned: bool
    checked: str = ""

    @property
    def trust(self) -> str:
        """What its content was compared with, in a few words."""
        if self.pinned:
            return "matches"
        return f"not pinned, {f'its {self.checked} agrees' if self.checked else 'unchecked'}"


class Downloads(list[Downloaded]):
    """The files that have arrived."""

    @property
    def outcome(self) -> Outcome:
        names = [file.url.rpartition("/")[2] for file in self]
        digests = {f"sha256 {n}": file.sha256 for n, file in zip(names, self, strict=True)}
        checked = {f"checked {n}": file.trust for n, file in zip(names, self, strict=True)}
        size = sum(file.bytes for file in self)
        return Outcome(metadata={"bytes": size, **digests, **checked})


def download(config: DownloadConfig) -> Downloads:
    """Download every file, one after the other; the output folder appears when all are there.

    Raises:
        TransferError: a file could not be fetched.
        DataError: a file is not what was expected, or is an archive that is not fit to be unpacked.
        OSError: the output exists already or cannot be written.
    """
    results = Downloads()
    with (
        atomic_folder(config.output) as folder,
        packing(folder) if config.pack else contextlib.nullcontext(Folder(folder)) as target,
    ):
        for url, expected in config.sources.items():
            if url.startswith(hub.SCHEME):
                result = _from_hub(url, target, config)
            elif config.pack and (local := local_folder(url)):
                result = _take_folder(str(local), local, target, config)
            else:
                result = _take_file(url, expected, folder, target, config)
            results.append(result)
        if len(results) == 1 and (name := _origin(url, results[0].sha256, config)):
            write_origin(folder, name)
    return results


def _origin(url: str, sha256: str, config: DownloadConfig) -> str:
    """What the steps that follow are told of where it came from; "" for a file among others."""
    if url.startswith(hub.SCHEME):
        return hub.parse(url).name
    return known.name_of(url, sha256) if config.archives else ""


def _take_file(
    url: str, expected: str, folder: Path, target: Target, config: DownloadConfig
) -> Downloaded:
    name = file_name(url)
    # A table of questions is data already, where archives' content is wanted.
    archive = config.archives and not (config.pack and is_table(name))

    def check(path: Path) -> None:
        if not expected:
            check_format(path, name, archive=archive)

    # What is still to be unpacked lies apart: a member may have any name, even its own.
    with tempfile.TemporaryDirectory(prefix=".arrival-", dir=folder) as arrival:
        path, mirror = Path(arrival) / name, Mirror(config.mirror_uri)
        started = time.monotonic()
        mirrored = mirror.take(url, expected, path, check)
        patience = Patience(config.attempts, config.connect_timeout, config.read_timeout)
        fetched = mirrored or fetch(url, path, patience, expected)
        if expected and fetched.sha256 != expected:
            raise DataError(
                f"{shown_url(url)}: wrong checksum: expected sha256 {expected}, computed"
                f" {fetched.sha256}",
                hint="Check the address and the digest; do not use the file if both are right",
            )
        if not mirrored:
            check(path)
        result = Downloaded(
            shown_url(url),
            config.output if config.archives else config.output / name,
            fetched.bytes,
            fetched.sha256,
            bool(expected),
            fetched.checked,
        )
        line = f"{'took from the mirror' if mirrored else 'downloaded'} {name} "
        line += f"{_taken(fetched.bytes, started)}, sha256 {fetched.sha256} ({result.trust})"
        if archive:
            started = time.monotonic()
            unpacked = unpack(path, target, config.limits)
            line += f", unpacked {unpacked.files:,} files, {_taken(unpacked.bytes, started)}"
        elif config.pack:
            _copy(path, name, target)
        if not mirrored:  # not before it has shown to be fit for use
            mirror.keep(url, path, fetched)
        if not config.archives:
            if (folder / name).exists():  # a repository has one of this name
                raise ConfigError(f"{name} comes from two addresses", hint="Download one apart")
            path.rename(folder / name)
    log.info("%s", line)
    return result


def _taken(count: int, started: float) -> str:
    return f"{_mib(count)} in {time.monotonic() - started:.1f} s"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"


def _from_hub(url: str, target: Target, config: DownloadConfig) -> Downloaded:
    cached = hub.fetch(hub.parse(url, dataset=True if config.pack else None))
    result = _take_folder(url, cached, target, config)
    log.info("%s is commit %s", url, cached.name)
    return dataclasses.replace(result, checked=f"commit {cached.name[:12]}")


def _take_folder(shown: str, folder: Path, target: Target, config: DownloadConfig) -> Downloaded:
    """Pack, or copy, a folder of this machine: a data set that somebody has at hand."""
    digest, size, files = hashlib.sha256(), 0, 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if path.is_dir():
            if path.is_symlink():  # what it leads to would be left out
                raise DataError(f"{path}: a link to a folder", hint="Put the folder itself there")
            target.folder(name)
            continue
        # The cache of the hub has links to its files, which nobody else has put there.
        file = path.resolve() if shown.startswith(hub.SCHEME) else plain(path)
        digest.update(f"{name}\n".encode() + _copy(file, name, target))
        size, files = size + file.stat().st_size, files + 1
    if not files:
        raise DataError(f"{shown}: an empty folder", hint="Check the address")
    log.info("took %s: %s files, %s", shown, f"{files:,}", _mib(size))
    return Downloaded(shown, config.output, size, digest.hexdigest(), False)


def _copy(path: Path, name: str, target: Target) -> bytes:
    """Make a file one of the target's; its sha256."""
    digest = hashlib.sha256()
    with path.open("rb") as source, target.file(name, path.stat().st_size) as file:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.digest()
