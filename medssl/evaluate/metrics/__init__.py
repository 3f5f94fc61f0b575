"""Metrics: one file each; the function that bears the file's name is the metric, `TASK` says which task it scores."""
