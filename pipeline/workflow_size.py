"""How large a sweep's workflow gets: Kubernetes stores no more than 1 MiB of it.

Each step makes six nodes. Two of them repeat its specification, five its resolved pod; 95 nodes of
a sweep of two trials took 1.4 MB, and 189 kB compressed, as Argo does from 1 MB on. The model below
makes as many nodes of the compiled pipeline, with the texts that repeat in them, in Argo's order
(that of hashes, so that of repeated text only what is near is compressed), and compresses them.
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
MODEL = 1.2  # that sweep was so much larger than the model of it, half of this by Go's gzip
MANY = 100  # trials to reckon with
TEMPLATES = 40_000  # bytes of the templates that KFP makes of any pipeline

_RUN = "00000000-0000-4000-8000-000000000000"
_PLACE = f"minio://mlpipeline/v2/artifacts/race-roberta/{_RUN}"

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
    size = functools.partial(workflow_bytes, package, values)
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
    sweep = _Sweep(package, values, trials)
    nodes = "".join(node for _, node in sorted(sweep.nodes("root", sweep.spec["root"])))
    packed = base64.b64encode(gzip.compress(nodes.encode(), mtime=0))
    return sweep.specification() + len(packed)


class _Sweep:
    def __init__(self, package: str, values: Mapping[str, Any], trials: int) -> None:
        self.spec, *platforms = yaml.safe_load_all(package)
        self.executors = self.spec["deploymentSpec"]["executors"]
        self.platform = platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        inputs = self.spec["root"]["inputDefinitions"]["parameters"]
        self.values = {n: i.get("defaultValue", "") for n, i in inputs.items()} | dict(values)
        self.trials = trials

    def specification(self) -> int:
        """Bytes of the workflow's specification: each part once, as text within JSON."""
        parts = [self.spec["root"], *self.spec["components"].values(), *self.executors.values()]
        dags = [part["dag"]["tasks"] for part in parts if "dag" in part]
        parts += [*self.platform.values(), *(task for tasks in dags for task in tasks.values())]
        return TEMPLATES + sum(len(_json(_json(part))) for part in parts)

    def nodes(
        self, path: str, dag: Mapping[str, Any], given: str = "", trial: int = 0
    ) -> Iterator[tuple[str, str]]:
        """Id and text of the nodes of a DAG that has succeeded, each step at its first attempt.

        Args:
            given: what its driver was given beside it.
            trial: which one it belongs to.
        """
        yield from _nodes(path)
        given = given or _json({"parameterValues": self.values})
        yield from _nodes(f"{path}-driver", _json(dag), given)
        for name, task in dag["dag"]["tasks"].items():
            component = self.spec["components"][task["componentRef"]["name"]]
            inner = f"{path}(0).{name}"
            if "parameterIterator" in task:
                yield from _nodes(inner)
                yield from _nodes(f"{inner}-driver", _json(component), _json(task))
                for number in range(self.trials):
                    turn = f"{inner}(0).iteration-iterations({number}:{number})"
                    yield from _nodes(turn)
                    item = f"{turn}(0).iteration-item"
                    yield from self.nodes(item, component, _json(task), number)
            elif "dag" in component:  # a condition, as if it held
                yield from self.nodes(inner, component, _json(task), trial)
            else:
                yield from self._step(inner, name, task, component, trial)

    def _step(
        self,
        path: str,
        name: str,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        trial: int,
    ) -> Iterator[tuple[str, str]]:
        executor = component["executorLabel"]
        container = self.executors[executor]["container"]
        platform = self.platform.get(executor, {})
        command = ["/kfp-launcher/launch", "--pipeline_name", "race-roberta", "--run_id", _RUN]
        command += ["--executor_input", _json(self._input(name, task, component, trial))]
        command += ["--component_spec", _json(component), *_LAUNCHER, "--"]
        arguments = [*container.get("command", []), *container.get("args", [])]
        # What the platform's part becomes is about as long as it is.
        pod = _json({"containers": [{**container, "command": command, "args": arguments}]})
        pod += _json(platform)
        specified = [_json(part) for part in (component, task, container, platform)]
        yield from _nodes(f"{path}-driver", pod, *specified)
        yield from _nodes(path, pod)
        yield from _nodes(f"{path}(0).executor", pod)

    def _input(
        self, name: str, task: Mapping[str, Any], component: Mapping[str, Any], trial: int
    ) -> Any:
        """What the launcher is told of a step's inputs and outputs."""
        read = component.get("inputDefinitions", {}).get("artifacts", {})
        written = [*component.get("outputDefinitions", {}).get("artifacts", {}), "executor-logs"]
        given = task.get("inputs", {}).get("parameters", {})
        many = {n: self.trials if a.get("isArtifactList") else 1 for n, a in read.items()}
        return {
            "inputs": {
                "artifacts": {
                    n: [_artifact("a-step", n, trial + i) for i in range(count)]
                    for n, count in many.items()
                },
                "parameterValues": {n: self._value(value) for n, value in given.items()},
            },
            "outputs": [_artifact(name, n, trial) for n in written],
        }

    def _value(self, given: Mapping[str, Any]) -> Any:
        """What an input of a step resolves to; of what another step gives only the length."""
        if "runtimeValue" in given:
            return given["runtimeValue"].get("constant", "")
        name = str(given.get("componentInputParameter", "")).removeprefix("pipelinechannel--")
        return self.values.get(name, "an output of another step")


_LAUNCHER = (
    *("--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)"),
    *("--ml_pipeline_server_address", "ml-pipeline.kubeflow.svc.cluster.local"),
    *("--mlmd_server_address", "metadata-grpc-service.kubeflow.svc.cluster.local"),
    *("--mlmd_server_port", "8080", "--publish_logs", "true", "--publish_logs", "true"),
)
# How to reach the store, in an artifact's metadata.
_SESSION = (
    '{"Provider":"minio","Params":{"accessKeyKey":"accesskey","disableSSL":"true","endpoint":'
    '"minio-service.kubeflow:9000","forcePathStyle":"true","fromEnv":"false","maxRetries":"5",'
    '"region":"us-east-1","secretKeyKey":"secretkey","secretName":"mlpipeline-minio-artifact"}}'
)


def _artifact(step: str, name: str, trial: int) -> Mapping[str, Any]:
    execution = uuid.uuid5(uuid.NAMESPACE_URL, f"{step} {trial}")
    about = {"display_name": name, "store_session_info": _SESSION}
    return {"name": "99", "uri": f"{_PLACE}/{step}/{execution}/{name}", "metadata": about}


def _nodes(path: str, *inputs: str) -> Iterator[tuple[str, str]]:
    """A node and what it retries, with these inputs."""
    for name in (path, f"{path}(0)"):
        identity = f"race-roberta-abcde-{zlib.crc32(name.encode())}"
        node = {
            "id": identity,
            "name": name,
            "templateName": "retry-system-container-executor",
            "templateScope": "local/race-roberta-abcde",
            "phase": "Succeeded",
            "boundaryID": f"race-roberta-abcde-{zlib.crc32(path.encode())}",
            "startedAt": f"2026-01-01T00:{len(name) % 60:02}:00Z",
            "finishedAt": "2026-01-01T00:59:00Z",
            "resourcesDuration": {"cpu": zlib.crc32(identity.encode()) % 99, "memory": 4027},
            "children": [f"race-roberta-abcde-{zlib.crc32(f'{name}(0)'.encode())}"],
            "inputs": inputs,
            "outputs": [f"private-artifacts/kubeflow/race-roberta/2026/01/01/{identity}/main.log"],
        }
        yield identity, _json(node)
