"""Errors that a user can act on, each with an exit code that a script can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MedsslError(Exception):
    """What is wrong, where, got, expected, what to do, in one or two sentences. Shown without a traceback."""

    exit_code = 1


class StudyError(MedsslError):
    """The study file (or a source it names) cannot be used."""

    exit_code = 2


class NotFiniteError(MedsslError):
    """A loss, gradient or weight became NaN or infinite."""

    exit_code = 3


class OutOfMemoryError(MedsslError):
    """The largest batch does not fit."""

    exit_code = 4


class DiskFullError(MedsslError):
    """Not enough room for what a stage is about to write."""

    exit_code = 5


class LockedError(MedsslError):
    """Another process works on the same results."""

    exit_code = 6


class CorruptArtefactError(MedsslError):
    """An artefact does not match its receipt."""

    exit_code = 7


class TooManyRefusalsError(MedsslError):
    """Nothing, or too little, of a source was accepted."""

    exit_code = 8


class PreemptedError(MedsslError):
    """Stopped by a signal or a deadline after saving; the same command resumes."""

    exit_code = 75


def ended(text: str) -> str:
    """`text` with a full stop, unless it ends with a mark: for a text written by others that is followed by another sentence."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: ` Did you mean 'x'?`, or the known words if none is similar."""
    choices = sorted(known)
    similar = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if similar:
        return f" Did you mean {similar[0]!r}?"
    return f" Known: {', '.join(choices)}." if choices else ""
