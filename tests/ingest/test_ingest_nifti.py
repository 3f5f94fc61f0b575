"""A NIfTI file lies where its header says, in the unit of its header."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import nifti_image
from ingesting import ingest
from phantoms import largest_error, random_phantom


@pytest.mark.parametrize(
    ("unit", "mm", "spacing", "step"),
    [("mm", 1.0, (0.8, 0.7), 0.9), ("micron", 0.001, (0.8, 0.7), 0.9), ("meter", 1000.0, (1.2, 1.5), 2.5)],
)
def test_the_unit_of_a_nifti_is_that_of_its_header(
    unit: str, mm: float, spacing: tuple[float, float], step: float, tmp_path: Path, readers
) -> None:
    phantom = random_phantom(2, spacing=spacing, step=step)
    image = nifti_image(phantom)
    affine = np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ image.affine
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    image.header.set_xyzt_units(unit)
    (tmp_path / "s" / "a").mkdir(parents=True)
    nibabel.save(image, tmp_path / "s" / "a" / "sub-1_ct.nii.gz")
    ((values, found, _),) = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["a"].volumes
    assert largest_error(values, found, phantom) <= 0.51
