"""Every fault class of masks at several seeds: the mask is right, or refused with a code; its image is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import DICOM_MASK_FAULTS, NIFTI_MASK_FAULTS
from faults_masks import MaskExpected
from ingesting import ingest


@pytest.mark.parametrize("name", [*DICOM_MASK_FAULTS, *NIFTI_MASK_FAULTS])
def test_a_mask_is_right_or_refused(name: str, tmp_path: Path, count: int, readers) -> None:
    fault = (DICOM_MASK_FAULTS | NIFTI_MASK_FAULTS)[name]
    expected = {str(seed): fault(tmp_path / "source" / str(seed), 1009 * seed) for seed in range(count)}
    found = ingest(tmp_path / "source", tmp_path / "scratch", readers=readers)
    for seed, truth in expected.items():
        assert isinstance(truth, MaskExpected)
        assert len(found[seed].volumes) == 1, found[seed].rejected
        outcome = truth.judge_masks(found[seed])
        assert outcome in truth.mask_outcomes, (seed, found[seed].rejected)
