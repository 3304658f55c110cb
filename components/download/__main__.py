"""Download files into a new folder.

python -m components.download --url https://example.org/RACE.tar.gz --output data/race --unpack
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.download import known
from components.download.core import DownloadConfig, download

DESCRIPTION = """\
Download one or more files into a new folder, and unpack them there if asked to. The folder appears
when everything has arrived and was checked, or not at all. A transfer that is cut goes on where it
was cut; a digest that does not match, an archive that is not plain data, or an address that is
wrong stops it at once.
"""

EPILOG = f"""\
examples:
  python -m components.download --url {known.RACE} --output data/race --unpack

  python -m components.download --output data/bpe \\
    --url {known.ENCODER_JSON} \\
    --url {known.VOCAB_BPE} \\
    --url {known.DICT_TXT}

The digests of these are known and always checked:
""" + "\n".join(f"  {url}" for url in known.SHA256)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        DownloadConfig,
        prog="python -m components.download",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    with at_hand(parse(DownloadConfig, arguments, argv)) as config:
        download(config)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
