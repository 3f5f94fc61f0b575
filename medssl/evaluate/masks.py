"""Which masks a segmentation's predictions name, and the classes in them."""

from __future__ import annotations

import json

import pandas as pd

from medssl.core.errors import CorruptArtefactError


def classes_of_masks(predictions: pd.DataFrame, settings: dict[str, str] | None) -> dict[int, str]:
    """Mask value → class name, without the background: as the table's `classes` column (JSON) or the settings say.

    Raises:
        CorruptArtefactError: neither says.
    """
    if settings:
        return {int(value): name for value, name in sorted(settings.items(), key=lambda item: int(item[0])) if int(value) != 0}
    if "classes" in predictions:
        return classes_of_masks(predictions, json.loads(predictions["classes"].iloc[0]))
    raise CorruptArtefactError(
        'predictions.parquet of a segmentation needs a column `classes` such as {"1": "liver"}. Run finetune again.'
    )


def spacing_of(given: object, from_file: tuple[float, ...] | None, num_axes: int) -> tuple[float, ...]:
    """Voxel size in mm: of the mask's own header, else as given (JSON of the column `spacing_mm`), else 1 mm (images)."""
    if from_file is not None:
        return from_file[:num_axes]
    values = json.loads(str(given)) if isinstance(given, str) and given != "n/a" else [1.0] * num_axes
    return tuple(float(value) for value in values)[:num_axes]
