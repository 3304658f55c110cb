"""The steps as KFP components: containers whose command is the one that a person types.

    python -P -m components.train --data=<path> --output=<path> --dropout=0.2 \\
        --settings=<JSON object> --epochs=5 ... --executor-input=<JSON>

Flags that are compiled in stand before `--settings`, which replaces them; the pipeline's inputs
stand after it. KFP puts values in place of the placeholders, here as on a cluster.
"""
# mypy: allow-untyped-decorators

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kfp import dsl

from components.common.program import EXECUTOR_INPUT, SETTINGS
from pipeline.images import Images
from pipeline.steps import STEPS, Step

PYTHON = ("python", "-P", "-m")


def component(
    step: Step, image: str, compiled: Sequence[str] = (), *, defaults: bool = False
) -> Any:
    """A step's component.

    Args:
        compiled: flags that no run of the pipeline changes, but by settings.
        defaults: its inputs have those of the program.
    """

    def container(*_: Any) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=image,
            command=[*PYTHON, step.program],
            args=arguments(step, compiled),
        )

    container.__name__ = step.name.replace("-", "_")
    container.__doc__ = (step.config.__doc__ or "").partition("\n")[0]
    container.__signature__ = signature(step, defaults)  # type: ignore[attr-defined]
    made = dsl.container_component(container)
    if step.result:
        # The one name that KFP's local runner finds the items of a loop by, and which it lets no
        # signature have.
        outputs = made.component_spec.outputs
        outputs["Output"] = outputs.pop("result")
    return made


def arguments(step: Step, compiled: Sequence[str]) -> list[str]:
    """The program's arguments, with placeholders."""
    paths = [
        f"{_flag(name)}={{{{$.inputs.artifacts['{name}'].path}}}}"
        for name, kind in step.inputs.items()
        if not kind.startswith("list")  # those are in the executor input alone
    ]
    output = [
        f"--output={{{{$.outputs.artifacts['{name}'].path}}}}" for name in list(step.outputs)[:1]
    ]
    options = {o.name: o for o in step.parameters}
    fixed = [flag for n, value in step.fixed.items() for flag in options[n].spelled(value)]
    settings = [f"{SETTINGS}={_input('settings')}"] if step.settings else []
    given = [f"{_flag(name)}={_input(name)}" for name in step.given]
    placeholder = dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER
    tail = [f"{EXECUTOR_INPUT}={placeholder}"]
    return [*paths, *output, *fixed, *compiled, *settings, *given, *tail]


def signature(step: Step, defaults: bool = False) -> inspect.Signature:
    """What KFP reads a component's inputs and outputs from."""
    kinds: dict[str, Any] = {name: _artifact(kind) for name, kind in step.inputs.items()}
    kinds |= {
        o.name: str if o.repeated else o.type for o in step.parameters if o.name in step.given
    }
    kinds |= {"settings": dict} if step.settings else {}
    kinds |= {name: dsl.Output[getattr(dsl, kind)] for name, kind in step.outputs.items()}
    kinds |= {"result": dsl.OutputPath(step.result)} if step.result else {}
    known = {o.name: o.default for o in step.parameters if not o.required}
    return keywords(kinds, {**known, "settings": {}} if defaults else {})


def keywords(kinds: Mapping[str, Any], defaults: Mapping[str, Any]) -> inspect.Signature:
    """The signature of a function that takes these by name; one may have no default."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=kind,
                default=defaults.get(name, inspect.Parameter.empty),
            )
            for name, kind in kinds.items()
        ]
    )


def published(images: Images) -> dict[str, Any]:
    """The component of each program, by its folder, for pipelines of other people.

    Its inputs have the program's own defaults; `settings` takes every other parameter.
    """
    steps = {step.group: replace(step, settings=True) for step in STEPS.values()}
    # Several steps have this one, each for a thing of its own.
    steps["download"] = replace(steps["download"], fixed={}, outputs={"downloaded": "Artifact"})
    return {
        name: component(replace(step, name=name), getattr(images, step.image), defaults=True)
        for name, step in steps.items()
    }


def compiled_flags(step: Step, values: Mapping[str, Any]) -> list[str]:
    """The flags for a step's values, by the pipeline's names, that are not its own defaults."""
    found = ((o, values.get(step.own(o), o.default)) for o in step.configurable)
    return [flag for o, value in found if value != o.default for flag in o.spelled(value)]


def _artifact(kind: str) -> Any:
    one = getattr(dsl, kind.removeprefix("list[").rstrip("]"))
    return dsl.Input[list[one]] if kind.startswith("list") else dsl.Input[one]  # type: ignore[valid-type]


def _input(name: str) -> str:
    return f"{{{{$.inputs.parameters['{name}']}}}}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
