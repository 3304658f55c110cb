"""How large a sweep's workflow gets: Kubernetes stores no more than 1 MiB of it.

Each step makes six nodes. Two of them repeat its specification, five its resolved pod; 95 nodes of
a sweep of two trials took 1.4 MB, and 189 kB compressed, as Argo does from 1 MB on. The model below
makes the same nodes of the compiled pipeline, in Argo's order (that of hashes, so that of repeated
text only what is near is compressed), and compresses them.
"""

import base64
import functools
import gzip
import uuid
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from components.common import strict_json
from components.common.errors import ConfigError

LIMIT = 1 << 20  # bytes of a workflow, with its specification (Argo's maxWorkflowSize)
MODEL = 1.15  # Go's gzip makes 9 % more of that sweep, and its nodes were larger by 4 % than these
MANY = 100  # trials to reckon with
TEMPLATES = 40_000  # bytes of the templates that KFP makes of any pipeline
LOOP = "for-loop-1"

_WORKFLOW = "race-roberta-abcde"
_RUN = "00000000-0000-4000-8000-000000000000"
_ARTIFACTS = f"minio://mlpipeline/v2/artifacts/race-roberta/{_RUN}"
_SESSION = {
    "Provider": "minio",
    "Params": {
        "accessKeyKey": "accesskey",
        "disableSSL": "true",
        "endpoint": "minio-service.kubeflow:9000",
        "forcePathStyle": "true",
        "fromEnv": "false",
        "maxRetries": "5",
        "region": "us-east-1",
        "secretKeyKey": "secretkey",
        "secretName": "mlpipeline-minio-artifact",
    },
}

_json = functools.partial(strict_json.dumps, separators=(",", ":"))


