"""Start a run on a cluster, or a schedule of runs."""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from components.common.files import scratch_folder
from pipeline.client import Api
from pipeline.pipeline import NAME


def submit(
    api: Api,
    package: str,
    values: Mapping[str, Any],
    *,
    sweep: bool = False,
    experiment: str,
    name: str,
    pipeline_root: str = "",
    cron: str = "",
) -> str:
    """Upload the compiled pipeline where the server lacks it, and start a run, or schedule runs.

    `values` are the run's parameters. The same submission twice makes two runs of one version,
    whose name says whether it is a `sweep`.

    Returns:
        The id of the run, or of the recurring run where `cron` is given.
    """
    with scratch_folder() as folder:
        path = folder / "pipeline.yaml"
        path.write_text(package, encoding="utf-8")
        pipeline_id, version_id = api.pipeline_version(path, NAME, "sweep-" if sweep else "")
    what = {
        "pipeline_id": pipeline_id,
        "version_id": version_id,
        "params": dict(values),
        "pipeline_root": pipeline_root or None,
    }
    experiment_id = api.experiment(experiment)
    if cron:
        return api.schedule(experiment_id, name, cron, **what)
    return api.start(experiment_id, name, **what)


def unique_name(profile: str) -> str:
    return f"{profile} {time.strftime('%Y-%m-%d %H:%M:%S')} {uuid.uuid4().hex[:6]}"
