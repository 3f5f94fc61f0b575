"""Names in tables and of folders: runs, starting points, arms and fits, parsed from text and written to text.

Words of a study file match `[a-z0-9][a-z0-9_]*`, so `-` separates words and is inside none, and `_` is kept:

| name | text | example |
|---|---|---|
| run | `name-arm-seedN` | `simclr-hash-seed0` |
| arm of a run | `name-arm` | `simclr-hash` |
| given weights, start and arm | `name` | `radimagenet` |
| scratch, start and arm | `scratch-backbone`, `scratch-backbone-digest` | `scratch-resnet18`, `scratch-resnet18-a3f0` |
| scratch drawn several times, start | `scratch-backbone-seedN` | `scratch-resnet18-seed1` |
| fit | `start-mode-share-sN`, `start-mode-share-sN-fN` | `simclr-hash-seed0-full-0p05-s2` |

`parse` and `str` are each other's inverse. Two different things never share a text, except two scratches whose options share
a digest: `unique` refuses those.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, sha256_text

SCRATCH = "scratch"
"""The first word of every starting point with random weights, and of nothing else."""
DIGEST_LENGTH = 4
"""In hexadecimal digits."""

ShareKind = Literal["fraction", "units", "per_class"]
"""What a share of labels is an amount of: a fraction of the units, a number of them, or a number of each class."""

RESERVED: Mapping[str, Mapping[str, str]] = {
    "pretrain": {SCRATCH: "it names the starting points with random weights"},
    "weights": {SCRATCH: "it names the starting points with random weights"},
    "arm": {
        "describe": "it names the job that describes a cohort's slices",
        "leakage": "it names the folder of the leakage firewall",
    },
    "cohort": {"study": "it names the page of the whole study"},
    "source": {"study": "it names the page of the whole study"},
    "study": {
        "code": "the private folder keeps hashes of code there",
        "id_key": "the private folder keeps the key of the ids there",
    },
}
"""Words that a study file may not use as names, by what they would name, and why."""

_WORD = re.compile(r"[a-z0-9][a-z0-9_]*")
_NUMBER = "0|[1-9][0-9]*"
_SEED = re.compile(f"seed({_NUMBER})")
_FIT_SEED = re.compile(f"s({_NUMBER})")
_FOLD = re.compile(f"f({_NUMBER})")
_DIGEST = re.compile(f"[0-9a-f]{{{DIGEST_LENGTH}}}")
_LETTERS: dict[ShareKind, str] = {"units": "n", "per_class": "c"}
_COUNT = re.compile(f"([nc])({_NUMBER})")
_FRACTION = re.compile(r"(0|[1-9][0-9]*)(?:p([0-9]*[1-9]))?")


@dataclass(frozen=True)
class Run:
    """A pre-training run: its name in the study file, the reduction arm whose slices it sees, its seed."""

    name: str
    arm: str
    seed: int

    def __post_init__(self) -> None:
        _require_word(self.name, "the name of a pre-training run")
        _require_word(self.arm, "a reduction arm")
        _require_number(self.seed, "the seed of a run")
        _require_free("pretrain", self.name)

    def __str__(self) -> str:
        return f"{self.name}-{self.arm}-seed{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Run:
        """The run with this text.

        Raises:
            StudyError: the text is not a run.
        """
        words = text.split("-")
        if len(words) != 3 or not (seed := _SEED.fullmatch(words[2])) or not all(map(_is_word, words[:2])) or words[0] == SCRATCH:
            raise _not_a_name(text, "a pre-training run", "name-arm-seedN, such as simclr-hash-seed0")
        return cls(words[0], words[1], int(seed[1]))

    @property
    def start(self) -> Start:
        """The starting point of fine-tuning that uses its encoder."""
        return Start(Arm(self.name, reduction=self.arm), self.seed)


@dataclass(frozen=True)
class Arm:
    """A starting point without its seed, over which scores are pooled: of a run, of given weights, or scratch.

    name: of the run or the weights, or `scratch`; reduction: the reduction arm of a run, empty for the others; backbone: of
    scratch, empty for the others; digest: of scratch whose backbone's options are not the defaults.
    """

    name: str
    reduction: str = ""
    backbone: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        _require_word(self.name, "the name of a starting point")
        if self.is_scratch:
            _require_word(self.backbone, "the backbone of scratch")
            if self.digest and not _DIGEST.fullmatch(self.digest):
                raise StudyError(f"scratch-{self.backbone}: the digest is {self.digest!r}; expected {DIGEST_LENGTH} hex digits.")
            if self.reduction:
                raise StudyError(f"scratch has no reduction arm, got {self.reduction!r}.")
        elif self.backbone or self.digest:
            raise StudyError(f"{self.name!r} has the backbone {self.backbone!r} in its name; only scratch has one there.")
        if self.reduction:
            _require_word(self.reduction, "a reduction arm")

    def __str__(self) -> str:
        return "-".join(word for word in (self.name, self.reduction, self.backbone, self.digest) if word)

    @classmethod
    def parse(cls, text: str) -> Arm:
        """The arm with this text.

        Raises:
            StudyError: the text is not an arm.
        """
        words = text.split("-")
        if all(map(_is_word, words)):
            if words[0] == SCRATCH and (len(words) == 2 or (len(words) == 3 and _DIGEST.fullmatch(words[2]))):
                return cls(SCRATCH, backbone=words[1], digest=words[2] if len(words) == 3 else "")
            if words[0] != SCRATCH and len(words) <= 2:
                return cls(words[0], reduction=words[1] if len(words) == 2 else "")
        raise _not_a_name(text, "an arm", "name-arm of a run, the name of given weights, or scratch-backbone")

    @classmethod
    def of_scratch(
        cls, backbone: str, options: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
    ) -> Arm:
        """Scratch of a backbone; its name does not depend on a task's other starting points.

        options: of the backbone, completed; defaults: the same of the plug-in. If they differ, the name has their digest.
        """
        given = dict(options or {})
        digest = "" if given == dict(defaults or {}) else sha256_text(canonical_json(given))[:DIGEST_LENGTH]
        return cls(SCRATCH, backbone=backbone, digest=digest)

    @property
    def is_scratch(self) -> bool:
        """Whether it starts from random weights."""
        return self.name == SCRATCH

    @property
    def is_run(self) -> bool:
        """Whether it consists of pre-training runs of the study."""
        return bool(self.reduction)

    @property
    def is_given(self) -> bool:
        """Whether it starts from weights that the study file names."""
        return not self.is_run and not self.is_scratch


@dataclass(frozen=True)
class Start:
    """A starting point of fine-tuning: an arm, and the pre-training seed of a run or the draw of a scratch that has several."""

    arm: Arm
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.arm.is_run != (self.seed is not None) and not self.arm.is_scratch:
            kind = "is of a run, and needs its seed" if self.arm.is_run else "is of given weights, which have no seed"
            raise StudyError(f"starting point {str(self.arm)!r} {kind}; got {self.seed!r}.")
        if self.seed is not None:
            _require_number(self.seed, "the seed of a starting point")

    def __str__(self) -> str:
        return str(self.arm) if self.seed is None else f"{self.arm}-seed{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Start:
        """The starting point with this text.

        Raises:
            StudyError: the text is not a starting point.
        """
        arm, seed = arm_and_seed(text)
        if arm.is_run and seed is None:
            raise _not_a_name(text, "a starting point", "a run with its seed: name-arm-seedN")
        return cls(arm, seed)

    @classmethod
    def of_run(cls, run: Run | str) -> Start:
        """The starting point of a pre-training run."""
        return (run if isinstance(run, Run) else Run.parse(run)).start

    @classmethod
    def given(cls, name: str) -> Start:
        """The starting point of weights that the study file names.

        Raises:
            StudyError: the name is reserved.
        """
        _require_free("weights", name)
        return cls(Arm(name))

    @property
    def run(self) -> Run | None:
        """The pre-training run; None for given weights and scratch."""
        return Run(self.arm.name, self.arm.reduction, self.seed) if self.arm.is_run and self.seed is not None else None


@dataclass(frozen=True)
class FitId:
    """One fit of a task: its starting point, its mode of learning, its share of labels (see `share_word`), its seed and fold."""

    start: Start
    mode: str
    share: str
    seed: int
    fold: int | None = None

    def __post_init__(self) -> None:
        _require_word(self.mode, "the mode of a fit")
        share_of(self.share)
        _require_number(self.seed, "the seed of a fit")
        if self.fold is not None:
            _require_number(self.fold, "the fold of a fit")

    def __str__(self) -> str:
        fold = "" if self.fold is None else f"-f{self.fold}"
        return f"{self.start}-{self.mode}-{self.share}-s{self.seed}{fold}"

    @classmethod
    def parse(cls, text: str) -> FitId:
        """The fit with this text.

        Raises:
            StudyError: the text is not a fit.
        """
        words = text.split("-")
        fold = _FOLD.fullmatch(words[-1])
        words = words[:-1] if fold else words
        seed = _FIT_SEED.fullmatch(words[-1]) if words else None
        if seed is None or len(words) < 4 or not _is_word(words[-3]):
            raise _not_a_name(text, "a fit", "start-mode-share-sN, such as simclr-hash-seed0-full-0p05-s2")
        start = Start.parse("-".join(words[:-3]))
        return cls(start, words[-3], words[-2], int(seed[1]), int(fold[1]) if fold else None)


def share_word(amount: float, kind: ShareKind) -> str:
    """A share of the labels as a word: `0p05` for the fraction 0.05, `n8` for eight units, `c8` for eight of each class.

    Raises:
        StudyError: the amount is negative, not finite, or a count that is not whole.
    """
    letter = _LETTERS.get(kind)
    if not 0 <= amount < float("inf") or (letter and amount != int(amount)):
        raise StudyError(f"a share of labels is {amount!r}; expected {'a whole number' if letter else 'a fraction'} from 0 on.")
    if letter:
        return f"{letter}{int(amount)}"
    # never as 1e-05: `-` separates words
    digits = format(Decimal(repr(abs(float(amount)))), "f")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits).replace(".", "p")


def share_of(word: str) -> tuple[float, ShareKind]:
    """The amount of a share's word, and what it is an amount of: the inverse of `share_word`.

    Raises:
        StudyError: the word is not a share.
    """
    if count := _COUNT.fullmatch(word):
        return int(count[2]), next(kind for kind, letter in _LETTERS.items() if letter == count[1])
    fraction = _FRACTION.fullmatch(word)
    if fraction is None or share_word(amount := float(f"{fraction[1]}.{fraction[2] or 0}"), "fraction") != word:
        raise _not_a_name(
            word, "a share of labels", "0p05 for a fraction of 0.05, n8 for eight units, or c8 for eight of each class"
        )
    return amount, "fraction"


def arm_and_seed(text: str) -> tuple[Arm, int | None]:
    """The arm of a starting point, or an arm itself, and the seed if there is one: the content of a column `init`.

    Raises:
        StudyError: the text is neither.
    """
    stem, _, last = text.rpartition("-")
    seed = _SEED.fullmatch(last)
    # in a name of two words the last is an arm or a backbone, whatever its name
    return (Arm.parse(stem), int(seed[1])) if seed is not None and "-" in stem else (Arm.parse(text), None)


def is_scratch(text: str) -> bool:
    """Whether a starting point, an arm or a fit starts from random weights; works on any text, as the first word is reserved."""
    return text.partition("-")[0] == SCRATCH


def asked_pairs(arms: Iterable[str], asked: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs of arms that a study asks for by name: within one reduction, or any if one arm (weights, scratch) has none."""
    named = {arm: Arm.parse(arm) for arm in arms}
    return [
        (a, b)
        for first, second in asked
        for a in named
        for b in named
        if (named[a].name, named[b].name) == (first, second)
        and (named[a].reduction == named[b].reduction or "" in (named[a].reduction, named[b].reduction))
    ]


