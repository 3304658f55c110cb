"""Artifacts: folders of files that are in a store whole or not at all.

Below an artifact's address lie `manifest.json` and, beside it, a folder for each publication that
was begun ("20260131T120000-0123456789ab"). A publication fills its own folder, looks at what
arrived, and writes the manifest last, in one step; only the files that the manifest lists are the
artifact. So a publication that dies leaves nothing that a reader would see, and two writers at one
address never mix their files: one of them writes the manifest, the other finds it there.
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.common import manifest as manifests
from components.common import progress
from components.common.dataset import natural
from components.common.errors import DataError
from components.common.files import atomic_folder
from components.common.manifest import FileEntry, Manifest
from components.common.storage.store import DAMAGED, Settings, Store, Wanted, open_store

log = logging.getLogger(__name__)

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
    return find_in(open_store(uri, settings))


def find_in(store: Store, *, or_damaged: bool = False) -> Artifact | None:
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
            artifact = find_in(below)
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
    if artifact := find_in(store):
        return _fetch(store, artifact, output)
    damaged: list[str] = []
    for below in _by_age(store):
        try:
            if artifact := find_in(below):
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


def _existing(store: Store) -> Artifact:
    artifact = find_in(store)
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
