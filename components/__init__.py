"""The steps: each a plain function and a program."""

import sys
from importlib.util import find_spec

if find_spec("tqdm") is None:
    _WHY = (
        "this Python lacks the packages that race-pipeline needs. Run `make setup`, then use"
        " .venv/bin/python, or activate it: . .venv/bin/activate"
    )
    if sys.argv[:1] == ["-m"]:  # python -m components.download
        sys.stderr.write(f"error: {_WHY}\n")
        raise SystemExit(2)
    raise ImportError(_WHY)
