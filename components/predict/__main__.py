"""Answer questions with a trained model.

python -m components.predict --model runs/latest < questions.jsonl > answers.jsonl
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.predict.config import PredictConfig
from components.predict.core import predict


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        PredictConfig,
        prog="python -m components.predict",
        description="""
            Answer questions with a trained model: those of a file or of standard input with a line
            of JSON each, or one from the command line.
        """,
        epilog="""
            A question is a JSON object on a line: {"article": "...", "question": "...",
            "options": ["...", ...]}, with "id" and "answer" (a letter, an index from 0, or the
            option's text) where they are known. What RACE's files hold is understood too. Bad lines
            are reported and left out; there were some if the exit status is 3.

            examples:
              python -m components.predict --model runs/latest < questions.jsonl
              python -m components.predict --model model --bpe bpe --passage "Ann has a cat." \\
                --question "Ann has a _." --option dog --option cat --option cow --option hen
        """,
    )
    with at_hand(parse(PredictConfig, arguments, argv)) as config:
        predict(config)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
