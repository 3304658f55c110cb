"""fairseq's --user-dir: importing it registers the packed engine's task."""

from components.train.engine import task as task
