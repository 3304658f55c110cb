"""Kubeflow Pipelines is asked what kfp's own client asks, whose calls real servers answer."""

import json
from pathlib import Path
from typing import Any

import kfp
import pytest

from pipeline.client import Api, Server
from tests.unit.pipeline.conftest import KubeflowPipelines, serving

RUN = "a run"
CRON = "0 0 3 * * *"
PARAMETERS = {"epochs": 2, "seeds": "1,2"}


class Noting(KubeflowPipelines):
    """Keeps what it is asked to change: method, path, query and content, of uploads the file."""

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self.multi_user = bool(namespace)
        self.seen: list[Any] = []

    def answer(self, method: str, path: str, query: Any, headers: Any, body: bytes) -> Any:
        calls = ":" in path.rpartition("/")[2]  # of a run that is there
        result = (200, {}) if calls else super().answer(method, path, query, headers, body)
        if method != "GET":
            content = self.packages[-1] if "/upload" in path else json.loads(body or b"{}")
            self.seen.append((method, path, query, content))
        return result


@pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")
@pytest.mark.parametrize("namespace", ["", "team"])
def test_what_is_made_is_asked_for_as_kfps_own_client_does(tmp_path: Path, namespace: str) -> None:
    package = tmp_path / "pipeline.yaml"
    package.write_text((Path(__file__).parents[3] / "pipeline.yaml").read_text())
    with serving(Noting(namespace)) as theirs:
        client = kfp.Client(host=theirs.host, namespace=namespace or "kubeflow")
        pipeline = client.upload_pipeline(str(package), "race", namespace=namespace or None)
        version = client.upload_pipeline_version(
            str(package), "v", pipeline_id=pipeline.pipeline_id
        )
        experiment = client.create_experiment("tries", namespace=namespace or None)
        what = {
            "pipeline_id": pipeline.pipeline_id,
            "version_id": version.pipeline_version_id,
            "params": PARAMETERS,
            "pipeline_root": "s3://bucket/root",
        }
        run = client.run_pipeline(experiment.experiment_id, RUN, **what)
        client.create_recurring_run(
            experiment.experiment_id, RUN, cron_expression=CRON, no_catchup=True, **what
        )
        client.terminate_run(run.run_id)
        client._run_api.run_service_retry_run(run.run_id)
        client.delete_run(run.run_id)
    with serving(Noting(namespace)) as ours:
        api = Api(Server(ours.host, namespace=namespace))
        made = api.pipeline_version(package.read_text(), "race")
        experiment = api.experiment("tries")
        given = {
            "pipeline_version_reference": made,
            "runtime_config": {"parameters": PARAMETERS, "pipeline_root": "s3://bucket/root"},
        }
        run = api.start(experiment, RUN, given)
        api.schedule(experiment, RUN, given, CRON)
        api.terminate(run)
        api.retry(run)
        api.delete(run)
    ours.seen[1][2]["name"] = ["v"]  # the version's name is a digest of its content
    for mine, other in zip(ours.seen, theirs.seen, strict=True):
        assert said(mine) == said(other)


def said(request: Any) -> Any:
    """A request without what is empty."""
    method, path, query, content = request
    return method, path, query, _filled(content)


def _filled(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            name: _filled(value) for name, value in content.items() if value not in (None, {}, "")
        }
    return content
