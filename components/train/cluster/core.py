"""Train on several nodes: make the job that makes them, follow it, and fetch what they made.

In a pipeline this runs in the train step's own pod, which then needs no GPU. Data and the
pretrained checkpoint, which only this pod has, go to the store; the nodes' output comes back from
there. A later attempt at the same step adopts the job of the one before, or fetches its output.
"""

import contextlib
import functools
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from components.common import errors, strict_json
from components.common.cli import Terminated
from components.common.dataset import count_options
from components.common.errors import LASTING, ConfigError, RaceError, TrainingError, TransferError
from components.common.files import atomic_folder, scratch_folder
from components.common.progress import duration
from components.common.results.metrics import METRICS
from components.common.retry import Patience
from components.common.vocabulary import read_vocabulary, require_same
from components.train import checkpoints
from components.train.cluster import manifest
from components.train.cluster.api import PATIENCE, AnswerError, Api
from components.train.cluster.config import ClusterConfig, NodesConfig
from components.train.cluster.follow import LogFollower, container_status
from components.train.config import TrainConfig, plan
from components.train.core import CHECKPOINTS, TrainResult
from components.train.data import read_labels
from components.train.pretrained import as_fairseq

__all__ = ["ClusterConfig", "NodesConfig", "Timing", "launch", "train_on_nodes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """How often and how long to wait (seconds)."""

    look: float = 5.0  # between two looks at the job while it trains
    pause: float = 2.0  # between two looks at its log, or at an earlier job that is to go
    pending: float = 60.0  # for pods to start, before it is said why they do not
    removal: float = 600.0  # for an earlier job to go
    drain: float = 60.0  # for the rest of the log
    patience: Patience = PATIENCE


def train_on_nodes(config: NodesConfig) -> TrainResult:
    """Train on several nodes; see `launch` for what it raises."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    training = TrainConfig(**{f.name: values[f.name] for f in fields(TrainConfig)})
    cluster = ClusterConfig(**{f.name: values[f.name] for f in fields(ClusterConfig)})
    with as_fairseq(training.pretrained) as pretrained:
        return launch(replace(training, pretrained=pretrained), cluster)


def launch(
    config: TrainConfig, cluster: ClusterConfig, *, timing: Timing | None = None
) -> TrainResult:
    """Train on `config.num_nodes` nodes that a job in a Kubernetes cluster makes.

    `output` then holds what node 0 wrote, as if it had been trained here. The job is deleted at the
    end, when it fails, and when this process is told to end. It is left alone when the cluster or
    the store cannot be reached, or this pod's machine is taken away, for then it may be well, and
    the next attempt adopts it.

    Raises:
        ConfigError: the parameters do not fit; the cluster lacks a right, Trainer or its
            runtime, or refuses the job; another job has its name.
        DataError: data or pretrained checkpoint are missing.
        OutputError: the store has other data for this training.
        TransferError: the cluster or the store cannot be reached.
        TrainingError: the job failed, passed its deadline or was deleted. If a node ended with an
            error of another kind, that error.
        Terminated: SIGTERM was received.
        OSError: `output` is in use or cannot be written.
    """
    from components.common import storage

    timing = timing or Timing()
    cluster = replace(cluster, image=cluster.image or os.environ.get("RACE_IMAGE", ""))
    if not cluster.image:
        raise ConfigError(
            "the nodes' image is not known",
            hint="Set RACE_IMAGE to this container's own image, as the pipeline does",
        )
    if not config.checkpoint_uri.startswith("s3://"):
        raise ConfigError(
            f"training on {config.num_nodes} nodes needs checkpoint_uri at an s3:// address:"
            " they share data, checkpoints and output through it",
            hint="Set checkpoint_uri to a folder in a bucket",
        )
    questions = len(read_labels(config.data, "train", count_options(config.data)))
    the_plan = plan(config, gpus=cluster.node_gpus, questions=questions)
    pretrained = checkpoints.find_pretrained(config.pretrained)
    # Here, for the nodes get the checkpoint without what lies beside it.
    require_same(read_vocabulary(config.data), read_vocabulary(pretrained.parent))
    addresses = manifest.Addresses(config.checkpoint_uri)

    with atomic_folder(config.output) as folder:
        body = manifest.job(
            config, cluster, addresses, processes=the_plan.processes, environment=os.environ
        )
        job = _Job(Api(cluster.namespace, timing.patience), body, addresses, timing)
        with job.removed():
            if storage.find(addresses.output):
                logger.info("an earlier attempt has trained already")
            else:
                job.api.require_access(cluster.node_runtime)
                logger.info("publishing what the nodes need at %s", addresses.place)
                storage.publish(config.data, addresses.data)
                with _as_artifact(pretrained) as source:
                    storage.publish(source, addresses.pretrained)
                job.start()
                job.follow()
            storage.fetch(addresses.output, folder)
        metrics = strict_json.read_object(folder / METRICS, "Train again")
        there = {name for name in CHECKPOINTS if (folder / name).is_file()}
    best, last = (config.output.absolute() / n if n in there else None for n in CHECKPOINTS)
    return TrainResult(best, last, metrics)


@contextlib.contextmanager
def _as_artifact(pretrained: Path) -> Iterator[Path]:
    """The checkpoint under the name by which a folder's checkpoint is found."""
    if pretrained.name == "model.pt":
        yield pretrained
        return
    with scratch_folder() as scratch:
        path = scratch / "model.pt"
        shutil.copyfile(pretrained, path)
        yield path


class _Job:
    """The job in the cluster, from its making to its end."""

    def __init__(
        self, api: Api, body: dict[str, Any], addresses: manifest.Addresses, timing: Timing
    ) -> None:
        self.api, self._body, self._addresses, self._timing = api, body, addresses, timing
        self.name: str = body["metadata"]["name"]
        self._title = f"{manifest.KIND} {self.name}"
        self._touched = False
        self._shown = ""

    @contextlib.contextmanager
    def removed(self) -> Iterator[None]:
        """Delete the job when the block ends, however that happens; see `launch`."""
        try:
            yield
        except TransferError:
            self._leave()
            raise
        except Terminated:
            if self._moves():
                self._leave()
            else:
                self._remove()
            raise
        except BaseException:
            self._remove()
            raise
        self._remove()

    def _leave(self) -> None:
        if self._touched:
            logger.warning("%s is left as it is: the next attempt adopts it", self._title)

    def _moves(self) -> bool:
        """Whether it was the machine of this step that is taken away; if in doubt, it was not."""
        try:
            return self.api.moving()
        except RaceError:
            return False

    def _remove(self) -> None:
        # Whoever sent SIGTERM does not wait for minutes.
        brief = replace(self._timing.patience, attempts=4, read=10.0)
        try:
            found = self.api.get(self.name, brief)
            if found and self._is_ours(found):
                self.api.delete(self.name, brief)
        except RaceError as error:
            level = logging.WARNING if self._touched else logging.DEBUG
            logger.log(level, "%s was not deleted: %s", self._title, error)

    def _is_ours(self, found: Mapping[str, Any]) -> bool:
        """Whether a job is what this attempt asks for, or an earlier one has asked for."""
        digest = self._body["metadata"]["annotations"][manifest.DIGEST]
        return bool(found["metadata"].get("annotations", {}).get(manifest.DIGEST) == digest)

    def start(self) -> None:
        """Create the job, or adopt the one that an earlier attempt has made.

        Raises:
            ConfigError: the cluster refuses it, or another job has its name.
            TrainingError: an earlier one does not go.
        """
        self._touched = True
        owners = {"ownerReferences": self.api.owners()}
        body = {**self._body, "metadata": {**self._body["metadata"], **owners}}
        deadline = time.monotonic() + self._timing.removal
        while True:
            try:
                self.api.create(body)
                break
            except AnswerError:
                found = self.api.get(self.name)
            if found is None:
                continue  # it went in between
            if "deletionTimestamp" not in found["metadata"]:
                if not self._is_ours(found):
                    raise ConfigError(
                        f"{self._title} exists in namespace {self.api.namespace}, and trains"
                        " something else",
                        hint="Delete it, or give another checkpoint_uri",
                    )
                if _phase(found) != "failed":
                    logger.info("%s: adopted from an earlier attempt", self._title)
                    return
                self.api.delete(self.name)
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{self._title} of an earlier attempt is still being deleted",
                    hint="See why with kubectl describe; a pod on a lost node is a common cause",
                )
            time.sleep(self._timing.pause)
        self._show("created")

    def follow(self) -> None:
        """Follow the job to its end, with node 0's log.

        Raises:
            ConfigError, TransferError: as `Api` raises them.
            RaceError: the job failed, see `launch`.
        """
        show = functools.partial(print, file=sys.stderr, flush=True)
        log = LogFollower(self.api, self.name, show, pause=self._timing.pause)
        log.start()
        rest = 0.0
        try:
            finished = self._finished()
            # Nodes that still run have nothing more to say that matters.
            ended = _phase(finished) in ("succeeded", "failed")
            rest = self._timing.drain if ended else self._timing.pause
        finally:
            log.finish(rest)
        if _phase(finished) == "succeeded":
            return
        from components.common import storage

        if storage.find(self._addresses.output):
            # Node 0 publishes it last, so training had succeeded, whatever came then.
            logger.warning("%s failed after its output was there; it is taken", self._title)
            return
        raise self._failure(finished)

    def _finished(self) -> dict[str, Any]:
        """The job when it has ended, or will not come to a good end."""
        started = time.monotonic()
        waiting = ""
        while True:
            job = self.api.get(self.name)
            if job is None:
                raise TrainingError(
                    f"{self._title} was deleted while it ran",
                    hint="Start the step again: it goes on from the last checkpoint",
                )
            self._show(_phase(job))
            if _phase(job) in ("succeeded", "failed"):
                return job
            pods = self.api.pods(self.name)
            if any(ending.status in LASTING for ending in self._endings(pods)):
                return job
            if time.monotonic() - started > self._timing.pending:
                reason = _why_waiting(pods)
                if reason and reason != waiting:
                    logger.info("%s: %s", self._title, reason)
                waiting = reason
            time.sleep(self._timing.look)

    def _show(self, phase: str) -> None:
        if phase and phase != self._shown:
            logger.info("%s: %s", self._title, phase)
            self._shown = phase

    def _endings(self, pods: list[dict[str, Any]]) -> list["_Ending"]:
        """How nodes failed, those first that say most about why."""
        found = []
        for pod in pods:
            status = container_status(pod, manifest.CONTAINER)
            for now in ("state", "lastState"):
                ended = status.get(now, {}).get("terminated")
                if ended and ended["exitCode"]:
                    found.append(
                        _Ending(
                            manifest.rank_of(pod),
                            ended["exitCode"],
                            ended.get("reason", ""),
                            ended.get("finishedAt") or "",
                            ended.get("message") or "",
                        )
                    )
        # The other nodes fail because one did, and later.
        return sorted(found, key=lambda e: (e.status not in LASTING, e.finished))

    def _failure(self, job: dict[str, Any]) -> RaceError:
        """The error for a job that failed."""
        condition = _conditions(job).get("Failed", {})
        said = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
        if "DeadlineExceeded" in said:
            return TrainingError(
                f"{self._title} was not done within"
                f" {duration(job['spec']['activeDeadlineSeconds'])}",
                hint="Start it again: it goes on from the last checkpoint",
            )
        ending = next(iter(self._endings(self.api.pods(self.name))), None)
        where = f"{self._title} failed"
        if ending is None:
            return TrainingError(f"{where}: {said}", hint="Its log is above")
        node = f"node {ending.rank}"
        if ending.reason == "OOMKilled":
            return TrainingError(
                f"{where}: the memory of {node} was not enough",
                hint="Raise cluster_node_memory, which holds /dev/shm too",
            )
        kind = _KINDS.get(ending.status, TrainingError)
        if ending.message:
            return kind(f"{where}: {node}: {ending.message}")
        return kind(
            f"{where}: {node} ended with exit status {ending.status}"
            + (f" ({said})" if said else ""),
            hint="The log of node 0 is above",
        )


