"""Take a Hugging Face RoBERTa as the pretrained checkpoint.

python -m components.import_ --source roberta-large --output roberta
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.import_.config import ImportConfig
from components.import_.core import import_model


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        ImportConfig,
        prog="python -m components.import_",
        description="""
            Take a Hugging Face RoBERTa (RobertaModel, RobertaForMaskedLM or
            RobertaForMultipleChoice) as the pretrained checkpoint: the files that train and
            binarize want, in fairseq's formats.
        """,
        epilog="""
            example:
              python -m components.import_ --source roberta-large --output roberta
              python -m components.binarize --text text --bpe roberta --output data
              python -m components.train --data data --pretrained roberta --output model
        """,
    )
    with at_hand(parse(ImportConfig, arguments, argv)) as config:
        import_model(config)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
