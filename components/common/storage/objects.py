"""Objects that others have written, such as the launcher of Kubeflow Pipelines: without a manifest.

Keys are relative to the folder that the address lies in: those of s3://bucket/run/model are
`model`, where that is one object, or `model/checkpoint_best.pt` and so on.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from components.common.errors import DataError
from components.common.manifest import path_fault
from components.common.retry import Patience
from components.common.storage.store import Settings, Store, Wanted, open_store
from components.common.transfer import Checksum


def sizes(uri: str, *, siblings: bool = False) -> dict[str, int]:
    """Bytes of the objects at an address, by key; with `siblings` of all that begin like it.

    Raises:
        ConfigError, TransferError: as storage's `fetch` raises them.
    """
    store, name = _opened(uri)
    found = store.sizes(name)
    return {key: size for key, size in found.items() if siblings or _within(key, name)}


def read_small(uri: str, limit: int) -> bytes | None:
    """The content of a small object; None where there is none.

    Raises:
        ConfigError, TransferError: as storage's `fetch` raises them.
        DataError: it is larger than `limit` bytes.
    """
    store, name = _opened(uri)
    return store.read(name, limit)


def write_small(uri: str, data: bytes, patience: Patience) -> None:
    """Store a small object in one step, in the place of what is there.

    Raises:
        ConfigError, TransferError, OSError: as storage's `publish` raises them.
    """
    store, name = _opened(uri, Settings(patience))
    store.write(name, data, exclusive=False)


def fetch_objects(
    uri: str, found: dict[str, int], folder: Path, advance: Callable[[int], None]
) -> None:
    """Bring the objects that `sizes` has found at an address into a folder, under their keys.

    A file has its name there when it is whole, by its size and by the checksum of the service, if
    that has one. One that is there in its size is not fetched again: what was cut off goes on.

    Raises:
        ConfigError, TransferError: as storage's `fetch` raises them.
        DataError: a key is not the name of a file, or an object has changed since or is damaged.
        OSError: the folder cannot be written.
    """
    store, _ = _opened(uri)
    for key, size in found.items():
        if fault := path_fault(key):
            raise DataError(f"{uri}: {key!a}: {fault}")
        target = folder / key
        if target.is_file() and target.stat().st_size == size:
            advance(size)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        for left in (1, 0):
            store.download([Wanted(key, partial, size)], advance)
            if _as_told(partial, store.checksum(key)):
                break
            if not left:
                raise DataError(
                    f"{uri}: {key} is not what its checksum says", hint="Fetch it again"
                )
            advance(-size)
        os.replace(partial, target)


def _as_told(path: Path, checksum: Checksum | None) -> bool:
    if checksum is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, checksum.hasher).hexdigest() == checksum.value


def remove_objects(uri: str) -> None:
    """Remove all objects at an address.

    Raises:
        ConfigError, TransferError: as storage's `fetch` raises them.
    """
    store, name = _opened(uri)
    for key in store.sizes(name):
        if _within(key, name):
            store.remove(key)


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}/")


def _opened(uri: str, settings: Settings | None = None) -> tuple[Store, str]:
    parent, _, name = uri.rstrip("/").rpartition("/")
    return open_store(parent, settings), name
