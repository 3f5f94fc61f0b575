"""The fits of a task: starting points × modes × label subsets × seeds × folds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from medssl.artefacts.names import FitId, Start
from medssl.finetune.subsets import Share


def plan(
    starts: Sequence[Start],
    modes: Sequence[str],
    shares: Sequence[Share],
    seeds: Sequence[int],
    folds: Sequence[int | None] = (None,),
    *,
    pair_seeds: bool = False,
) -> list[FitId]:
    """All fits of a task, grouped by starting point and mode. `pair_seeds`: see `FinetuneOptions`."""
    words = [share.word for share in shares]
    fits = itertools.starmap(FitId, itertools.product(starts, dict.fromkeys(modes), words, dict.fromkeys(seeds), folds))
    return [fit for fit in fits if not (pair_seeds and fit.start.arm.is_run) or fit.seed == fit.start.seed]
