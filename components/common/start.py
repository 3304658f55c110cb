"""Run a module as a program, with the package `components` that this file is a part of.

    python -P .../components/common/start.py components.train.rank.worker --control ...

`python -m` looks in the folder in which it is called, and along PYTHONPATH: a project's own
`components` may lie there, or a file with the name of one of Python's modules. See
components.common.processes.python.
"""

import importlib
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    importlib.import_module("components")
    del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"  # what this process starts is to look no further either
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
