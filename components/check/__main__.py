"""Look at a data set before training on it: leaks between splits, doubtful questions, and what an
answer is worth that was found without reading.

example:
  python -m components.check --data RACE.tar.gz --bpe bpe
"""

from components.check.config import CheckConfig
from components.check.core import check
from components.common.program import Program

main = Program(CheckConfig, check, __doc__)

if __name__ == "__main__":
    main.run()
