"""The KFP components say what the steps' config dataclasses say."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

from components.common.cli import options
from components.download.core import DownloadConfig
from components.gate.core import GateConfig
from components.train.cluster.config import ClusterConfig
from pipeline import components
from pipeline.parameters import DOWNLOADS, STEPS, parameters

# What a download component decides itself, or leaves at its default.
DOWNLOAD_OWN = {"url", "sha256", "unpack", "output"}


def signature(component: Any) -> dict[str, type]:
    """The parameters of a component, without its artifacts."""
    known = component.component_spec.inputs
    hints = inspect.get_annotations(component.python_func)
    return {n: hints[n] for n, about in known.items() if not about.type.startswith("system.")}


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_component_has_the_parameters_of_its_config_in_the_same_order(step: str) -> None:
    expected = {
        o.name: list if o.repeated else o.type for o in options(STEPS[step]) if o.type is not Path
    }
    if step == "train":
        expected |= {"run_id": str, "trial": str}  # the pipeline's own, see test_pipeline_yaml.py
        expected |= {name: parameters()[name].type for name in of_cluster()}
    found = signature(getattr(components, step))
    assert list(found.items()) == list(expected.items())


def of_cluster() -> list[str]:
    """What the train step tells a cluster itself, when it trains on several nodes."""
    fields = dataclasses.fields(ClusterConfig)
    return [f"cluster_{f.name}" for f in fields if f.default is dataclasses.MISSING]


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_component_has_an_artifact_for_each_path_of_its_config(step: str) -> None:
    component = getattr(components, step)
    paths = {o.name for o in options(STEPS[step]) if o.type is Path} - {"output"}
    artifacts = component.component_spec.inputs.keys() - signature(component).keys()
    assert artifacts == paths


def test_the_gate_takes_what_its_config_takes() -> None:
    found = [o.name for o in options(GateConfig)]
    assert list(components.gate.component_spec.inputs) == found == ["evaluation", "min_accuracy"]


@pytest.mark.parametrize("step", sorted(DOWNLOADS))
def test_a_download_has_an_address_and_a_digest_for_each_file_and_a_mirror(step: str) -> None:
    assert {o.name for o in options(DownloadConfig)} >= DOWNLOAD_OWN
    urls = [name.removeprefix("download_") for name in DOWNLOADS[step]]
    found = signature(getattr(components, step.replace("-", "_")))
    files = {n: str for url in urls for n in (url, url.replace("_url", "_sha256"))}
    assert found == {**files, "mirror_uri": str}


def test_each_parameter_of_the_pipeline_has_a_help_text_and_a_default_of_its_type() -> None:
    for name, p in parameters().items():
        assert p.help, name
        assert p.check(p.default) == p.default, name
