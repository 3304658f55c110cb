"""How a folder, or a file, becomes an artifact."""

import datetime
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from components.common import manifest as manifests
from components.common import progress
from components.common.errors import ConfigError, DataError, OutputError, RaceError, TransferError
from components.common.files import sha256_of
from components.common.manifest import FileEntry, Manifest, Scalar
from components.common.retry import AttemptError
from components.common.storage.artifact import Artifact, find_in
from components.common.storage.liveness import Heartbeat
from components.common.storage.retention import DAY, remove_dead
from components.common.storage.store import Settings, Store, WrongContentError, brief, open_store

log = logging.getLogger(__name__)


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
    existing = find_in(store, or_damaged=overwrite)
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
            published = find_in(store)
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


def files_of(source: Path) -> dict[str, Path]:
    """The files of an artifact: their paths inside it, in order, and where they lie."""
    if source.is_file():
        files = {source.name: source}
    elif source.is_dir():
        files = {}
        for folder, folders, names in os.walk(source, onerror=_raise):
            for name in folders + names:
                path = Path(folder, name)
                if path.is_symlink() or not (path.is_dir() or path.is_file()):
                    raise DataError(
                        f"{path} is a link or special file", hint="Publish plain files and folders"
                    )
            files.update((str(Path(folder, n).relative_to(source)), Path(folder, n)) for n in names)
    else:
        raise DataError(f"{source}: no such file or folder", hint="Check the path")
    if not files:
        raise DataError(f"{source} holds no file to publish", hint="Check the path")
    for name in files:
        if why := manifests.path_fault(name):
            raise ConfigError(f"{name!a} cannot be published: {why}", hint="Rename it")
    return dict(sorted(files.items()))


def _raise(error: OSError) -> None:
    raise error


def has_these(manifest: Manifest, files: Mapping[str, Path]) -> bool:
    """Whether local files are what a manifest lists. Names and sizes are compared first."""
    if {f.path: f.size for f in manifest.files} != {n: p.stat().st_size for n, p in files.items()}:
        return False
    return all(sha256_of(files[entry.path]) == entry.sha256 for entry in manifest.files)
