"""Inputs for a config that asks for the made-up sample."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.dataset import OPTIONS
from components.common.errors import ConfigError
from components.common.files import scratch_folder
from components.download.core import DownloadConfig, download
from pipeline import sample

# Which file or folder of the sample stands for which input.
SAMPLE = {"race_url": "RACE.tar.gz", "roberta_url": "roberta.tiny.tar.gz", "bpe_url": "bpe"}


def sample_inputs(
    given: Mapping[str, Any], values: Mapping[str, Any], runs: Path
) -> dict[str, str]:
    """Paths for the inputs that are not `given`; the sample is made below `runs` if need be.

    Its model is made to the measure of what it will meet: the size that `values` ask for, and the
    dictionary, where one is given. Its questions have as many options as they ask for.

    Raises:
        RaceError: the dictionary that is given cannot be fetched, or the sample cannot have so
            many options.
        OSError: `runs` cannot be written.
    """
    missing = SAMPLE.keys() - given.keys()
    if not missing:
        return {}
    shape = dataclasses.replace(
        sample.TINY,
        **{
            field.name: values[f"train_{field.name}"] or getattr(sample.TINY, field.name)
            for field in dataclasses.fields(sample.TINY)
        },
    )
    with scratch_folder() as scratch:
        dictionary = None
        if "roberta_url" in missing and "bpe_url" in given:
            config = DownloadConfig(
                url=(given["bpe_url"],), files=("dict.txt",), output=scratch / "bpe"
            )
            dictionary = download(config)[0].path
        # The same sample has the same name, and is made once.
        sources = sorted(Path(sample.__file__).parent.glob("sample*.py"))
        options = values["preprocess_options"] or OPTIONS
        if options > sample.MOST_OPTIONS:
            raise ConfigError(
                f"preprocess_options is {options}, but a sample has at most {sample.MOST_OPTIONS}",
                hint="Give race_url data with this number of options",
            )
        digest = hashlib.sha256(repr((shape, options)).encode())
        for path in [*sources, *([dictionary] if dictionary else [])]:
            digest.update(path.read_bytes())
        folder = runs / f"sample-{digest.hexdigest()[:8]}"
        if not folder.exists():
            # Another run may make the same one meanwhile.
            with contextlib.suppress(FileExistsError):
                sample.make_sample(folder, options=options, shape=shape, dictionary=dictionary)
    return {name: str(folder / SAMPLE[name]) for name in missing}
