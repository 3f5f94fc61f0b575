"""Accuracy."""

from __future__ import annotations

from medssl.evaluate.sample import ALL, Floats, Sample

PREDICTS = "classes"
BETTER = "higher"
TITLE = "Accuracy"
HEADLINE = 3


def accuracy(sample: Sample) -> dict[str, Floats]:
    """Share of cases whose class (of a multi-label case: whose every class) is the true one."""
    return {ALL: sample.mean((sample.called == sample.targets).all(axis=1))}
