"""What label files say (`labels.parquet` of stage ingest), joined to the table of samples."""

from __future__ import annotations

import numpy as np
import pandas as pd

GROUP = "group_"
"""Begins the name of a column whose values make subgroups."""


def with_given_labels(samples: pd.DataFrame, given: pd.DataFrame) -> pd.DataFrame:
    """The table of samples with what label files say: of an image by its index, of a volume for all its slices.

    A label file has the last word over labels that came with the images. Columns `group_<name>` are added.

    Args:
        samples: the table of the prepare stage.
        given: `volume_id`, `index` (missing for a volume), `label`, `group_<name>…`.
    """
    columns = ["label", *group_columns(given)]
    of_image, of_volume = given[given["index"].notna()], given[given["index"].isna()]
    by_image = of_image.set_index(["volume_id", "index"])[columns]
    by_volume = of_volume.set_index("volume_id")[columns]
    places = pd.MultiIndex.from_arrays([samples["volume_id"], samples["index"]])
    found = {}
    for name in columns:
        own = by_image[name].reindex(places).to_numpy(dtype=object)
        whole = samples["volume_id"].map(by_volume[name]).to_numpy(dtype=object)
        value = np.where(pd.notna(own), own, whole)
        if name in samples:
            value = np.where(pd.notna(value), value, samples[name].to_numpy(dtype=object))
        value[pd.isna(value)] = None
        found[name] = value
    return samples.assign(**{name: pd.Series(value, index=samples.index, dtype=object) for name, value in found.items()})


def group_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that make subgroups."""
    return [str(name) for name in table if str(name).startswith(GROUP)]