def in_cohort(folder: str) -> tuple[str, str]:
    """The cohort of a folder below a stage, and the rest: `ct/hash` is (`ct`, `hash`); a single word has no cohort."""
    cohort, _, rest = folder.rpartition("/")
    return cohort, rest


def reduction_of(folder: str) -> str:
    """The folder of the reduction arm of a run's folder: `ct/simclr-hash-seed0` gives `ct/hash`; empty for any other folder."""
    cohort, name = in_cohort(folder)
    try:
        arm = Run.parse(name).arm
    except StudyError:
        return ""
    return f"{cohort}/{arm}" if cohort else arm


def unique(names: Iterable[Run | Arm | Start | FitId]) -> list[str]:
    """The texts of names, which must all differ.

    Raises:
        StudyError: two are equal, so that one thing would take the other's results.
    """
    texts = [str(name) for name in names]
    again = sorted(text for text, count in Counter(texts).items() if count > 1)
    if again:
        raise StudyError(
            f"{len(again)} name(s) stand for more than one thing, the first is {again[0]!r}. Give them different names in the "
            "study file (two scratches: change an option of one backbone)."
        )
    return texts


def why_reserved(kind: str, name: str) -> str | None:
    """Why a study file may not use a name; None if it may. `kind`: a key of `RESERVED`."""
    return RESERVED.get(kind, {}).get(name)


def _require_free(kind: str, name: str) -> None:
    reason = why_reserved(kind, name)
    if reason is not None:
        raise StudyError(f"the name {name!r} is reserved: {reason}. Choose another.")


def _is_word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None


def _require_word(text: str, what: str) -> None:
    if not _is_word(text):
        raise StudyError(f"{what} is {text!r}; expected small letters, digits and _, the first of them no _. Rename it.")


def _require_number(value: int, what: str) -> None:
    if value < 0:
        raise StudyError(f"{what} is {value}; expected a whole number from 0 on.")


def _not_a_name(text: str, what: str, form: str) -> StudyError:
    return StudyError(f"{text!r} is not the name of {what}; expected {form}.")
