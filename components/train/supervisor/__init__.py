"""The process that a person or KFP starts: it launches the ranks, watches them, and publishes."""
