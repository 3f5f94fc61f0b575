"""Downstream tasks, one per file: head, loss, fit, predict, prediction columns."""
