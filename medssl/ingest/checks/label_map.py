"""Whether a volume has the values of a mask: refused if its name agrees, otherwise a warning."""

from __future__ import annotations

from medssl.ingest.check import Finding, Series
from medssl.ingest.mask_values import mask_values

APPLIES_TO = None
CODES = ("label_map",)
SENTENCES = {
    "label_map": "few whole values, as a mask has and no image; name a mask after its image (docs/explanation/ingest.md)"
}


def label_map(series: Series, *, most: int = 64, coarse: int = 7) -> Finding | None:
    """Two values or a few more, all whole numbers, the lowest 0; only 0 if the name marks a mask.

    `most`: values that the sampled planes of a mask may have; every `coarse`-th voxel of a plane is enough to recognise an image.
    """
    if not series.rescales:
        return None
    slope, intercept = series.rescales[0]
    found = mask_values(
        series.planes, slope=slope, intercept=intercept, named_as_mask=series.named_as_mask, most=most, coarse=coarse
    )
    if found is None:
        return None
    return Finding(
        "label_map",
        f"{found} in the sampled slices" + (", and its name, folder or header says a mask" if series.named_as_mask else ""),
        refuse=series.named_as_mask,
    )
