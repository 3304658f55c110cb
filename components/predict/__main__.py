"""Answer questions with a trained model.

Answer questions with a trained model: those of a file or of standard input with a line of JSON
each, or one from the command line.

A question is a JSON object on a line: {"article": "...", "question": "...", "options": ["...",
...]}, with "id" and "answer" (a letter, an index from 0, or the option's text) where they are
known. What RACE's files hold is understood too. Bad lines are reported and left out; there were
some if the exit status is 3.

examples:
  python -m components.predict --model runs/latest < questions.jsonl
  python -m components.predict --model model --bpe bpe --passage "Ann has a cat." \\
    --question "Ann has a _." --option dog --option cat --option cow --option hen
"""

from components.common.program import Program
from components.predict.core import PredictConfig, predict

main = Program(PredictConfig, predict, __doc__)

if __name__ == "__main__":
    main.run()
