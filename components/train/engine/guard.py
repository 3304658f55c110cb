"""Ends a run that cannot come to anything, hours before it would end by itself."""

import math
from dataclasses import dataclass

from components.common.errors import CollapseError


@dataclass
class Guard:
    """Watches the updates of a run.

    Two failures are known of large models on this task. The scores of the options become equal and
    stay so, which shows as a loss of ln(options). Or the weights are not numbers any more: with
    fp16, fairseq takes that for an overflow and skips one update after the other until the end.

    Args:
        options: number of options of a question.
        questions: after this many, a loss that is still (or again) at ln(options) ends the
            run. It is a mean with a third of them as its window. 0 does not watch it.
        patience: updates in a row that may be skipped for overflow; 0 is any number.
    """

    options: float
    questions: int
    patience: int
    skipped: int = 0  # in a row
    seen: float = 0  # questions
    mean: float = 0.0  # of the loss, over the window; older updates count less and less

    # A collapsed run's mean loss is within 0.2 % of ln(options), or above it.
    MARGIN = 0.01

    def state(self) -> dict[str, float]:
        """What a resumed run needs, in order to end when the interrupted one would have."""
        return {"skipped": self.skipped, "seen": self.seen, "mean": self.mean}

    def resume(self, state: dict[str, float]) -> None:
        """Take over what `state` gave."""
        self.skipped = int(state["skipped"])
        self.seen, self.mean = float(state["seen"]), float(state["mean"])

    def updated(self, loss: float, questions: float) -> None:
        """Take note of an update that was made.

        Args:
            loss: mean over the update's questions, in nats.
            questions: how many they are.

        Raises:
            CollapseError: the loss is not a number, or has stayed at that of a guess.
        """
        self.skipped = 0
        if not math.isfinite(loss):
            raise self.broken(f"the loss is {loss}")
        if not self.questions:
            return
        self.seen += questions
        # The plain mean at first, then an exponential one with the window for its time constant.
        self.mean += (
            (loss - self.mean) * questions / max(questions, min(self.seen, self.questions / 3))
        )
        guess = math.log(self.options)
        if self.seen >= self.questions and self.mean > guess * (1 - self.MARGIN):
            raise CollapseError(
                f"training has collapsed: after {self.seen:.0f} questions the loss is still"
                f" {self.mean:.3f}, that of guessing among {self.options:.4g} options"
                f" ({guess:.3f})",
                hint="Lower learning_rate, set warmup_updates (say, to 6 %), or change seed",
            )

    def overflowed(self, loss_scale: float) -> None:
        """Take note of an update that was skipped because its gradient overflowed.

        Raises:
            CollapseError: too many were skipped in a row.
        """
        self.skipped += 1
        if self.patience and self.skipped >= self.patience:
            raise CollapseError(
                f"{self.skipped} updates in a row were skipped because the gradient overflowed"
                f" (loss scale {loss_scale:g})",
                hint="Use precision bf16 or fp32, or lower learning_rate or threshold_loss_scale",
            )

    @staticmethod
    def broken(what: str) -> CollapseError:
        """The error for values that are not numbers."""
        return CollapseError(
            f"{what}: the weights are no longer numbers",
            hint="Lower learning_rate, set warmup_updates or clip_norm, or use precision bf16",
        )
