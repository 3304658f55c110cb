"""Follow a run on a cluster until it ends: what its steps do, what they wait for, why they fail."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from components.common.errors import ConfigError, RaceError
from components.common.progress import duration
from pipeline.client import ENDED, GOING, LOG_TAIL, AnswerError, Api, Run, no_answer
from pipeline.display import say, step_line
from pipeline.outcome import RESULTS, outcome, read_failure
from pipeline.parameters import is_sweep, trials
from pipeline.steps import STEPS
from pipeline.workflow import StepStatus, read_workflow, steps_of_tasks

SILENT = 30  # answers without a state, one after the other: a run that was just made gives some
TOLD = 60.0  # seconds between two lines about how far a training has come
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
    _told: dict[str, float] = field(default_factory=dict)
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
            run, steps = self.look()
            self._canceling |= run.state == "CANCELING"
            ended = run.state in ENDED
            for status in steps:
                self._show(status)
                if not ended:
                    self._watch(status)
                    self._tell_progress(status)
            if ended:
                break
            time.sleep(self.every)
        if run.state != "SUCCEEDED":
            raise self._failure(run, steps)

    def look(self) -> tuple[Run, list[StepStatus]]:
        """The run and its steps as they stand now."""
        run = self._run()
        self._trials = self._trials or _trial_names(run)
        return run, self._steps(run)

    def error(self, run: Run, steps: Sequence[StepStatus]) -> RunError | None:
        """How a run ended; None if it goes on, or ended well."""
        failed = run.state in ENDED and run.state != "SUCCEEDED"
        return self._failure(run, steps) if failed else None

    def log(self, status: StepStatus, attempt: int = -1, tail: int = LOG_TAIL) -> str:
        """The end of an attempt's log, of the last one unless told otherwise; "" without one."""
        if not status.pods:
            return ""
        return self.api.log(self.run_id, status.pods[attempt].node, tail)

    def result(self, status: StepStatus) -> str:
        """What a step says in its log of how far it has come, or of what came of it."""
        shows = status.name in RESULTS and status.state in ("running", "succeeded")
        return outcome(status.name, self.log(status)) if shows else ""

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
        later = LATER
        while (workflow := read_workflow(self.api.manifest(self.run_id))) is not None:
            if workflow.ended or run.state not in ENDED or not later:
                return list(workflow.steps)
            later -= 1
            time.sleep(min(self.every, 2.0))
        return steps_of_tasks(run.tasks, STEPS)

    def _show(self, status: StepStatus) -> None:
        label, attempts = self.label(status), len(status.pods)
        before = self._shown.get(label)
        if status.state == "pending" or before == (status.state, attempts):
            return
        self._shown[label] = (status.state, attempts)
        silent = self._canceling or before == ("retrying", attempts)
        say(self.line(status, with_reason=status.state == "retrying" or not silent))

    def line(self, status: StepStatus, *, with_reason: bool = True) -> str:
        """What is shown of a step."""
        attempts = len(status.pods)
        said = f"{status.state} (attempt {attempts})" if attempts > 1 else status.state
        more = self.why(status) if with_reason else ""
        if status.state == "retrying":
            said = f"attempt {attempts} failed"
        elif status.state == "pending" and more:
            said = "waiting"
        said += f": {more}" if more else ""
        spent = duration(status.seconds) if status.seconds else ""
        return step_line(self.label(status), spent, said)

    def why(self, status: StepStatus) -> str:
        """Why it waits or failed; of another one, what came of it."""
        if status.state == "pending":
            return status.reason
        if status.state in ("failed", "retrying"):
            return self._reason(status)[0]
        return self.result(status)

    def _tell_progress(self, status: StepStatus) -> None:
        """Say how far a training has come, once a minute at most."""
        label, now = self.label(status), time.monotonic()
        if status.state == "running" and now - self._told.setdefault(label, now) >= TOLD:
            self._told[label] = now
            if result := self.result(status):
                say(step_line(label, "", result))

    def _watch(self, status: StepStatus) -> None:
        """Say once for what a step waits, again when it waits for something else; or give up."""
        label, now = self.label(status), time.monotonic()
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
        if self._canceling or run.canceled:
            return RunError("the run was cancelled", hint=hint, exit_status=CANCELLED)
        failed = [status for status in steps if status.state == "failed"]
        if not failed:
            return RunError(f"the run {run.state.lower()}", hint=hint)
        first = min(failed, key=lambda status: status.ended or "~")
        reason, status = self._reason(first)
        what = f"the run {run.state.lower()} in {self.label(first)}"
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
        told = read_failure(self.log(status))
        reason = status.reason or told.error or status.pods[-1].message.removeprefix("main: ")
        if told.exit_status is not None:  # Argo knows that of the launcher
            reason = re.sub(r"\(exit code \d+\)", f"(exit status {told.exit_status})", reason)
        return reason, told.exit_status

    def label(self, status: StepStatus) -> str:
        """For people: train, or train (seed 2)."""
        label = f"{status.name}-driver" if status.driver else status.name
        if status.trial is None:
            return label
        known = status.trial < len(self._trials)
        return f"{label} ({self._trials[status.trial] if known else status.trial + 1})"


def _kind(reason: str) -> str:
    """What tells reasons apart: kubelet has two for one image, and numbers of nodes change."""
    return "image" if "ImagePull" in reason else re.sub(r"\d+", "", reason)


def _trial_names(run: Run) -> list[str]:
    """What the trials are called, by the run's parameters; nothing for a single training."""
    try:
        return [trial.label for trial in trials(run.parameters)] if is_sweep(run.parameters) else []
    except (ConfigError, LookupError, TypeError, ValueError):
        return []
