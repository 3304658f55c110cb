"""Steps by hand on s3:// and hf:// addresses: inputs are fetched before, output published after.

In a cluster KFP moves artifacts; a step that is run by hand has only its command line:

    with at_hand(config_of(PreprocessConfig, parser.parse_args(argv))) as config:
        preprocess(config)
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from components.common import hub
from components.common.cli import options, with_paths
from components.common.errors import ConfigError, OutputError
from components.common.files import scratch_folder

Config = TypeVar("Config")

_PUSH = "Models are put there by the step publish and by `race export --push-to-hub`"


@contextlib.contextmanager
def at_hand(config: Config, *, writes: bool = True) -> Iterator[Config]:
    """`config` with a local path in place of each s3:// or hf:// address among its paths.

    s3:// addresses are those of whole artifacts, see components.common.storage; fetched ones lie in
    the folder for temporary files until the block ends. hf:// is read only, and comes to lie in
    huggingface_hub's cache. `output` is published when the block ends well, if it `writes` one.

    Raises:
        OutputError: something is published at `output` already; nothing was fetched.
        ConfigError, DataError, TransferError: as storage's `fetch` and `publish` raise them.
    """
    names = [o.name for o in options(type(config)) if o.type is Path]
    names = [name for name in names if writes or name != "output"]
    paths = {name: found for name in names if isinstance(found := getattr(config, name), Path)}
    lists = {name: found for name in names if isinstance(found := getattr(config, name), tuple)}
    given = [*paths.items(), *((name, path) for name, several in lists.items() for path in several)]
    for name, path in given:
        _require_readable(name, path)
    if not any(address(path) for _, path in given):
        yield config
        return
    from components.common import storage  # boto3 takes a while to import

    addresses = {name: found for name, path in paths.items() if (found := address(path))}
    output = addresses.pop("output", "")
    if output.startswith(hub.SCHEME):
        raise ConfigError(f"output: {output} is read only here", hint=_PUSH)
    if output and storage.find(output):
        raise OutputError(
            f"{output} exists already", hint="Choose a new address, or remove this one first"
        )
    with scratch_folder() as scratch:
        inputs = scratch / "inputs"

        def fetched(path: Path, *place: str) -> Path:
            uri = address(path)
            if uri.startswith(hub.SCHEME):
                return hub.fetch(hub.parse(uri))
            if uri:
                storage.fetch(uri, path := inputs.joinpath(*place))
            return path

        local: dict[str, Any] = {name: fetched(paths[name], name) for name in addresses}
        for name, several in lists.items():
            local[name] = tuple(fetched(path, name, str(i)) for i, path in enumerate(several))
        if output:
            local["output"] = scratch / "output"
        yield with_paths(config, **local)
        if output:
            storage.publish(local["output"], output)


def _require_readable(name: str, path: Path) -> None:
    if other := re.match(r"(gs|https?|az|abfss?|wasbs?|hdfs):/", str(path)):
        raise ConfigError(
            f"{name}: addresses with {other[1]}:// are not read here",
            hint="Give a path of this machine, or an s3:// or hf:// address; files of the web are"
            " for components.download",
        )


def address(path: Path) -> str:
    """The s3:// or hf:// address that a Path was made from, which took // for /, or ""."""
    found = re.match(r"(s3|hf):/(.+)", str(path))
    return f"{found[1]}://{found[2]}" if found else ""
