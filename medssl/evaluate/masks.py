"""The masks in a segmentation's predictions, and their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from medssl.core.errors import CorruptArtefactError
from medssl.core.files import inside


def classes_of_masks(predictions: pd.DataFrame, given: Mapping[str, str] | None) -> dict[int, str]:
    """Mask value → class name, without the background: from the study, else from the column `classes` of the table.

    Raises:
        CorruptArtefactError: neither has it.
    """
    named = given or (predictions["classes"].iloc[0] if "classes" in predictions else None)
    if not named:
        raise CorruptArtefactError(
            'predictions.parquet of a segmentation needs a column `classes` such as {"1": "liver"}. Run finetune again.'
        )
    return {int(value): name for value, name in sorted(named.items(), key=lambda item: int(item[0])) if int(value) != 0}


def spacing_of(given: Sequence[float] | None, from_file: tuple[float, ...] | None, num_axes: int) -> tuple[float, ...]:
    """Voxel size in mm: of the mask's own header, else from the column `spacing_mm`, else 1 mm (images)."""
    if from_file is not None:
        return from_file[:num_axes]
    return tuple(float(value) for value in given or [1.0] * num_axes)[:num_axes]


def mask_path(folder: Path, name: str) -> Path:
    """The file of a mask in the folder of a task's masks; `name` is relative to the table, `masks/<file>`.

    Raises:
        CorruptArtefactError, StudyError: the name leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    if len(parts) < 2 or parts[0] != folder.name:
        raise CorruptArtefactError(
            f"predictions.parquet names the mask {name!r}; expected a file below {folder.name}/. Run finetune again."
        )
    inside(folder, *parts[1:])
    return folder.joinpath(*parts[1:])
