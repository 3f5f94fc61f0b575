"""Samples on a device give the batches, bit for bit, that a reader gives."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import write_prepared

from medssl.core.errors import StudyError
from medssl.nn import resident as module
from medssl.nn.loading import Batch, Reader, epoch_order, load, read_samples
from medssl.nn.resident import Resident, resident

CPU = torch.device("cpu")


@pytest.fixture
def samples(tmp_path: Path) -> Any:
    inputs = write_prepared(tmp_path, vary=True, windows=2)
    return read_samples(inputs["samples"], inputs["volumes"])


def same(one: Batch, other: Batch) -> None:
    assert set(vars(one)) == set(vars(other))
    for name, value in vars(one).items():
        there = getattr(other, name)
        assert type(value) is type(there), name
        if isinstance(value, torch.Tensor):
            assert value.dtype == there.dtype and torch.equal(value, there), name
        else:
            assert np.array_equal(value, there), name


@pytest.mark.parametrize(("patch", "shrink_to"), [(None, None), (None, 7), ((8, 30, 4), None)])
def test_batches_are_those_of_the_reader(samples: Any, patch: Any, shrink_to: int | None) -> None:
    volumes = tuple(replace(v, slope=0.5 + n, intercept=-24.0) for n, v in enumerate(samples.volumes))
    reader = Reader(replace(samples, volumes=volumes), seed=1, patch=patch, shrink_to=shrink_to)
    requests = [(epoch, epoch_order(1, epoch, len(samples))[:size]) for epoch, size in enumerate((6, 1, len(samples)))]
    for one, other in zip(load(reader, requests), load(Resident(reader, CPU), requests, workers=3), strict=True):
        same(one, other)


def test_nothing_is_read_while_a_run_trains(samples: Any) -> None:
    held = resident(Reader(samples), CPU, "device")
    shutil.rmtree(samples.volumes[0].array.parent)
    assert len(held[(0, np.arange(4))]) == 4


def test_a_processor_reads_unless_it_is_asked_not_to(samples: Any) -> None:
    reader = Reader(samples)
    assert resident(reader, CPU, "auto") is reader and resident(reader, CPU, "loader") is reader


def test_samples_that_do_not_fit_are_refused_with_both_sizes(samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_free_bytes", lambda device: 100)
    with pytest.raises(StudyError, match=r"need 0\.0 GiB of 0\.0 GiB.*auto or loader"):
        resident(Reader(samples), CPU, "device")


def test_planes_of_two_types_are_left_to_the_loader(samples: Any) -> None:
    name = samples.volumes[1].array
    np.save(name, np.load(name).astype(np.float32))
    with pytest.raises(StudyError, match="float32 and int16"):
        resident(Reader(samples), CPU, "device")
