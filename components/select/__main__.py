"""Select the best of several trained models.

python -m components.select --models a/model b/model --evaluations a/report b/report --output best
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.select.config import SelectConfig
from components.select.core import select


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        SelectConfig,
        prog="python -m components.select",
        description="""
            Take the model that is the best on dev, say how far trials lie apart and how many
            collapsed, and measure the best few together on the test sets. It needs no GPU.
        """,
        epilog="""
            example:
              python -m components.select --models seed1/model seed2/model \\
                --evaluations seed1/evaluation seed2/evaluation --output best
        """,
    )
    with at_hand(parse(SelectConfig, arguments, argv)) as config:
        select(config)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
