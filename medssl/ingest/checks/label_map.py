"""Whether a volume has the values of a mask: refused where its name says so too, else a warning."""

from __future__ import annotations

import numpy as np

from medssl.ingest.check import Finding, Series

APPLIES_TO = None
CODES = ("label_map",)
SENTENCES = {"label_map": "few whole values, as a mask has and no image; name a mask after its image (docs/ingest.md)"}


def label_map(series: Series, *, most: int = 64, coarse: int = 7) -> Finding | None:
    """Two values or a few more, all of them whole, the lowest 0. Images have hundreds: the noise of a scanner alone has dozens.

    `most`: values that the sampled planes of a mask may have; every `coarse`-th voxel of a plane is enough to know an image.
    """
    found: set[float] = set()
    for step in (coarse, 1):
        for plane in series.planes:
            found |= set(np.unique(plane[::step, ::step]).tolist())
            if len(found) > most:
                return None
    values = np.array(sorted(found)) * series.rescales[0][0] + series.rescales[0][1] if series.rescales else np.zeros(0)
    if len(values) < 2 or values[0] != 0 or (values != np.rint(values)).any():
        return None
    return Finding(
        "label_map",
        f"{len(values)} values from {values[0]:g} to {values[-1]:g} in the sampled slices"
        + (", and its name, folder or header says a mask" if series.named_as_mask else ""),
        refuse=series.named_as_mask,
    )
