"""Turn RACE's JSON files into text columns.

Check every file of RACE and write, for train, dev, test-middle and test-high, {split}.input0 (the
passage), .input1 to .input4 (the question with option A to D), .label and .id, one line a question.
Data in RACE's format with other numbers of options, other levels (the folders in train, dev and
test) or none are read as well.

example:
  python -m components.preprocess --race RACE --output text
"""

from components.common.program import Program
from components.preprocess.core import PreprocessConfig, Summary, preprocess

main = Program(PreprocessConfig, preprocess, __doc__, show=Summary.table)

if __name__ == "__main__":
    main.run()
