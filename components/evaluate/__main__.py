"""Evaluate a trained checkpoint on RACE's test questions.

python -m components.evaluate --data runs/data --model runs/model --output runs/evaluation
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.evaluate.core import EvaluateConfig, evaluate


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        EvaluateConfig,
        prog="python -m components.evaluate",
        description="""
            Accuracy of a trained checkpoint on test-middle, test-high and both together, with the
            probabilities of the options of every question in predictions.jsonl.
        """,
        epilog="""
            example, and a command that fails when fewer than 80 % are right:
              python -m components.evaluate --data runs/data --model runs/model \\
                --output runs/evaluation
              python -m components.gate --evaluation runs/evaluation --min-accuracy 80
        """,
    )
    with at_hand(parse(EvaluateConfig, arguments, argv)) as config:
        evaluate(config)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
