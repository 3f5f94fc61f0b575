"""Reading processes for the ingest tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ingesting import KEY

from medssl.ingest.reading_pool import ReadingPool


@pytest.fixture(scope="session")
def readers() -> Iterator[ReadingPool]:
    """Two reading processes for all tests."""
    with ReadingPool(KEY, 2) as made:
        yield made
