"""fairseq's --user-dir: importing it registers the packed engine's task."""

from components.train.fairseq_plugin import task as task
