"""What is published: the files of a folder, or one file."""

import os
from collections.abc import Mapping
from pathlib import Path

from components.common import manifest as manifests
from components.common.errors import ConfigError, DataError
from components.common.files import sha256_of
from components.common.manifest import Manifest


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
