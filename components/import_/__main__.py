"""Take a Hugging Face RoBERTa as the pretrained checkpoint.

Take a Hugging Face RoBERTa (RobertaModel, RobertaForMaskedLM or RobertaForMultipleChoice) as the
pretrained checkpoint: the files that train and binarize want, in fairseq's formats.

example:
  python -m components.import_ --source roberta-large --output roberta
  python -m components.binarize --text text --bpe roberta --output data
  python -m components.train --data data --pretrained roberta --output model
"""

from components.common.program import Program
from components.import_.core import ImportConfig, import_model

main = Program(ImportConfig, import_model, __doc__)

if __name__ == "__main__":
    main.run()