def require_storable(package: str, values: Mapping[str, Any], trials: int) -> None:
    """Refuse a sweep whose workflow cannot be stored.

    Args:
        package: the compiled sweep.
        values: the run's inputs.
        trials: how many there shall be.

    Raises:
        ConfigError: it is too large; says how many trials there can be.
    """
    size = _Model(package, values).workflow_bytes
    if trials <= MANY and size(trials) * MODEL <= LIMIT:
        return
    few, many = size(MANY // 4), size(MANY)
    each = (many - few) / (MANY - MANY // 4)
    most = int((LIMIT / MODEL - few) / each) + MANY // 4
    if trials <= most:
        return
    raise ConfigError(
        f"{trials} trials make a workflow that Kubernetes cannot store",
        hint=f"Give at most {most} in one run, and the others in another",
    )


def workflow_bytes(package: str, values: Mapping[str, Any], trials: int) -> int:
    """Bytes of a sweep's workflow when all of these trials have ended."""
    return _Model(package, values).workflow_bytes(trials)


class _Model:
    def __init__(self, package: str, values: Mapping[str, Any]) -> None:
        self.spec, *platforms = yaml.safe_load_all(package)
        self.platform = platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        inputs = self.spec["root"]["inputDefinitions"]["parameters"]
        self.values = {n: i.get("defaultValue", "") for n, i in inputs.items()} | dict(values)

    def workflow_bytes(self, trials: int) -> int:
        nodes = {node["id"]: node for node in self.nodes(trials)}
        text = _json(dict(sorted(nodes.items()))).encode()
        return self.specification() + len(base64.b64encode(gzip.compress(text, mtime=0)))

    def specification(self) -> int:
        """Bytes of the workflow's specification: each part once, as text within JSON."""
        deployment = self.spec["deploymentSpec"]["executors"]
        parts = [self.spec["root"], *self.spec["components"].values(), *deployment.values()]
        dags = [part["dag"]["tasks"] for part in parts if "dag" in part]
        parts += [*self.platform.values(), *(task for tasks in dags for task in tasks.values())]
        return TEMPLATES + sum(len(_json(_json(part))) for part in parts)

    def nodes(self, trials: int) -> Iterator[dict[str, Any]]:
        """All nodes of a run that has succeeded, each step at its first attempt."""
        root = self.spec["root"]
        yield from _plain(_WORKFLOW, "")
        runtime = _json({"parameterValues": self.values})
        yield from _driver(
            f"{_WORKFLOW}(0).root-driver", {"component": _json(root), "runtime-config": runtime}, {}
        )
        yield from _plain(f"{_WORKFLOW}(0).root", _WORKFLOW)
        tasks = root["dag"]["tasks"]
        for name, task in tasks.items():
            path = f"{_WORKFLOW}(0).root(0).{name}"
            loop = self.spec["components"][task["componentRef"]["name"]]
            if "dag" not in loop:
                yield from self._step(path, name, task, trials=trials)
                continue
            inputs = {"component": _json(loop), "task": _json(task), "task-name": name}
            if name != LOOP:  # a condition, as if it held
                yield from _plain(path, path)
                yield from _driver(f"{path}-driver", inputs, {})
                for step, inner in loop["dag"]["tasks"].items():
                    yield from self._step(f"{path}(0).{step}", step, inner, trials=trials)
                continue
            yield from _plain(path, path)
            yield from _driver(f"{path}(0).iteration-driver", inputs, {})
            for trial in range(trials):
                turn = f"{path}(0).iteration-iterations({trial}:{trial})"
                yield from _plain(turn, path)
                yield from _driver(f"{turn}(0).iteration-item-driver", inputs, {})
                item = f"{turn}(0).iteration-item"
                yield from _plain(item, turn)
                for step, inner in loop["dag"]["tasks"].items():
                    yield from self._step(f"{item}(0).{step}", step, inner, trial=trial)

    def _step(
        self, path: str, name: str, task: Mapping[str, Any], trials: int = 0, trial: int = 0
    ) -> Iterator[dict[str, Any]]:
        component = self.spec["components"][task["componentRef"]["name"]]
        executor = component["executorLabel"]
        container = self.spec["deploymentSpec"]["executors"][executor]["container"]
        platform = self.platform.get(executor, {})
        patch = {"pod-spec-patch": self._pod(name, task, component, container, trials, trial)}
        inputs = {
            "component": _json(component),
            "task": _json(task),
            "container": _json(container),
            "task-name": name,
            "kubernetes-config": _json(platform),
        }
        yield from _driver(f"{path}-driver", inputs, patch)
        retries = {"retry-max-count": "3", "retry-backoff-max-duration": "1209600"}
        for suffix, kind in (("", "Retry"), ("(0)", "DAG")):
            yield _node(path + suffix, kind, {**patch, "cached-decision": "false", **retries})
        for suffix, kind in (("", "Retry"), ("(0)", "Pod")):
            yield _node(f"{path}(0).executor{suffix}", kind, {**patch, **retries})

    def _pod(
        self,
        name: str,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        container: Mapping[str, Any],
        trials: int,
        trial: int,
    ) -> str:
        """The pod as its driver resolves it: the inputs stand in the launcher's command."""
        found = component.get("inputDefinitions", {}).get("artifacts", {})
        outputs = component.get("outputDefinitions", {}).get("artifacts", {})
        place = f"{_ARTIFACTS}/{name}/{_uuid(name, trial)}"
        parameters = task.get("inputs", {}).get("parameters", {})
        executor_input = {
            "inputs": {
                "artifacts": {
                    n: {"artifacts": _artifacts(n, trials if a.get("isArtifactList") else 1, trial)}
                    for n, a in found.items()
                },
                "parameterValues": {n: self._value(v) for n, v in parameters.items()},
            },
            "outputs": {
                "artifacts": {
                    n: {
                        "artifacts": [{"name": n, "type": a["artifactType"], "uri": f"{place}/{n}"}]
                    }
                    for n, a in {**outputs, "executor-logs": _LOGS}.items()
                },
                "outputFile": f"{place}/output_metadata.json",
            },
        }
        command = ["/kfp-launcher/launch", "--pipeline_name", "race-roberta", "--run_id", _RUN]
        command += ["--execution_id", "99", "--executor_input", _json(executor_input)]
        command += ["--component_spec", _json(component), *_LAUNCHER, "--"]
        arguments = [*container.get("command", []), *container.get("args", [])]
        pod = {**container, "command": command, "args": arguments}
        # What the platform's part becomes is about as long as it is.
        return _json({"containers": [pod], **self.platform.get(component["executorLabel"], {})})

    def _value(self, given: Mapping[str, Any]) -> Any:
        """What an input of a step resolves to; of what another step gives only the length."""
        if "runtimeValue" in given:
            return given["runtimeValue"].get("constant", "")
        name = str(given.get("componentInputParameter", "")).removeprefix("pipelinechannel--")
        return self.values.get(name, "an output of another step")


_LOGS = {"artifactType": {"schemaTitle": "system.Artifact"}}
_LAUNCHER = (
    *("--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)"),
    *("--ml_pipeline_server_address", "ml-pipeline.kubeflow.svc.cluster.local"),
    *("--ml_pipeline_server_port", "8887"),
    *("--mlmd_server_address", "metadata-grpc-service.kubeflow.svc.cluster.local"),
    *("--mlmd_server_port", "8080", "--publish_logs", "true", "--publish_logs", "true"),
)


def _uuid(name: str, trial: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {trial}"))


def _artifacts(name: str, count: int, trial: int) -> list[dict[str, Any]]:
    metadata = {"display_name": name, "store_session_info": _json(_SESSION)}
    return [
        {
            "name": "99",
            "type": {"instanceSchema": ""},
            "uri": f"{_ARTIFACTS}/download-race/{_uuid(name, trial + number)}/{name}",
            "metadata": metadata,
        }
        for number in range(count)
    ]


def _node(
    name: str, kind: str, inputs: Mapping[str, str], outputs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    identity = f"{_WORKFLOW}-{zlib.crc32(name.encode())}"
    shown = name.rpartition(".")[2]
    node: dict[str, Any] = {
        "id": identity,
        "name": name,
        "displayName": shown,
        "type": kind,
        "templateName": "retry-system-container-executor",
        "templateScope": f"local/{_WORKFLOW}",
        "phase": "Succeeded",
        "boundaryID": f"{_WORKFLOW}-{zlib.crc32(name.rpartition('.')[0].encode())}",
        "startedAt": f"2026-01-01T00:{len(name) % 60:02}:00Z",
        "finishedAt": "2026-01-01T00:59:00Z",
        "progress": "1/1",
        "resourcesDuration": {"cpu": zlib.crc32(shown.encode()) % 99, "memory": 4027},
        "children": [f"{_WORKFLOW}-{zlib.crc32(f'{name}(0)'.encode())}"],
    }
    if inputs:
        node["inputs"] = {"parameters": [{"name": n, "value": v} for n, v in inputs.items()]}
    if kind == "Pod":
        log = f"private-artifacts/kubeflow/{_WORKFLOW}/2026/01/01/{identity}/main.log"
        given = [{"name": n, "value": v} for n, v in (outputs or {}).items()]
        node |= {"hostNodeName": "node-0", "taskResultSynced": True}
        node["outputs"] = {
            "parameters": given,
            "artifacts": [{"name": "main-logs", "s3": {"key": log}}],
            "exitCode": "0",
        }
    elif outputs:
        node["outputs"] = {"parameters": [{"name": n, "value": v} for n, v in outputs.items()]}
    return node


def _plain(name: str, parent: str) -> Iterator[dict[str, Any]]:
    yield _node(name, "Retry", {})
    yield _node(f"{name}(0)", "DAG", {})


def _driver(
    name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    yield _node(name, "Retry", inputs, outputs)
    yield _node(f"{name}(0)", "Pod", inputs, outputs)
