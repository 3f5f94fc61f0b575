"""The warning that a source holds several modalities."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medssl.artefacts.volumes import Volume


def mixture(source: str, volumes: Sequence[Volume], samples: pd.DataFrame) -> list[str]:
    """A sentence with the counts of each modality if there are several; otherwise empty.

    `samples`: a row per slice or image, with `volume_id`.
    """
    modality = {volume.volume_id: volume.modality for volume in volumes}
    slices = samples["volume_id"].map(modality).value_counts()
    if len(slices) < 2:
        return []
    found = ", ".join(
        f"{name} {int(slices[name])} of {len(samples)} slices or images ({sum(one == name for one in modality.values())} volumes)"
        for name in sorted(slices.index)
    )
    return [
        f"It holds {len(slices)} modalities, which are used together for training: {found}. To keep one of them, set "
        f"sources.{source}.ingest.modality."
    ]
