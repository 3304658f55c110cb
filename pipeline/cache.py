"""Outputs of earlier runs on this machine, for a step with the same inputs, parameters and code.

An entry says where the outputs lie in another run's folder. When that is gone the step is run.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.executor import ExecutorInput
from components.common.files import atomic_file, link_tree, removed_if_raised
from components.common.program import EXECUTOR_INPUT
from pipeline.steps import Step


class Cache:
    """The cache of a folder of runs.

    Args:
        runs: the folder.
        salts: what a step's key has to hold besides, by its name; see pipeline.caching.
    """

    def __init__(self, runs: Path, salts: Mapping[str, str]) -> None:
        self.runs, self._salts = runs, salts
        self._folder = runs / ".cache"

    def key(
        self, step: Step, command: Sequence[str], given: ExecutorInput, sources: Mapping[str, str]
    ) -> str:
        """A digest of all that an execution depends on.

        Args:
            sources: by the address of an artifact, the key of what made it.
        """
        places = {str(a.path): f"output {name}" for name, a in given.outputs.items()}
        for found in given.inputs.values():
            places |= {str(a.path): f"input {sources.get(a.uri)}" for a in found}
        arguments = []
        for part in command:
            flag, equals, value = part.partition("=")
            if flag != EXECUTOR_INPUT:
                arguments.append(flag + equals + places.get(value, value))
        everything = [step.name, self._salts.get(step.name, ""), *arguments]
        return hashlib.sha256(strict_json.dumps(everything).encode()).hexdigest()

    def restore(self, key: str, given: ExecutorInput) -> bool:
        """Put the outputs of an earlier execution in their places, all and whole.

        False where they are gone, or go meanwhile: then nothing is in those places.
        """
        try:
            entry = strict_json.read(self._folder / f"{key}.json")
            kept = {name: self.runs / path for name, path in entry["outputs"].items()}
            if kept.keys() != given.outputs.keys():
                return False
            with contextlib.ExitStack() as stack:
                for name, path in kept.items():
                    target = given.outputs[name].path
                    stack.enter_context(removed_if_raised(target))
                    link_tree(path, target)
                    if _names(target) != entry["names"][name]:
                        raise FileNotFoundError(path)
                given.answered({name: entry["metadata"][name] for name in kept})
        except (OSError, KeyError, TypeError, ValueError, AttributeError):
            return False  # an entry that another version wrote, or a run that is being removed
        return True

    def keep(self, key: str, given: ExecutorInput) -> None:
        """Note where the outputs of an execution lie; a cache that cannot be written is none."""
        places = {name: artifact.path.resolve() for name, artifact in given.outputs.items()}
        runs = self.runs.resolve()
        entry: dict[str, Any] = {
            "outputs": {name: str(path.relative_to(runs)) for name, path in places.items()},
            "metadata": given.read_answer(),
            "names": {name: _names(path) for name, path in places.items()},
        }
        with contextlib.suppress(OSError), atomic_file(self._folder / f"{key}.json") as partial:
            strict_json.write(partial, entry)


def _names(output: Path) -> str:
    """A digest of what an output consists of: a run that is being removed has lost some of it."""
    names = sorted(str(path.relative_to(output)) for path in output.rglob("*"))
    return hashlib.sha256(strict_json.dumps(names).encode()).hexdigest()
