"""Select the best of several trained models.

Take the model that is the best in validation, say how far trials lie apart and how many collapsed,
and measure the best few together on the test sets. It needs no GPU.

example:
  python -m components.select --models seed1/model seed2/model \\
    --evaluations seed1/evaluation seed2/evaluation --output best
"""

from components.common.program import Program
from components.select.core import SelectConfig, select

main = Program(SelectConfig, select, __doc__)

if __name__ == "__main__":
    main.run()
