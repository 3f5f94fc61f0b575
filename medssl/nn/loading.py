"""Planes and patches from the array cache as batches of true values: same order for any number of workers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int, Int64, Shaped, UInt64
from torch import Tensor

from medssl.artefacts.keep import KEEP
from medssl.artefacts.samples import SAMPLES
from medssl.artefacts.volumes import Volume, read_volumes
from medssl.core import signals
from medssl.core.errors import CorruptArtefactError, MedsslError, StudyError
from medssl.core.rng import ids_to_keys, key, rng, uniforms
from medssl.nn.records import Record
from medssl.volume.cache import Array, open_array, read_patch, read_plane
from medssl.volume.intensity import values_of, windowed

START_METHODS = {"cpu": "fork", "cuda": "forkserver"}
"""How workers are started: a process that uses a GPU must not be forked."""
OPEN_ARRAYS = 512
"""How many memory maps one reader keeps open."""


@dataclass(frozen=True)
class Samples:
    """Slices or images to load; row `r` is the global sample number that memory banks and labels use."""

    ids: tuple[str, ...]
    volumes: tuple[Volume, ...]
    volume: Int64[np.ndarray, "n"]
    """Indices into `volumes`."""
    axis: Int64[np.ndarray, "n"]
    index: Int64[np.ndarray, "n"]
    position_mm: Float32[np.ndarray, "n"]
    label: tuple[str | None, ...]
    keys: UInt64[np.ndarray, "n"]
    """Keys of random draws."""
    records: Mapping[str, Record] = field(default_factory=dict)
    """The columns of records that an objective reads, by name."""
    subject: tuple[str | None, ...] = ()
    """The patient of each sample; empty: that of its volume."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_channels(self) -> int:
        """One channel per window."""
        return self.volumes[0].num_channels

    @property
    def _subjects(self) -> tuple[str | None, ...]:
        return self.subject or tuple(self.volumes[number].subject_id for number in self.volume)

    @property
    def num_subjects(self) -> int:
        """How many patients are known."""
        return len(set(filter(None, self._subjects)))

    @property
    def patient(self) -> Int64[np.ndarray, "n"]:
        """The number of each sample's patient, from 0; where it is unknown, a volume or an image counts as one."""
        names = [
            subject or (self.ids[row] if volume.kind == "images" else volume.volume_id)
            for row, (subject, volume) in enumerate(zip(self._subjects, (self.volumes[n] for n in self.volume), strict=True))
        ]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def rows(self, chosen: Int[np.ndarray, "m"]) -> Samples:
        """The samples of the given rows, in that order."""
        return replace(
            self,
            ids=tuple(self.ids[r] for r in chosen),
            volume=self.volume[chosen],
            axis=self.axis[chosen],
            index=self.index[chosen],
            position_mm=self.position_mm[chosen],
            label=tuple(self.label[r] for r in chosen),
            keys=self.keys[chosen],
            records={name: record.rows(chosen) for name, record in self.records.items()},
            subject=tuple(self.subject[r] for r in chosen) if self.subject else (),
        )


