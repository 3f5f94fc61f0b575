"""Stacks whose slices are not evenly spaced: resampled to the truth where that is asked for, and never over a gap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ingesting import ingest
from phantoms import Phantom, covers, datasets, largest_error, random_phantom, save

RESAMPLE = {"uneven": "resample"}


def with_steps(seed: int, steps: list[float], **options: object) -> Phantom:
    """A phantom with these steps between its slices."""
    phantom = random_phantom(seed, slices=len(steps) + 1, **options)
    return replace(phantom, depths=tuple(np.concatenate([[0.0], np.cumsum(steps)])))


@pytest.mark.parametrize("seed", [0, 2])  # the second is oblique
@pytest.mark.parametrize(
    "steps",
    [
        [2.0] * 6 + [3.1] + [2.0] * 6,
        [2.0] * 8 + [2.7] * 7,
        [2.0, 2.2, 1.9, 2.0, 2.5, 2.0, 2.0, 1.3, 2.0, 2.0, 2.0],
    ],
)
def test_uneven_slices_are_resampled_to_the_truth(seed: int, steps: list[float], tmp_path: Path, readers) -> None:
    phantom = with_steps(seed, steps)
    save(datasets(phantom), tmp_path / "s" / "a")
    assert ingest(tmp_path / "s", tmp_path / "refused", readers=readers)["a"].codes == {"uneven"}
    ((values, affine, _),) = ingest(tmp_path / "s", tmp_path / "x", options=RESAMPLE, readers=readers)["a"].volumes
    # the field is linear, so linear interpolation has it everywhere: what is left is rounding, of the slices and of the values
    assert largest_error(values, affine, phantom) <= 1.0
    assert np.linalg.norm(affine[:3, 2]) == pytest.approx(2.0, abs=1e-3)
    # the last even plane before the end may lie up to one step inside
    assert covers(values, affine, phantom, slack_vox=1.0)


@pytest.mark.parametrize("gap", [2, 3])
def test_a_missing_slice_is_never_resampled(gap: int, tmp_path: Path, readers) -> None:
    save(datasets(with_steps(0, [2.0] * 6 + [2.0 * gap] + [2.0] * 6)), tmp_path / "s" / "a")
    for number, options in enumerate(({}, RESAMPLE)):
        found = ingest(tmp_path / "s", tmp_path / str(number), options=options, readers=readers)["a"]
        assert not found.volumes and found.codes == {"missing_slice"}


def test_an_even_stack_is_not_touched_by_the_rule(tmp_path: Path, readers) -> None:
    phantom = random_phantom(1)
    save(datasets(phantom), tmp_path / "s" / "a")
    (plain,), (ruled,) = (
        ingest(tmp_path / "s", tmp_path / str(number), options=options, readers=readers)["a"].volumes
        for number, options in enumerate(({}, RESAMPLE))
    )
    assert np.array_equal(plain[0], ruled[0]) and np.array_equal(plain[1], ruled[1])
    assert largest_error(ruled[0], ruled[1], phantom) <= 0.51
