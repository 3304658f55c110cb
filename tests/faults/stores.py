"""Both kinds of store, and what lies in them."""

from pathlib import Path
from typing import Any

import boto3

from components.common.retry import Patience
from components.common.storage import Settings
from components.common.storage.liveness import Heartbeat
from components.common.storage.retention import prune
from components.common.storage.store import open_store, parse_address

# S3 wants parts of 5 MiB at least; one attempt after another, without a wait worth the name.
QUICK = Settings(Patience(attempts=3, connect=2, read=5, first_wait=0.01), part=5 << 20, workers=3)


def small(folder: Path, text: str = "text") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file.txt").write_text(text)
    return folder


def pruned(uri: str, settings: Settings = QUICK, **options: Any) -> list[str]:
    """Remove old artifacts as a publisher does, and what dead ones left."""
    store = open_store(uri, settings)
    with Heartbeat(store) as heartbeat:
        return prune(store, heartbeat=heartbeat, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def keys(root: str) -> list[str]:
    """Everything that lies below `root`, in the store's own terms."""
    address = parse_address(root)
    if address.bucket is None:
        return sorted(content(Path(root)))
    listed = boto3.client("s3", region_name="us-east-1").list_objects_v2(
        Bucket=address.bucket, Prefix=address.path + "/"
    )
    return sorted(o["Key"].removeprefix(address.path + "/") for o in listed.get("Contents", []))
