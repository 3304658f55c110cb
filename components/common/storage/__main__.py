"""Artifacts by hand.

python -m components.common.storage fetch --uri s3://bucket/models/large --output model
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.common.cli import config_of, option, parser, run_step
from components.common.errors import ConfigError
from components.common.storage.artifact import Artifact, artifacts, fetch, verify
from components.common.storage.publication import publish
from components.common.text import counted

PROG = "python -m components.common.storage"
DESCRIPTION = """\
Artifacts are folders of files with a manifest, in object storage (s3://bucket/key) or in a folder:
there whole or not at all, and every byte is checked. Credentials, endpoint, region and CA come from
the usual AWS variables.
"""
EPILOG = f"""\
examples:
  {PROG} publish --source model --uri s3://bucket/models/large
  {PROG} fetch   --uri s3://bucket/models/large --output model
  {PROG} verify  --uri s3://bucket/models/large
  {PROG} list    --uri s3://bucket/models
"""


@dataclass(frozen=True)
class PublishConfig:
    source: Path = option(help="the folder or file to publish")
    uri: str = option(help="where to: s3://bucket/key, file:///folder or a path", metavar="URI")
    overwrite: bool = option(False, help="let it take the place of another artifact")


@dataclass(frozen=True)
class FetchConfig:
    uri: str = option(help="the artifact: s3://bucket/key, file:///folder or a path", metavar="URI")
    output: Path = option(help="new folder for its files")


@dataclass(frozen=True)
class VerifyConfig:
    uri: str = option(help="the artifact: s3://bucket/key, file:///folder or a path", metavar="URI")


@dataclass(frozen=True)
class ListConfig:
    uri: str = option(help="the folder that holds the artifacts", metavar="URI")


CONFIGS = {
    "publish": PublishConfig,
    "fetch": FetchConfig,
    "verify": VerifyConfig,
    "list": ListConfig,
}


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    verb = given[0] if given else ""
    if verb in ("-h", "--help"):
        print(f"usage: {PROG} {{{','.join(CONFIGS)}}} ...\n\n{DESCRIPTION}\n{EPILOG}", end="")
        return
    if verb not in CONFIGS:
        raise ConfigError(f"{PROG}: give one of {', '.join(CONFIGS)}", hint=f"See {PROG} --help")
    kind = CONFIGS[verb]
    arguments = parser(kind, prog=f"{PROG} {verb}", description=DESCRIPTION, epilog=EPILOG)
    match config_of(kind, arguments.parse_args(given[1:])):
        case PublishConfig(source, uri, overwrite):
            _show(publish(source, uri, producer={"by": "hand"}, overwrite=overwrite))
        case FetchConfig(uri, output):
            _show(fetch(uri, output))
        case VerifyConfig(uri):
            _show(verify(uri))
        case ListConfig(uri):
            for artifact in artifacts(uri):
                _show(artifact)


def _show(artifact: Artifact) -> None:
    manifest = artifact.manifest
    size = f"{manifest.size / (1 << 20):,.1f} MiB"
    count = counted(len(manifest.files), "file")
    print(f"{artifact.address}  {manifest.created}  {count}, {size}  sha256 {manifest.digest}")


if __name__ == "__main__":
    raise SystemExit(run_step(main))
