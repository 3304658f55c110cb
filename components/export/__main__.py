"""Turn a trained checkpoint into a Hugging Face model.

python -m components.export --model runs/latest --output exported
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.export.config import ExportConfig
from components.export.core import export


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        ExportConfig,
        prog="python -m components.export",
        description="""
            Turn a trained checkpoint into a folder that Hugging Face's transformers load with
            AutoModelForMultipleChoice and AutoTokenizer: weights as safetensors, settings, the
            tokenizer, and a model card that says how to ask the model.
        """,
        epilog="""
            examples:
              python -m components.export --model runs/latest --output exported
              python -m components.export --model model --bpe bpe --output exported
        """,
    )
    with at_hand(parse(ExportConfig, arguments, argv)) as config:
        export(config)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
