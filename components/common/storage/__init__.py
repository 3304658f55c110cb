"""Artifacts in object storage (s3://) and in folders: there whole, or not at all.

    publish   a folder or a file becomes an artifact
    fetch     an artifact becomes a folder, with every byte checked
    verify    checks every byte, keeps none

    sizes, read_small, write_small, fetch_objects, remove_objects
              for what others have written, which has no manifest

A folder of artifacts, such as a run's checkpoints:

    artifacts, newest, fetch_newest, remove_all
    Publisher     publishes into it in the background, and keeps the newest few
"""

from components.common.storage.artifact import (
    Artifact,
    artifacts,
    fetch,
    fetch_newest,
    find,
    newest,
    verify,
)
from components.common.storage.objects import (
    fetch_objects,
    read_small,
    remove_objects,
    sizes,
    write_small,
)
from components.common.storage.publication import publish
from components.common.storage.publisher import Publisher
from components.common.storage.retention import remove_all
from components.common.storage.store import Settings

__all__ = [
    "Artifact",
    "Publisher",
    "Settings",
    "artifacts",
    "fetch",
    "fetch_newest",
    "fetch_objects",
    "find",
    "newest",
    "publish",
    "read_small",
    "remove_all",
    "remove_objects",
    "sizes",
    "verify",
    "write_small",
]
