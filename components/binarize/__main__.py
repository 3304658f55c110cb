"""Encode text columns with GPT-2's BPE, in fairseq's binary format.

Encode the text columns with GPT-2's byte-level BPE and write input0/ to input4/, each with dict.txt
and {train,valid,test,test1}.{bin,idx}, and label/ and id/. test is RACE's test-middle, test1 its
test-high; splits.json says so. Other numbers of options and other test sets are taken from the text
columns.

example:
  python -m components.binarize --text text --bpe gpt2_bpe --output data-bin
"""

from components.binarize.core import BinarizeConfig, Summary, binarize
from components.common.program import Program

main = Program(BinarizeConfig, binarize, __doc__, show=Summary.table)

if __name__ == "__main__":
    main.run()
