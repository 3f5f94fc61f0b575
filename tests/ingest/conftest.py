"""Reading processes for the ingest tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ingesting import KEY

from medssl.ingest.readers import Readers


@pytest.fixture(scope="session")
def readers() -> Iterator[Readers]:
    """Two reading processes for all tests."""
    with Readers(KEY, 2) as made:
        yield made
