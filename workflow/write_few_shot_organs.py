"""Write two small image sets for the study `few_shot` into `data/organamnist/`, which is not committed.

Both have the same 100 training images of each organ and 1,000 validation images. `few_shot.npz` has 4,000 test images in which
organs are as frequent as in the official test part. In `few_shot_shifted.npz` the organs exchange their shares: the rarest one is
as frequent as the most frequent one was, and so on by rank. All images are drawn from the official part of their name, so no
pre-training on the official training part has seen a test image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.core.files import writing
from medssl.core.rng import rng

FOLDER = Path(__file__).resolve().parent.parent / "data" / "organamnist"
TRAIN_PER_CLASS, NUM_VAL, NUM_TEST = 100, 1000, 4000


def main() -> None:
    """Command line."""
    if not (FOLDER / "organamnist.npz").is_file():
        raise SystemExit("data/organamnist/organamnist.npz is not there: run `make organamnist` first.")
    with np.load(FOLDER / "organamnist.npz", allow_pickle=False) as given:
        for name, arrays in written(dict(given)).items():
            target = FOLDER / name
            counts = np.bincount(arrays["test_labels"][:, 0]).tolist()
            if not target.is_file() or not _are_equal(target, arrays):
                with writing(target) as temporary, open(temporary, "wb") as file:
                    np.savez(file, **arrays)
            print(f"{target.relative_to(FOLDER.parent.parent)}: test images of each class {counts}")


def written(given: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of both sets, by file name."""
    counts = {part: np.bincount(given[f"{part}_labels"][:, 0]) for part in ("val", "test")}
    wanted = {"train": np.full(len(counts["test"]), TRAIN_PER_CLASS), "val": _of_sum(counts["val"], NUM_VAL)}
    own = _of_sum(counts["test"], NUM_TEST)
    sets = {"few_shot.npz": own, "few_shot_shifted.npz": exchanged(own)}
    return {name: _drawn(given, wanted | {"test": test}) for name, test in sets.items()}


def exchanged(counts: np.ndarray) -> np.ndarray:
    """The same counts, the largest where the smallest was, and so on by rank."""
    order = np.argsort(counts, kind="stable")
    found = np.empty_like(counts)
    found[order] = counts[order[::-1]]
    return found


def _of_sum(counts: np.ndarray, total: int) -> np.ndarray:
    """Counts in the same proportions with another sum, by largest remainder."""
    exact = counts * total / counts.sum()
    whole = np.floor(exact).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return whole


def _drawn(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """So many images of each class of each part, in the order of the set."""
    arrays = {}
    for part, counts in wanted.items():
        labels = given[f"{part}_labels"][:, 0]
        drawn = [rng(0, "few_shot", part, k).permutation(np.flatnonzero(labels == k))[:n] for k, n in enumerate(counts)]
        chosen = np.sort(np.concatenate(drawn))
        arrays |= {f"{part}_{what}": given[f"{part}_{what}"][chosen] for what in ("images", "labels")}
    return arrays


def _are_equal(target: Path, arrays: dict[str, np.ndarray]) -> bool:
    with np.load(target, allow_pickle=False) as there:
        return set(there.files) == set(arrays) and all(np.array_equal(there[name], array) for name, array in arrays.items())


if __name__ == "__main__":
    main()