class Batch:
    """A batch on one device: `stored` `(n, 1, *canvas)` holds each plane in its corner, `extent` `(n, d)` its size."""

    def __init__(self, **fields: Any) -> None:
        self.stored: Shaped[Tensor, "n 1 *canvas"] = fields["stored"]
        self.extent: Int64[Tensor, "n d"] = fields["extent"]
        self.slope: Float[Tensor, "n"] = fields["slope"]
        self.intercept: Float[Tensor, "n"] = fields["intercept"]
        self.low: Float[Tensor, "n c"] = fields["low"]
        self.high: Float[Tensor, "n c"] = fields["high"]
        self.rows: Int64[Tensor, "n"] = fields["rows"]
        self.volume: Int64[Tensor, "n"] = fields["volume"]
        self.axis: Int64[np.ndarray, "n"] = fields["axis"]
        self.keys: UInt64[np.ndarray, "n"] = fields["keys"]
        self.epoch: int = fields["epoch"]
        self.mask: Shaped[Tensor, "n 1 *canvas"] | None = fields.get("mask")
        """The class of each voxel, if known."""
        self.whole: UInt64[np.ndarray, "all"] | None = fields.get("whole")
        """The keys of the batch over all ranks and parts, if the objective asks for them."""

    @property
    def values(self) -> Float[Tensor, "n 1 *canvas"]:
        """True values (HU for CT), float32 `(n, 1, *canvas)`; beyond a plane's extent the low end of its first window."""
        shape = (-1, *[1] * (self.stored.ndim - 1))
        return values_of(self.stored.float(), self.slope.view(shape), self.intercept.view(shape))

    @property
    def seen(self) -> Float[Tensor, "n c *canvas"]:
        """The network's input, `(n, c, *canvas)` in [0, 1]: the values through each window."""
        shape = (*self.low.shape, *[1] * (self.stored.ndim - 2))
        return windowed(self.values, self.low.view(shape), self.high.view(shape))

    @property
    def classes(self) -> Int64[Tensor, "n *canvas"]:
        """The class of each voxel."""
        if self.mask is None:
            raise ValueError("a batch without masks")
        return self.mask[:, 0].long()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def part(self, start: int, stop: int) -> Batch:
        """The samples from `start` to `stop`."""
        made = self._each(lambda field: field[start:stop], arrays=True)
        made.whole = self.whole
        return made

    def at(self, numbers: Int[np.ndarray, "m"], epoch: int) -> Batch:
        """Some of its samples, as the batch of an epoch; a gather on its device."""
        numbers = np.asarray(numbers, dtype=np.int64)
        here = torch.from_numpy(numbers).to(self.stored.device, non_blocking=True)
        tensors = {name: value.index_select(0, here) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**tensors, axis=self.axis[numbers], keys=self.keys[numbers], epoch=epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def _each(self, change: Any, *, arrays: bool = False) -> Batch:
        kinds = (Tensor, np.ndarray) if arrays else (Tensor,)
        return Batch(**{name: change(value) if isinstance(value, kinds) else value for name, value in self.__dict__.items()})


def read_samples(
    samples: Iterable[Path | str],
    volumes: Iterable[Path | str],
    *,
    keep: Path | str | None = None,
    split: str | None = "train",
) -> Samples:
    """Join the tables of stage prepare (one pair per source), restricted to a split and to the slices that a reduction kept.

    Raises:
        StudyError: nothing is left, or the sources differ in their number of windows.
        CorruptArtefactError: a file is not such a table.
    """
    known = [volume for path in volumes for volume in read_volumes(path)]
    table = pd.concat([SAMPLES.read(path) for path in samples], ignore_index=True)
    if split is not None:
        table = table[table["split"] == split]
    if keep is not None:
        kept = KEEP.read(keep, ["sample_id", "keep"])
        table = table[table["sample_id"].isin(set(kept["sample_id"][kept["keep"]]))]
    table = table.sort_values("sample_id", kind="stable").drop_duplicates("sample_id")
    if not len(table):
        raise StudyError(
            f"no samples are left in split {split!r}: nothing can be trained on. Look at rejected.tsv of the sources, "
            "at prepare.split, what the firewall kept out (leakage.json) and the reduction arm's summary.json."
        )
    if len({volume.num_channels for volume in known}) != 1:
        raise StudyError("the sources of this cohort have different numbers of windows (channels); give all the same number.")
    number = {volume.volume_id: i for i, volume in enumerate(known)}
    ids = table["sample_id"].tolist()
    return Samples(
        ids=tuple(ids),
        volumes=tuple(known),
        volume=np.array([number[v] for v in table["volume_id"]], dtype=np.int64),
        axis=table["axis"].to_numpy(np.int64),
        index=table["index"].to_numpy(np.int64),
        position_mm=table["position_mm"].to_numpy(np.float32),
        label=tuple(None if pd.isna(v) else str(v) for v in table["label"]),
        keys=ids_to_keys(ids),
        subject=tuple(None if pd.isna(v) else str(v) for v in table["subject_id"]),
    )


def epoch_order(seed: int, epoch: int, count: int) -> Int64[np.ndarray, "{count}"]:
    """The order of an epoch: a permutation of `count` rows that depends on seed and epoch alone."""
    return rng(seed, "order", epoch).permutation(count)


class Reader:
    """Reads samples as batches. Each worker process holds its own copy with its own open arrays.

    `patch`: size in voxels of 3-D patches, one around each sample's slice; None reads planes. `centred`: patches lie in the
    middle of the other axes, not at random. `in_mm`: patches have the proportions of `patch` in mm, see `patch_in_mm`.
    `shrink_to`: planes whose shorter side is at least twice this many pixels are averaged over whole blocks while reading.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        seed: int = 0,
        patch: tuple[int, int, int] | None = None,
        centred: bool = False,
        in_mm: bool = False,
        shrink_to: int | None = None,
    ) -> None:
        self.samples, self.seed, self.patch, self.centred, self.shrink_to = samples, seed, patch, centred, shrink_to
        self.in_mm = in_mm
        self._open: OrderedDict[Path, Array] = OrderedDict()

    def __getitem__(self, request: tuple[int, Int[np.ndarray, "n"]]) -> Batch:
        epoch, rows = request
        rows = np.asarray(rows, dtype=np.int64)
        pieces = [self.piece(epoch, int(row)) for row in rows]
        stored = self.stacked(pieces, rows, tuple(np.max([piece.shape for piece in pieces], axis=0)))
        return self.batch(torch.from_numpy(stored), [piece.shape for piece in pieces], rows, epoch)

    def piece(self, epoch: int, row: int) -> Shaped[np.ndarray, "..."]:
        """The stored numbers of a sample: its plane, or in 3-D its patch in this epoch."""
        samples = self.samples
        volume = samples.volumes[samples.volume[row]]
        array = self.array(volume)
        axis, index = int(samples.axis[row]), int(samples.index[row])
        if self.patch is not None:
            return read_patch(array, *self.patch_place(epoch, row))
        plane = read_plane(array, axis, index)
        factor = self._shrunk_by(plane.shape)
        return _block_mean(plane, factor) if factor > 1 else plane

    def piece_shape(self, row: int) -> tuple[int, ...]:
        """The shape of a sample's piece, without reading it."""
        volume = self.samples.volumes[self.samples.volume[row]]
        if self.patch is not None:
            wanted = patch_in_mm(self.patch, volume.spacing_mm) if self.in_mm else self.patch
            return tuple(min(have, want) for have, want in zip(volume.shape, wanted, strict=True))
        plane = self._plane_shape(row)
        return tuple(side // self._shrunk_by(plane) for side in plane)

    def patch_place(self, epoch: int, row: int) -> tuple[list[int], list[int]]:
        """(first voxel, size) of the patch of a sample, at most `patch`: centred on its slice, along the other axes at random."""
        axis, have = int(self.samples.axis[row]), self.samples.volumes[self.samples.volume[row]].shape
        shape = list(self.piece_shape(row))
        room = [whole - part for whole, part in zip(have, shape, strict=True)]
        if self.centred:
            start = [r // 2 for r in room]
        else:
            draws = uniforms(key(self.seed, "patch", epoch), self.samples.keys[row : row + 1], 3)[0]
            start = [int(draw * (r + 1)) for draw, r in zip(draws, room, strict=True)]
        start[axis] = min(max(int(self.samples.index[row]) - shape[axis] // 2, 0), room[axis])
        return start, shape

    def stacked(
        self, pieces: list[Shaped[np.ndarray, "..."]], rows: Int64[np.ndarray, "n"], canvas: tuple[int, ...]
    ) -> Shaped[np.ndarray, "n 1 *canvas"]:
        """Pieces in the corners of one canvas each; the rest of it is the low end of the sample's first window."""
        dtype = np.int16 if all(piece.dtype == np.int16 for piece in pieces) else np.float32
        stored = np.empty((len(rows), 1, *canvas), dtype=dtype)
        for place, piece, row in zip(stored[:, 0], pieces, rows, strict=True):
            if piece.shape != tuple(canvas):
                place[...] = self.empty(self.samples.volume[row], integers=dtype == np.int16)
            place[tuple(slice(0, s) for s in piece.shape)] = piece
        return stored

    def empty(self, volume: int, *, integers: bool) -> float:
        """The stored number for places beyond a piece, by the volume's place in the table."""
        of = self.samples.volumes[volume]
        number = (of.low[0] - of.intercept) / of.slope
        return float(np.clip(np.round(number), -32768, 32767)) if integers else number

    def shrinks(self, row: int) -> bool:
        """Whether the plane of a sample is averaged over blocks while it is read."""
        return self.patch is None and self._shrunk_by(self._plane_shape(row)) > 1

    def batch(
        self,
        stored: Shaped[Tensor, "n 1 *canvas"],
        shapes: list[tuple[int, ...]],
        rows: Int64[np.ndarray, "n"],
        epoch: int,
    ) -> Batch:
        """A batch on the processor, from stored numbers and the tables of samples and volumes."""
        samples = self.samples
        volumes = [samples.volumes[samples.volume[row]] for row in rows]
        return Batch(
            stored=stored,
            extent=torch.tensor(shapes),
            slope=torch.tensor([v.slope for v in volumes], dtype=torch.float32),
            intercept=torch.tensor([v.intercept for v in volumes], dtype=torch.float32),
            low=torch.tensor([v.low for v in volumes], dtype=torch.float32),
            high=torch.tensor([v.high for v in volumes], dtype=torch.float32),
            rows=torch.from_numpy(rows),
            volume=torch.from_numpy(samples.volume[rows]),
            axis=samples.axis[rows],
            keys=samples.keys[rows],
            epoch=epoch,
        )

    def _plane_shape(self, row: int) -> tuple[int, ...]:
        shape = self.samples.volumes[self.samples.volume[row]].shape
        return tuple(n for axis, n in enumerate(shape) if axis != self.samples.axis[row])

    def _shrunk_by(self, plane: tuple[int, ...]) -> int:
        return 1 if self.shrink_to is None else max(1, min(plane) // self.shrink_to)

    def array(self, volume: Volume) -> Array:
        """The array of a volume, opened once.

        Raises:
            CorruptArtefactError: its shape differs from its table.
        """
        array = self._open.pop(volume.array, None)
        if array is None:
            array = open_array(volume.array)
            if tuple(array.shape) != volume.shape:
                raise CorruptArtefactError(
                    f"{volume.array} has shape {array.shape}, its table says {volume.shape}. "
                    "Delete the receipt of its prepare folder and run the same command again."
                )
        self._open[volume.array] = array
        while len(self._open) > OPEN_ARRAYS:
            self._open.popitem(last=False)
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def patch_in_mm(patch: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None) -> tuple[int, ...]:
    """The voxels of a patch that has these proportions in the body; along the axes with the finest spacing they are as given."""
    if spacing_mm is None:
        return patch
    return tuple(math.ceil(side * min(spacing_mm) / spacing - 1e-6) for side, spacing in zip(patch, spacing_mm, strict=True))


@runtime_checkable
class Batches(Protocol):
    """Yields the batch of an epoch and rows: a reader, or samples that lie on a device (`nn/resident.py`)."""

    def __getitem__(self, request: tuple[int, Int[np.ndarray, "n"]]) -> Batch: ...


def load(
    reader: Batches,
    requests: Iterable[tuple[int, Int[np.ndarray, "_"]]],
    *,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The batches of `requests` (epoch, rows), in order, on `device`. Workers read ahead, but never change order or content.

    Raises:
        MedsslError: an error of a reader, whether in a worker or in this process.
    """
    device = torch.device(device)
    if workers == 0:
        yield from (reader[request].to(device) for request in requests)
        return
    from torch.utils.data import DataLoader

    loader: Iterable[Batch | MedsslError] = DataLoader(
        _Answers(reader),  # type: ignore[arg-type]
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4,
        multiprocessing_context=START_METHODS[device.type],
    )
    with signals.held_back():
        answers: Any = iter(loader)
    try:
        for answer in answers:
            if isinstance(answer, MedsslError):
                raise answer
            yield answer.to(device)
    finally:
        # Not on release of the last reference, which an error's traceback may hold to the end: workers then ignore SIGTERM.
        answers._shutdown_workers()


class _Answers:
    """A reader in a worker: a foreseen failure is returned as an answer, as torch would turn it into a traceback in text."""

    def __init__(self, reader: Batches) -> None:
        self.reader = reader

    def __getitem__(self, request: tuple[int, np.ndarray]) -> Batch | MedsslError:
        try:
            return self.reader[request]
        except MedsslError as error:
            return error


def _block_mean(plane: np.ndarray, factor: int) -> np.ndarray:
    """Mean over `factor` × `factor` blocks, float32; a remainder smaller than a block is dropped."""
    h, w = (side // factor for side in plane.shape)
    whole = plane[: h * factor, : w * factor].astype(np.float32)
    return np.asarray(whole.reshape(h, factor, w, factor).mean(axis=(1, 3)))
