"""Fail when a model is not good enough.

python -m components.gate --evaluation runs/evaluation --min-accuracy 80
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.gate.core import GateConfig, gate


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        GateConfig,
        prog="python -m components.gate",
        description="""
            Read the accuracy on all test questions from what evaluate or select wrote, and fail
            when it is too low.
        """,
        epilog="""
            example:
              python -m components.gate --evaluation runs/evaluation --min-accuracy 80
        """,
    )
    with at_hand(parse(GateConfig, arguments, argv)) as config:
        gate(config)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
