"""Artifacts: folders of files that are in a store whole or not at all.

Below an artifact's address lie `manifest.json` and, beside it, a folder for each publication that
was begun ("20260131T120000-0123456789ab"). A publication fills its own folder, looks at what
arrived, and writes the manifest last, in one step; only the files that the manifest lists are the
artifact. So a publication that dies leaves nothing that a reader would see, and two writers at one
address never mix their files: one of them writes the manifest, the other finds it there.
"""

import datetime
import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.common import manifest as manifests
from components.common import progress
from components.common.dataset import natural
from components.common.errors import DataError, OutputError, RaceError, TransferError
from components.common.files import atomic_folder
from components.common.manifest import FileEntry, Manifest, Scalar
from components.common.retry import AttemptError
from components.common.storage.liveness import Heartbeat, owner_of, publications
from components.common.storage.source import files_of, has_these
from components.common.storage.store import (
    DAMAGED,
    Settings,
    Store,
    Wanted,
    WrongContentError,
    brief,
    open_store,
)

log = logging.getLogger(__name__)

DAY = 86_400.0  # seconds
# Damage in transit shows in one fetch and not in the next; damage in the store in all of them.
_FETCHES = 2


@dataclass(frozen=True)
class Artifact:
    """A complete artifact: where it is, and what it consists of."""

    address: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """The last part of its address."""
        return self.address.rstrip("/").rpartition("/")[2]


def publish(
    source: Path,
    uri: str,
    *,
    producer: Mapping[str, Scalar] | None = None,
    inputs: Mapping[str, Scalar] | None = None,
    overwrite: bool = False,
    settings: Settings | None = None,
) -> Artifact:
    """Make the folder `source`, or the one file that it is, the artifact at `uri`.

    When the same content is there already, that is a success, whoever published it: so a
    publication may be repeated when it is not known how it ended. `overwrite` sends everything
    again and lets it take the place of what is there, which may be another content or damaged; a
    reader sees the one or the other. Empty folders are left out.

    What publications that were killed left at `uri` is removed.

    Raises:
        ConfigError: `uri` or a file's name cannot be used.
        OutputError: another content is there and `overwrite` is off. Nothing was changed.
        DataError: `source` is not there, holds a link or other special file, or changes meanwhile.
        TransferError: the store could not be reached, refused, or lost what it was given.
        OSError: a file could not be read, or (in a local store) written.
    """
    files = files_of(source)
    store = open_store(uri, settings)
    total = sum(path.stat().st_size for path in files.values())
    with Heartbeat(store) as heartbeat:
        with progress.bar(total=total, what=f"publish {source.name}", bytes=True) as bar:
            published = put(
                files,
                store,
                heartbeat,
                producer=producer or {},
                inputs=inputs or {},
                overwrite=overwrite,
                advance=bar.update,
            )
        try:
            remove_dead(store, heartbeat, stale=DAY)
        except (RaceError, OSError) as error:
            log.debug("%s: what dead publishers left stays: %s", store.address, error)
    return published


