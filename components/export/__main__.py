"""Turn a trained checkpoint into a Hugging Face model.

Turn a trained checkpoint into a folder that Hugging Face's transformers load with
AutoModelForMultipleChoice and AutoTokenizer: weights as safetensors, settings, the tokenizer, and a
model card that says how to ask the model.

examples:
  python -m components.export --model runs/latest --output exported
  python -m components.export --model model --bpe bpe --output exported
  python -m components.export --model runs/latest --output exported --push-to-hub owner/name
"""

from components.common.program import Program
from components.export.core import ExportConfig, export

main = Program(ExportConfig, export, __doc__)

if __name__ == "__main__":
    main.run()
