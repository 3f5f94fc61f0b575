"""The command `medssl`: a verb for each thing that a person does, and one for each stage, which Snakemake calls."""

from medssl.cli.command import app, main

__all__ = ["app", "main"]
