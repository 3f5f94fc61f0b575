"""The checks of the decoded values of a volume, one per file."""
