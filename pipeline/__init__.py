"""Knows Kubeflow Pipelines: the DAG, its parameters, and the `race` command."""

import importlib
import sys
from pathlib import Path

# The package beside this one, whatever else of that name PYTHONPATH leads to.
sys.path.insert(0, str(Path(__file__).parents[1]))
importlib.import_module("components")
del sys.path[0]
