"""Which steps may be taken from a cache, and what its key has to hold beside a step's parameters.

KFP looks into its cache before a step runs, and finds what has the same image, command, parameters
and inputs. An address among the parameters says nothing of what lies there. Where its sha256 is
given, or known, that is the key; where it is not, a run on this machine asks what is there now,
and on a cluster, where nobody is asked before the step runs, the step is not cached.
"""

import hashlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import components
from components.common import hub
from components.download.fetch import state_of
from pipeline.parameters import step_config
from pipeline.steps import STEPS, Step


def _made_by(step: Step) -> list[str]:
    """The steps whose outputs a step reads."""
    return [s.name for s in STEPS.values() if step.inputs.keys() & s.outputs.keys()]


# The steps that may be cached at all, and whose outputs each of them reads.
CACHEABLE: Mapping[str, Sequence[str]] = {
    step.name: _made_by(step) for step in STEPS.values() if step.cached
}


def unpinned(values: Mapping[str, Any], step: str) -> list[str]:
    """The addresses that a step reads, which have no given or known sha256, and are no commit."""
    missing = [name for name in STEPS[step].given.values() if name not in values]
    if missing:  # they come with each run
        return missing
    sources = getattr(step_config(STEPS[step], values), "sources", {})
    return [a for a, digest in sources.items() if not digest and not _is_commit(a)]


def _is_commit(address: str) -> bool:
    return address.startswith(hub.SCHEME) and hub.parse(address).fixed


def cached_on_cluster(values: Mapping[str, Any]) -> frozenset[str]:
    """The steps that KFP may take from a cluster's cache: all that they come from has a sha256."""
    cached: set[str] = set()
    for step, inputs in CACHEABLE.items():
        if cached.issuperset(inputs) and not unpinned(values, step):
            cached.add(step)
    return frozenset(cached)


def uncached_note(values: Mapping[str, Any]) -> str:
    """One line on what is not cached on a cluster, and why; "" where everything is."""
    cached = cached_on_cluster(values)
    steps = [step for step in CACHEABLE if step not in cached]
    if not steps:
        return ""
    names = [address for step in steps for address in unpinned(values, step)]
    return f"not cached: {', '.join(steps)}, for lack of the sha256 of {', '.join(names)}"


def salts(values: Mapping[str, Any]) -> dict[str, str]:
    """What a local run's cache key has to hold beside the parameters, for each step in CACHEABLE.

    That is the code and what lies behind addresses without a sha256. What cannot be asked, or does
    not say, has a salt that never comes again: the step runs, and says what is wrong.
    """
    code = _code()
    return {
        step: code + "".join(_salt(address) for address in unpinned(values, step))
        for step in CACHEABLE
    }


def _salt(address: str) -> str:
    state = state_of(address) or uuid.uuid4().hex
    return f" {hashlib.sha256(state.encode()).hexdigest()[:16]}"


def _code() -> str:
    """A digest of the steps' code."""
    digest = hashlib.sha256(sys.version.encode())
    folder = Path(components.__file__).parent
    for source in sorted(folder.rglob("*.py")):
        digest.update(f"{source.relative_to(folder)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
