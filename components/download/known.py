"""The public addresses of what the pipeline downloads by default, and their known digests."""

RACE = "http://www.cs.cmu.edu/~glai1/data/race/RACE.tar.gz"

_FAIRSEQ = "https://dl.fbaipublicfiles.com/fairseq"
ROBERTA_LARGE = f"{_FAIRSEQ}/models/roberta.large.tar.gz"
BPE = f"{_FAIRSEQ}/gpt2_bpe"
BPE_FILES = ("encoder.json", "vocab.bpe", "dict.txt")
ENCODER_JSON = f"{BPE}/encoder.json"
VOCAB_BPE = f"{BPE}/vocab.bpe"

# What is in some of them, by its name on the Hugging Face hub.
NAMES = {RACE: "ehovy/race", ROBERTA_LARGE: "FacebookAI/roberta-large"}

# Each was seen in two independent places. For the other addresses no digest is published: they are
# not checked unless the user names one, and what was computed is printed.
SHA256 = {
    RACE: "b2769cc9fdc5c546a693300eb9a966cec6870bd349fbc44ed5225f8ad33006e5",
    ENCODER_JSON: "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    VOCAB_BPE: "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def name_of(url: str, sha256: str) -> str:
    """What an archive holds: its name on the hub where it is known by its digest or address."""
    for address, name in NAMES.items():
        if sha256 == SHA256.get(address) or (url == address and address not in SHA256):
            return name
    file = url.partition("?")[0].rpartition("/")[2]
    return f"{file} (sha256 {sha256[:12]})"
