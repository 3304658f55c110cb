"""What Kubeflow Pipelines tells a step about its inputs and outputs, and what the step answers.

A step's command ends with `--executor-input={{$}}`, in place of which KFP puts a JSON object (the
ExecutorInput of its pipeline_spec.proto): each artifact with its kind and address, and the path of
a file for the answer. The answer names every output again, with its metadata: figures of a Metrics
artifact, the matrix of a ClassificationMetrics.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from components.common import strict_json
from components.common.errors import ConfigError

MAX_BYTES = 4 << 20

# How KFP's launcher mounts what an address names.
_MOUNTS = {"minio://": "/minio/", "s3://": "/s3/", "gs://": "/gcs/"}

# An output of KFP's own, which it writes itself.
_OF_THE_LAUNCHER = "executor-logs"


@dataclass(frozen=True)
class Outcome:
    """What came of a step, besides the files in its output folder.

    `figures` become the numbers of its Metrics, `confusion` (how often each option was chosen, one
    row for each right option) its ClassificationMetrics, `metadata` is kept with the output itself,
    and `parameters` are its output parameters by name.
    """

    figures: Mapping[str, Any] = field(default_factory=dict)
    confusion: Sequence[Sequence[int]] = ()
    metadata: Mapping[str, str | float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers among the figures."""
        return {
            name: value
            for name, value in self.figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


@dataclass(frozen=True)
class Artifact:
    """An artifact as KFP names it; `kind` is its schema's, such as Dataset or Metrics."""

    name: str
    kind: str
    uri: str

    @property
    def path(self) -> Path:
        for scheme, mount in _MOUNTS.items():
            if self.uri.startswith(scheme):
                return Path(mount + self.uri.removeprefix(scheme))
        return Path(self.uri)


@dataclass(frozen=True)
class ExecutorInput:
    """The inputs and outputs of one execution of a step.

    `inputs` are artifacts by the names that the step knows them by, `parameters` the files that
    output parameters go to.
    """

    inputs: Mapping[str, Sequence[Artifact]]
    outputs: Mapping[str, Artifact]
    parameters: Mapping[str, Path]
    answer: Path

    def write(self, outcome: Outcome, output: Path | None) -> None:
        """Make each output of what the step has written to `output`, and write the answer.

        A page is a copy of the step's report.html; another folder is one of that name in `output`.

        Raises:
            ConfigError: the step has no such output parameter.
            OSError: it cannot be written.
        """
        for name, path in self.parameters.items():
            if name not in outcome.parameters:
                _refuse(f"this one has no output parameter {name!r:.60}")
            path.parent.mkdir(parents=True, exist_ok=True)
            strict_json.write(path, outcome.parameters[name])
        self.answered({n: _made(a, outcome, output) for n, a in self.outputs.items()})

    def answered(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the answer: the outputs are there, and this is their metadata, by name."""
        artifacts = {
            name: {"artifacts": [{"name": a.name, "uri": a.uri, "metadata": metadata[name]}]}
            for name, a in self.outputs.items()
        }
        self.answer.parent.mkdir(parents=True, exist_ok=True)
        strict_json.write(self.answer, {"artifacts": artifacts})

    def read_answer(self) -> dict[str, dict[str, Any]]:
        """The metadata of each output, as they were answered."""
        artifacts = strict_json.read(self.answer)["artifacts"] if self.outputs else {}
        return {name: found["artifacts"][0]["metadata"] for name, found in artifacts.items()}


def _made(artifact: Artifact, outcome: Outcome, output: Path | None) -> Mapping[str, Any]:
    """Put an artifact in its place; its metadata."""
    path = artifact.path
    if path == output:
        return outcome.metadata
    path.parent.mkdir(parents=True, exist_ok=True)
    if artifact.kind == "Metrics":
        # Without a file some readers take the artifact for lost.
        strict_json.write(path, outcome.numbers)
        return outcome.numbers
    if artifact.kind == "ClassificationMetrics":
        matrix = confusion_matrix(outcome.confusion)
        strict_json.write(path, matrix)
        return {"confusionMatrix": matrix} if outcome.confusion else {}
    assert output is not None, "only a step with an output folder has such artifacts"
    if artifact.kind == "HTML":
        shutil.copyfile(output / "report.html", path)
    else:
        shutil.move(output / artifact.name, path)
    return {}


def confusion_matrix(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """A matrix as KFP's pages want it; a row for each right option, a column for each chosen."""
    letters = [chr(ord("A") + place) for place in range(len(rows))]
    return {
        "annotationSpecs": [{"displayName": letter} for letter in letters],
        "rows": [{"row": [float(count) for count in row]} for row in rows],
    }


def parse(text: str) -> ExecutorInput:
    """The value of `--executor-input`.

    Raises:
        ConfigError: it is not what KFP gives a step.
    """
    if len(text) > MAX_BYTES:
        _refuse(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        value = strict_json.loads(text)
        inputs = _artifacts(value.get("inputs", {}))
        outputs = value["outputs"]
        return ExecutorInput(
            inputs=inputs,
            outputs={
                name: found[0]
                for name, found in _artifacts(outputs).items()
                if not name.startswith(_OF_THE_LAUNCHER)
            },
            parameters={
                name: Path(_text(about["outputFile"]))
                for name, about in outputs.get("parameters", {}).items()
            },
            answer=Path(_text(outputs["outputFile"])),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        _refuse(f"{type(error).__name__}: {str(error)[:80]}")


def _artifacts(side: Mapping[str, Any]) -> dict[str, list[Artifact]]:
    return {
        _text(name): [
            Artifact(
                name=name,
                kind=_text(one.get("type", {}).get("schemaTitle", "")).removeprefix("system."),
                uri=_text(one["uri"]),
            )
            for one in about["artifacts"]
        ]
        for name, about in side.get("artifacts", {}).items()
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    if "\0" in value:
        raise ValueError("a null character")
    return value


def _refuse(why: str) -> NoReturn:
    raise ConfigError(
        f"--executor-input is not what Kubeflow Pipelines gives a step: {why}",
        hint="Leave it out when a step is run by hand",
    )
