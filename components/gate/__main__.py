"""Fail when a model is not good enough.

Read the accuracy on all test questions from what evaluate or select wrote, and fail when it is too
low.

example:
  python -m components.gate --evaluation runs/evaluation --min-accuracy 80
"""

from components.common.program import Program
from components.gate.core import GateConfig, gate

main = Program(GateConfig, gate, __doc__)

if __name__ == "__main__":
    main.run()
