"""Download files into a new folder, and unpack them there, or into one file, if asked to.

The folder appears when everything has arrived and was checked, or not at all. A transfer that is
cut goes on where it was cut; a digest that does not match, an archive that is not plain data, or an
address that is wrong stops it at once. An address may end with #sha256= and the digest that its
file must have. The digests of RACE.tar.gz, encoder.json and vocab.bpe at their public addresses are
known and always checked.

examples:
  python -m components.download --output data/race --pack \\
    --url http://www.cs.cmu.edu/~glai1/data/race/RACE.tar.gz
  python -m components.download --output data/bpe \\
    --url https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe \\
    --files encoder.json vocab.bpe dict.txt
"""

from components.common.program import Program
from components.download.core import DownloadConfig, download

main = Program(DownloadConfig, download, __doc__)

if __name__ == "__main__":
    main.run()