@dataclass(frozen=True)
class _Ending:
    """How the container of a node ended."""

    rank: int | None
    status: int
    reason: str
    finished: str
    message: str  # the step's error (components.common.cli.TERMINATION_LOG), or ""


# The error that a node's exit status stands for.
_KINDS: Mapping[int, type[RaceError]] = {
    kind.exit_status: kind
    for kind in (
        errors.ConfigError,
        errors.DataError,
        errors.TransferError,
        errors.OutputError,
        errors.TrainingError,
        errors.CollapseError,
    )
}


def _conditions(job: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A job's conditions that are true, by their type."""
    found = job.get("status", {}).get("conditions") or []
    return {condition["type"]: condition for condition in found if condition["status"] == "True"}


def _phase(job: Mapping[str, Any]) -> str:
    """Where a job stands, in one word; "" before its controller has seen it."""
    if "deletionTimestamp" in job["metadata"]:
        return "being deleted"
    true = _conditions(job)
    for phase, name in (
        ("succeeded", "Complete"),
        ("failed", "Failed"),
        ("suspended", "Suspended"),
    ):
        if name in true:
            return phase
    nodes = job.get("status", {}).get("jobsStatus") or []
    if any(node.get("ready") for node in nodes):
        return "running"
    return "pending" if nodes or true else ""


def _why_waiting(pods: list[dict[str, Any]]) -> str:
    """Why pods do not run yet, in their scheduler's or kubelet's words; "" if none waits."""
    if not pods:
        return "it has no pods yet; a queue, a quota or its controller holds them back"
    reasons: dict[str, int] = {}
    for pod in pods:
        status = pod.get("status", {})
        if status.get("phase") != "Pending":
            continue
        found = [
            f"{condition.get('reason')}: {condition.get('message', '')}"
            for condition in status.get("conditions") or []
            if condition["type"] == "PodScheduled" and condition["status"] == "False"
        ]
        containers = (status.get("initContainerStatuses") or []) + (
            status.get("containerStatuses") or []
        )
        for container in containers:
            waiting = container.get("state", {}).get("waiting")
            if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
                found.append(f"{waiting.get('reason')}: {waiting.get('message', '')}")
        reason = found[0].rstrip(": ") if found else "starting"
        reasons[reason] = reasons.get(reason, 0) + 1
    waits = (f"{n} pod{'s wait' if n > 1 else ' waits'}: {why}" for why, n in reasons.items())
    return errors.one_line("; ".join(waits))
