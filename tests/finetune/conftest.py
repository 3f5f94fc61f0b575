"""A prepared source, an encoder and a finetune job, small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finetuning import finetune, finetune_spec, write_encoder, write_image_source


@pytest.fixture
def image_source(tmp_path: Path) -> Path:
    """A prepared image set of three classes: 60 train, 30 val, 45 test images without patients."""
    return write_image_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 60, "val": 30, "test": 45})


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A pre-trained (here: random, seed 7) narrow ResNet-18 with its contract, as the run simclr-hash-seed0."""
    return write_encoder(tmp_path / "study" / "4_pretrain" / "ct" / "simclr-hash-seed0")


@pytest.fixture(name="finetune")
def _finetune() -> Any:
    return finetune


@pytest.fixture(name="spec_of")
def _spec_of() -> Any:
    return finetune_spec


@pytest.fixture
def write_source() -> Any:
    return write_image_source


@pytest.fixture(name="write_encoder")
def _write_encoder() -> Any:
    return write_encoder
