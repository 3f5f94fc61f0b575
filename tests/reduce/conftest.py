"""What the tests of reduce share."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_sources import Prepared, smooth_volume, twin_of, write_source


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Two sources: three volumes (one a twin) and one held out; an image set of twelve pictures."""
    first = smooth_volume(1)
    volumes = {"v-aa": first, "v-bb": smooth_volume(2, (40, 36, 20)), "v-cc": twin_of(first), "v-dd": smooth_volume(4)}
    write_source(tmp_path / "2_prepare" / "ct", volumes, kinds={}, splits={"v-dd": "test"})
    images = smooth_volume(9, (28, 28, 12))
    images[:, :, 7] = images[:, :, 3]
    write_source(tmp_path / "2_prepare" / "png", {"v-ee": images}, kinds={"v-ee": "images"}, splits={})
    folders = [str(tmp_path / "2_prepare" / name) for name in ("ct", "png")]
    return Prepared(tmp_path, [f + "/samples.parquet" for f in folders], [f + "/volumes.tsv" for f in folders])
