"""Follow a run on a cluster until it ends: what its steps do, what they wait for, why they fail."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from components.common.errors import ConfigError, RaceError
from components.common.progress import duration
from pipeline.client import ENDED, GOING, AnswerError, Api, Run, no_answer
from pipeline.display import say, step_line
from pipeline.parameters import trials
from pipeline.steps import STEPS
from pipeline.workflow import StepStatus, Workflow, read_failure, read_workflow, steps_of_tasks

SILENT = 30  # answers without a state, one after the other: a run that was just made gives some
WORTH_A_WORD = 30.0  # seconds that a pod may wait before it is told of
HOPELESS = 300.0  # seconds; a registry that restarts, or a Secret that is on its way, needs fewer
# Further looks at the workflow of a run that has ended: it may be written after the state.
LATER = 5
OWN_STATUSES = range(2, 9)  # see components.common.errors
CANCELLED = 130  # as a program that its user interrupts


class RunError(RaceError):
    """A run on the cluster ended otherwise than well, or cannot go on.

    The exit status is that of the step that failed, where its log tells it. It is transient where
    all that failed may end well when the run is retried.
    """

    def __init__(
        self, what: str, *, hint: str = "", exit_status: int = 1, transient: bool = False
    ) -> None:
        super().__init__(what, hint=hint)
        self.exit_status, self.transient = exit_status, transient


@dataclass
class _Wait:
    """Since when a step waits, and since when for what cannot come (by time.monotonic())."""

    since: float
    hopeless: float | None = None
    said: str = ""


@dataclass
class Follower:
    """What of a run has been seen and said so far; it may be followed again after a retry.

    Args:
        every: seconds between two looks.
        pending_timeout: seconds that a pod may wait for its node; without end where it is None.
        terminate: end a run whose pod waits in vain.
    """

    api: Api
    run_id: str
    every: float
    pending_timeout: float | None = None
    terminate: bool = False
    _shown: dict[str, tuple[str, int]] = field(default_factory=dict)
    _waits: dict[str, _Wait] = field(default_factory=dict)
    _trials: Sequence[str] = ()
    _canceling: bool = False

    def follow_on(self, retries: int) -> None:
        """Follow the run, and retry it up to so many times after failures that may pass.

        What had succeeded is not run again, and training goes on from its newest checkpoint.

        Raises:
            RunError, AnswerError: as `follow` raises them.
        """
        for number in range(1, retries + 2):
            try:
                self.follow()
                return
            except RunError as error:
                if not error.transient or number > retries:
                    raise
                say(f"{error.what}; retrying the run ({number} of at most {retries})")
            self.api.retry(self.run_id)
            time.sleep(self.every)  # until then it may still be told of as failed

    def follow(self) -> None:
        """Wait for the run's end, and show each step that starts, waits or ends.

        Raises:
            RunError: it ended otherwise than SUCCEEDED, or a pod waits in vain; says where and why.
            AnswerError: again and again the server does not say how the run stands.
        """
        self._canceling = False
        while True:
            run = self._run()
            self._trials = self._trials or _trial_names(run)
            self._canceling |= run.state == "CANCELING"
            steps = self._steps(run)
            ended = run.state in ENDED
            for status in steps:
                self._show(status)
                if not ended:
                    self._watch(status)
            if ended:
                break
            time.sleep(self.every)
        if run.state != "SUCCEEDED":
            raise self._failure(run, steps)

    def _run(self) -> Run:
        """The run, as soon as the server says how it stands."""
        silent = 0
        while True:
            try:
                run = self.api.run(self.run_id)
                if run.state in (*ENDED, *GOING):
                    return run
                # A run that its server is taking up has no state for some seconds.
                raise no_answer(self.api.server.host, f"without the state of run {self.run_id}")
            except AnswerError:
                if (silent := silent + 1) == SILENT:
                    raise
                time.sleep(self.every)

    def _steps(self, run: Run) -> list[StepStatus]:
        workflow = self._workflow()
        for _ in range(LATER):
            if workflow is None or workflow.ended or run.state not in ENDED:
                break
            time.sleep(min(self.every, 2.0))
            workflow = self._workflow()
        if workflow is not None:
            return list(workflow.steps)
        return steps_of_tasks(run.tasks, STEPS)

    def _workflow(self) -> Workflow | None:
        return read_workflow(self.api.manifest(self.run_id))

    def _show(self, status: StepStatus) -> None:
        label, attempts = self._label(status), len(status.pods)
        before = self._shown.get(label)
        if status.state == "pending" or before == (status.state, attempts):
            return
        self._shown[label] = (status.state, attempts)
        said = f"{status.state} (attempt {attempts})" if attempts > 1 else status.state
        if status.state == "retrying":
            said = f"attempt {attempts} failed: {self._reason(status)[0]}"
        elif status.state == "failed" and not self._canceling and before != ("retrying", attempts):
            reason = self._reason(status)[0]
            said += f": {reason}" if reason else ""
        say(step_line(label, duration(status.seconds) if status.seconds else "", said))

    def _watch(self, status: StepStatus) -> None:
        """Say once for what a step waits, again when it waits for something else; or give up."""
        label, now = self._label(status), time.monotonic()
        if status.state != "pending" and not status.hopeless:
            self._waits.pop(label, None)
            return
        wait = self._waits.setdefault(label, _Wait(now))
        reason = status.reason
        if not status.hopeless:
            wait.hopeless = None if reason else wait.hopeless
        elif wait.hopeless is None:
            wait.hopeless = now
        if status.state == "pending" and reason and now - wait.since > WORTH_A_WORD:
            kind = _kind(reason)
            if kind != wait.said:
                wait.said = kind
                say(step_line(label, "", f"waiting: {reason}"))
        if wait.hopeless is not None and now - wait.hopeless >= HOPELESS:
            raise self._given_up(f"{label} cannot start: {reason}")
        if self.pending_timeout is not None and now - wait.since >= self.pending_timeout:
            why = f": {reason}" if reason else ""
            raise self._given_up(f"{label} has waited for {duration(now - wait.since)}{why}")

    def _given_up(self, what: str) -> RunError:
        goes = "goes on"
        if self.terminate:
            self.api.terminate(self.run_id)
            goes = "was terminated"
        page = self.api.server.address("runs", self.run_id)
        return RunError(what, hint=f"The run {goes}: {page}")

    def _failure(self, run: Run, steps: Sequence[StepStatus]) -> RunError:
        hint = f"Its logs: {self.api.server.address('runs', self.run_id)}"
        if run.state == "CANCELED" or self._canceling or _canceled(run):
            return RunError("the run was cancelled", hint=hint, exit_status=CANCELLED)
        failed = [status for status in steps if status.state == "failed"]
        if not failed:
            return RunError(f"the run {run.state.lower()}", hint=hint)
        first = min(failed, key=lambda status: status.ended or "~")
        reason, status = self._reason(first)
        what = f"the run {run.state.lower()} in {self._label(first)}"
        return RunError(
            f"{what}: {reason}" if reason else what,
            hint=hint,
            exit_status=status if status and status in OWN_STATUSES else 1,
            # What will not pass makes the run fail again, whatever becomes of the rest.
            transient=all(step.may_pass(self._reason(step)[1]) for step in failed),
        )

    def _reason(self, status: StepStatus) -> tuple[str, int | None]:
        """Why the last attempt failed, and its program's exit status where that is known."""
        if not status.pods:
            return "", None
        told = read_failure(self.api.log(self.run_id, status.pods[-1].node))
        reason = status.reason or told.error or status.pods[-1].message.removeprefix("main: ")
        if told.exit_status is not None:  # Argo knows that of the launcher
            reason = re.sub(r"\(exit code \d+\)", f"(exit status {told.exit_status})", reason)
        return reason, told.exit_status

    def _label(self, status: StepStatus) -> str:
        label = f"{status.name}-driver" if status.driver else status.name
        if status.trial is None:
            return label
        known = status.trial < len(self._trials)
        return f"{label} ({self._trials[status.trial] if known else status.trial + 1})"


def _kind(reason: str) -> str:
    """What tells reasons apart: kubelet has two for one image, and numbers of nodes change."""
    return "image" if "ImagePull" in reason else re.sub(r"\d+", "", reason)


def _canceled(run: Run) -> bool:
    """Whether someone has ended it since it was last started: it is FAILED all the same."""
    starts = [i for i, state in enumerate(run.history) if state in ("PENDING", "RUNNING")]
    return "CANCELING" in run.history[starts[-1] if starts else 0 :]


def _trial_names(run: Run) -> list[str]:
    """What the trials are called, by the run's parameters; nothing for a single training."""
    try:
        return [trial.label for trial in trials(run.parameters)]
    except (ConfigError, LookupError, TypeError, ValueError):
        return []
