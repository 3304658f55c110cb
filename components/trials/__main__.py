"""List the trials of a sweep: all pairs of seeds and learning rates.

example:
  python -m components.trials --seeds=[1,2,3] --learning-rates=[1e-5,2e-5]
"""

from components.common.program import Program
from components.trials.core import TrialsConfig, plan_trials

main = Program(TrialsConfig, plan_trials, __doc__)

if __name__ == "__main__":
    main.run()
