"""Evaluate a trained checkpoint on the test questions.

Accuracy of a trained checkpoint on test-middle, test-high and both together, with the probabilities
of the options of every question in predictions.jsonl.

example:
  python -m components.evaluate --data runs/data --model runs/model --output runs/evaluation
  python -m components.gate --evaluation runs/evaluation --min-accuracy 80
"""

from components.common.program import Program
from components.evaluate.core import EvaluateConfig, evaluate

main = Program(EvaluateConfig, evaluate, __doc__)

if __name__ == "__main__":
    main.run()