def put(
    files: Mapping[str, Path],
    store: Store,
    heartbeat: Heartbeat,
    *,
    producer: Mapping[str, Scalar],
    inputs: Mapping[str, Scalar],
    overwrite: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Artifact:
    """`publish` for a publisher of several artifacts, which removes itself what the dead left.

    Args:
        files: their paths inside the artifact, and where they lie.
        advance: is called with bytes that were sent.
    """
    existing = _find(store, or_damaged=overwrite)
    if existing and not overwrite:
        if has_these(existing.manifest, files):
            return existing
        raise _conflict(store)
    now = datetime.datetime.now(datetime.UTC)
    folder = heartbeat.folder(now)
    try:
        stored = store.upload([(p, f"{folder}/{name}") for name, p in files.items()], advance)
        manifest = Manifest(
            files=tuple(FileEntry(n, *s) for n, s in zip(files, stored, strict=True)),
            folder=folder,
            created=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            producer=dict(producer),
            inputs=dict(inputs),
        )
        data = manifest.to_json()
    except BaseException:
        _discard(store, folder)
        raise
    # From here on the manifest may be there even when an error says that it is not, so its files
    # stay: `remove_dead` removes them later if no manifest lists them.
    published = _commit(store, data, folder, existing, overwrite)
    if published.manifest == manifest:
        _require_files(store, manifest)
        return published
    _discard(store, folder)
    if not overwrite and published.manifest.digest != manifest.digest:
        raise _conflict(store)
    return published


def fetch(uri: str, output: Path, *, settings: Settings | None = None) -> Artifact:
    """Bring the artifact at `uri` into the new folder `output`; every byte is checked.

    Raises:
        ConfigError: `uri` cannot be used.
        DataError: no complete artifact is there, or it is damaged.
        TransferError: the store could not be reached, or refused.
        OSError: `output` exists already, cannot be written, or the disk is full.
    """
    store = open_store(uri, settings)
    return _fetch(store, _existing(store), output)


def verify(uri: str, *, settings: Settings | None = None) -> Artifact:
    """Read every byte of the artifact at `uri` and check it, without keeping any.

    Raises:
        ConfigError, DataError, TransferError: as `fetch` raises them.
    """
    store = open_store(uri, settings)
    artifact = _existing(store)
    manifest = artifact.manifest
    with progress.bar(total=manifest.size, what=f"verify {artifact.name}", bytes=True) as bar:
        for entry in manifest.files:
            for left in reversed(range(_FETCHES)):
                digest = hashlib.sha256()
                for chunk in store.chunks(f"{manifest.folder}/{entry.path}", entry.size):
                    digest.update(chunk)
                    bar.update(len(chunk))
                if digest.hexdigest() == entry.sha256:
                    break
                if not left:
                    raise _damaged(store, manifest, entry, digest.hexdigest())
                bar.update(-entry.size)
    return artifact


def find(uri: str, *, settings: Settings | None = None) -> Artifact | None:
    """The complete artifact at `uri`, None if there is none.

    Raises:
        ConfigError, TransferError: as `fetch` raises them.
        DataError: its manifest is damaged.
    """
    return _find(open_store(uri, settings))


def artifacts(uri: str, *, settings: Settings | None = None) -> Iterator[Artifact]:
    """The complete artifacts right below `uri`, newest first.

    Newest is the highest name, with numbers in it compared as numbers: clocks differ between
    machines, update counts do not. One with a damaged manifest is logged and left out.

    Raises:
        ConfigError, TransferError: as `fetch` raises them.
    """
    return artifacts_in(open_store(uri, settings))


def artifacts_in(store: Store) -> Iterator[Artifact]:
    """As `artifacts`, of a store."""
    for below in _by_age(store):
        try:
            artifact = _find(below)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        if artifact:
            yield artifact


def newest(uri: str, *, settings: Settings | None = None) -> Artifact | None:
    """The first of `artifacts`, None if there is none."""
    return next(artifacts(uri, settings=settings), None)


def fetch_newest(uri: str, output: Path, *, settings: Settings | None = None) -> Artifact | None:
    """Fetch the newest artifact below `uri` that is not damaged; None if there is none at all.

    `uri` may also be an artifact itself. A damaged one is logged and the one before it is taken; a
    store that fails is an error, since the newest may be well.

    Raises:
        DataError: all are damaged.
        ConfigError, TransferError, OSError: as `fetch` raises them.
    """
    store = open_store(uri, settings)
    if artifact := _find(store):
        return _fetch(store, artifact, output)
    damaged: list[str] = []
    for below in _by_age(store):
        try:
            if artifact := _find(below):
                return _fetch(below, artifact, output)
        except DataError as error:
            log.warning("%s; trying the one before", error.what)
            damaged.append(below.address.rpartition("/")[2])
    if damaged:
        raise DataError(
            f"{store.address}: no artifact is whole: {', '.join(damaged)} are damaged",
            hint="Remove them to start from the beginning, or give another address",
        )
    return None


def remove_dead(store: Store, heartbeat: Heartbeat, *, stale: float, same: bool = True) -> None:
    """Remove what dead publishers left at or below an address; see `Heartbeat.judge`.

    `heartbeat`'s own leavings too, which must not be publishing now. What has no sign of life, as
    of earlier versions of this module, is dead after `stale` seconds.

    Raises:
        TransferError, OSError: as `Store` raises them.
    """
    stamps = store.stamps()
    signs = {key: stamp for key, stamp in stamps.items() if owner_of(key)}
    dead = [key for key, lives in heartbeat.judge(store, signs, same=same).items() if not lives]
    known = {owner_of(key) for key in signs} - {heartbeat.owner}
    gone = {owner_of(key) for key in dead} | {heartbeat.owner}
    remaining = set()
    for one in publications([*stamps, *store.uploads()]):
        if one.owner in gone or (one.owner not in known and one.older(stale)):
            below = store.at(one.artifact) if one.artifact else store
            if not _remove_unlisted(below, one.folder):
                remaining.add(one.owner)
    # Last, so that whoever comes after a cleaner that was killed goes on with it: with those that
    # have artifacts too, which may be killed while it removes one.
    for key in dead:
        if owner_of(key) not in remaining:
            store.remove(key)


def _remove_unlisted(store: Store, folder: str) -> bool:
    try:
        artifact = _find(store)
    except DataError as error:
        log.warning("left alone: %s", error)  # whether it is listed cannot be told
        return False
    if artifact and artifact.manifest.folder == folder:
        return False
    store.remove_folder(folder)
    return True


# Publishing


def _require_files(store: Store, manifest: Manifest) -> None:
    """See that nobody took this publisher for dead meanwhile, and removed what it had sent.

    Raises:
        TransferError: so it is; no artifact is there then.
    """
    there = store.stamps(f"{manifest.folder}/")
    if any(f"{manifest.folder}/{f.path}" not in there for f in manifest.files):
        store.remove(manifests.NAME)
        raise TransferError(
            f"{store.address}: files were removed while they were being published",
            hint="Publish again; it happens to a publisher that stands still for minutes",
        )


def _commit(
    store: Store, data: bytes, folder: str, existing: Artifact | None, overwrite: bool
) -> Artifact:
    """Write the manifest and return what is then published here: it, or another writer's.

    The answer to the write is not enough. When it was lost, the write is repeated and finds its own
    manifest in the way; and what was accepted may not be there.
    """

    def call() -> Artifact:
        store.write(manifests.NAME, data, exclusive=not overwrite, scratch=folder)
        try:
            published = _find(store)
        except DataError as error:
            raise WrongContentError(f"it is not what was sent: {error.what}") from error
        if published is None or published == existing:
            raise AttemptError("it was accepted, but is not there")
        return published

    return store.persist(manifests.NAME, call)


def _conflict(store: Store) -> OutputError:
    return OutputError(
        f"{store.address}: another artifact has been published here",
        hint="Publish to another address",
    )


def _discard(store: Store, folder: str) -> None:
    """Remove an unpublished folder, if that works at once; `remove_dead` finds it if not."""
    try:
        brief(store).remove_folder(folder)
    except (RaceError, OSError) as error:
        log.debug("%s/%s stays for now: %s", store.address, folder, error)


# Reading


def _find(store: Store, *, or_damaged: bool = False) -> Artifact | None:
    """The artifact in a store; with `or_damaged`, None too where its manifest cannot be used.

    A manifest that cannot be used is read again: it may have been changed on its way here, which
    it tells by its own sha256.
    """
    for _ in range(_FETCHES):
        data = store.read(manifests.NAME, manifests.MAX_BYTES)
        if data is None:
            return None
        try:
            manifest = manifests.parse(data, where=f"{store.address}/{manifests.NAME}")
            return Artifact(store.address, manifest)
        except DataError as error:
            damaged = error
    if or_damaged:
        return None
    raise damaged


def _existing(store: Store) -> Artifact:
    artifact = _find(store)
    if artifact is None:
        raise DataError(
            f"{store.address}: no complete artifact is there",
            hint="Check the address; one whose publication did not end does not count",
        )
    return artifact


def _fetch(store: Store, artifact: Artifact, output: Path) -> Artifact:
    size = artifact.manifest.size
    with atomic_folder(output) as partial:
        _need_space(output, partial, size)
        with progress.bar(total=size, what=f"fetch {artifact.name}", bytes=True) as bar:
            _fetch_files(store, artifact.manifest, partial, bar.update)
    return artifact


def _fetch_files(
    store: Store, manifest: Manifest, folder: Path, advance: Callable[[int], None]
) -> None:
    for entry in manifest.files:
        (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
    entries = manifest.files
    for left in reversed(range(_FETCHES)):
        digests = store.download(
            [Wanted(f"{manifest.folder}/{f.path}", folder / f.path, f.size) for f in entries],
            advance,
        )
        wrong = [(f, d) for f, d in zip(entries, digests, strict=True) if f.sha256 != d]
        if not wrong:
            return
        if not left:
            raise _damaged(store, manifest, *wrong[0])
        log.warning("%s: %d files arrived damaged, fetching them again", store.address, len(wrong))
        entries = tuple(f for f, _ in wrong)
        advance(-sum(f.size for f in entries))


def _damaged(store: Store, manifest: Manifest, entry: FileEntry, found: str) -> DataError:
    return DataError(
        f"{store.address}/{manifest.folder}/{entry.path} is damaged: its sha256 is {found}, "
        f"and {entry.sha256} was published ({_FETCHES} attempts)",
        hint=DAMAGED,
    )


def _need_space(output: Path, partial: Path, size: int) -> None:
    """Better to fail now than after an hour."""
    usage = shutil.disk_usage(partial)
    if usage.total and usage.free < size:  # some mounts cannot tell, and say 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))


def _by_age(store: Store) -> Iterator[Store]:
    """The folders of a store, highest first: "update-10" above "update-9"."""
    return map(store.at, sorted(store.folders(), key=natural, reverse=True))
