"""`medssl.load`: a pre-trained encoder as a torch module, with the transform that its images need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from nibabel.filebasedimages import FileBasedImage
from nibabel.nifti1 import Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image, Nifti2Pair
from torch import Tensor, nn

from medssl.api.new_images import new_images
from medssl.artefacts.encoder import Contract
from medssl.core.errors import StudyError, TooManyRefusalsError
from medssl.core.listing import spelled
from medssl.ingest.items import Origin
from medssl.nn import transfer
from medssl.nn.backbone import Backbone, pooled
from medssl.study.one_source import EACH_FILE

Images: TypeAlias = (
    str | PathLike[str] | FileBasedImage | np.ndarray | Tensor | Sequence[str | PathLike[str]] | Sequence[FileBasedImage]
)
"""What `Transform` and `Encoder.embed` take; see there."""


def load(run: str | PathLike[str], *, device: str | torch.device | None = None) -> Encoder:
    """A pre-trained encoder, ready for use.

    Args:
        run: folder of a pre-training run, `results/<study>/4_pretrain/<cohort>/<run>`, or a folder that `medssl export` wrote.
        device: where it runs; the first GPU, else the processor, where None.

    Raises:
        StudyError: it is not such a folder, not all weights found their place, or the device cannot be used.
        CorruptArtefactError: a file is damaged.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise StudyError(f"device {str(place)!r} cannot be used here ({str(error).splitlines()[0]}). Try cpu.") from None
    contract, backbone = transfer.open_encoder(Path(run))
    return Encoder(backbone, contract).to(place).eval()


class Encoder(nn.Module):
    """A pre-trained network: images to features.

    backbone: the network itself; called with images it gives its maps `(n, channels, *size)` from shallow to deep.
    contract: what its `contract.json` says. transform: how images become its input. num_features: columns of its output.
    """

    def __init__(self, backbone: Backbone, contract: Contract) -> None:
        super().__init__()
        self.backbone, self.contract = backbone, contract
        self.transform = Transform(contract)
        self.num_features = backbone.channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Features `(n, num_features)` of images `(n, c, *size)` that `transform` gives: the mean of the deepest map."""
        return pooled(self.backbone(images))

    def embed(self, images: Images, *, force: bool = False, batch_size: int = 64) -> pd.DataFrame:
        """Features of images as a table, equal to those of `medssl embed`.

        Args:
            images: a file, a folder, or a list of them (DICOM, NIfTI, NRRD, MetaImage, PNG, JPEG, NPZ); a prepared source,
                `2_prepare/<source>`; a NIfTI image of nibabel or a list of them; or an array or tensor `(n, c, *size)` that
                `transform` gave.
            force: take images unlike those it was trained on, with a warning.
            batch_size: images at a time.

        Returns:
            a row for each slice or picture, a column for each feature. The index has `image`, the file (of a DICOM series the
            first one), volume id or place in the list, and `slice`, its place in that.

        Raises:
            StudyError: the images cannot be used; it says why.
        """
        if batch_size < 1:
            raise StudyError(f"batch_size is {batch_size}; expected at least 1.")
        place = next(self.parameters()).device
        features: list[np.ndarray] = []
        was = self.training
        self.eval()
        try:
            with self.transform.batches(images, place, force=force, batch_size=batch_size) as (names, batches), torch.no_grad():
                for batch in batches:
                    features.append(self(batch).cpu().numpy())
        finally:
            self.train(was)
        table = transfer.feature_table(np.concatenate(features))
        table.index = pd.MultiIndex.from_tuples(names, names=["image", "slice"])
        return table.sort_index()


@dataclass(frozen=True, repr=False)
class Transform:
    """How images become what an encoder sees: orientation, slices, window and size, as its contract says.

    Spacing is not changed: volumes with a spacing unlike the training images are refused.
    """

    contract: Contract

    def __call__(self, images: Images, *, force: bool = False) -> Tensor:
        """Images as an encoder takes them: `(n, c, *size)` in [0, 1], a slice or picture each, in the order of `Encoder.embed`.

        Args:
            images: as for `Encoder.embed`.
            force: take images unlike those it was trained on, with a warning.

        Raises:
            StudyError: the images cannot be used; it says why.
        """
        with self.batches(images, torch.device("cpu"), force=force) as (names, batches):
            seen = torch.cat(list(batches))
        return seen[sorted(range(len(names)), key=names.__getitem__)]

    @contextmanager
    def batches(
        self, images: Images, place: torch.device, *, force: bool = False, batch_size: int = 64
    ) -> Iterator[tuple[list[tuple[str, int]], Iterator[Tensor]]]:
        """(image, slice) of each row, and the rows in batches on a device; as `__call__` for what does not fit in memory."""
        if isinstance(images, (np.ndarray, Tensor)):
            ready = self._ready(images).to(place)
            yield [(f"{n:06d}", 0) for n in range(len(ready))], iter(ready.split(batch_size))
            return
        with tempfile.TemporaryDirectory(prefix="medssl-") as folder:
            paths, named = self._as_files(images, Path(folder))
            if len(paths) == 1 and (paths[0] / "samples.parquet").is_file():
                samples = transfer.prepared_samples(paths[0])
                names = [(samples.volumes[v].volume_id, int(i)) for v, i in zip(samples.volume, samples.index, strict=True)]
                yield names, transfer.whole_images(self.contract, samples, place, batch_size=batch_size, force=force)
                return
            source: Any = paths[0] if len(paths) == 1 else paths
            called: dict[str, str] = {folder: "the given images", EACH_FILE: ""} if named else {}
            with (
                in_own_names(called),
                new_images(source, *transfer.sections_of(self.contract), force=force, own_ids=True) as new,
            ):
                samples = transfer.prepared_samples(new.prepared)
                names = names_of(samples.ids, new.origins, named)
                called |= {sample.rpartition("-")[0]: name for sample, (name, _) in zip(samples.ids, names, strict=True)}
                yield names, transfer.whole_images(self.contract, samples, place, batch_size=batch_size, force=force)

    def __repr__(self) -> str:
        contract = self.contract
        size = " × ".join(map(str, contract.input_size))
        spacing = "unknown" if contract.spacing_mm is None else f"{' × '.join(f'{s:.3g}' for s in contract.spacing_mm)} mm"
        axes = ", ".join("ijk"[axis] for axis in contract.slice_axes)
        return (
            f"Transform({contract.orientation}, slices across {axes or 'none'}, size {size}, channels {contract.in_channels}, "
            f"window {contract.window.in_words}, spacing {spacing}, modality {' or '.join(contract.modalities) or 'any'})"
        )

    def _ready(self, images: np.ndarray | Tensor) -> Tensor:
        """An array or tensor that `transform` gave, float32.

        Raises:
            StudyError: its shape or its values are not those of prepared images.
        """
        found = torch.as_tensor(images)
        wanted = (self.contract.in_channels, *self.contract.input_size)
        problem = ""
        if found.ndim != len(wanted) + 1 or tuple(found.shape[1:]) != wanted:
            problem = f"shape {tuple(found.shape)}"
        elif not len(found):
            problem = "no image"
        elif not found.is_floating_point():
            problem = f"values of type {found.dtype}"
        elif not bool(torch.isfinite(found).all()) or found.min() < 0 or found.max() > 1:
            problem = f"values from {float(found.min()):.4g} to {float(found.max()):.4g}"
        if problem:
            raise StudyError(
                f"an array has {problem}; expected prepared images (n, {', '.join(map(str, wanted))}), floating point, in "
                "[0, 1]. An array has no spacing and no orientation: give a file, a folder or a NIfTI image of nibabel, which "
                "the encoder's transform prepares."
            )
        return found.float()

    def _as_files(self, images: Any, folder: Path) -> tuple[list[Path], dict[str, str]]:
        """The files that images are, or are written to `folder` as; what each written one is called in the index.

        Raises:
            StudyError: they are something else.
        """
        given = list(images) if isinstance(images, (list, tuple)) else [images]
        if given and all(isinstance(one, (str, PathLike)) for one in given):
            return [Path(one) for one in given], {}
        if given and all(isinstance(one, Nifti1Pair) for one in given):
            for number, image in enumerate(given):
                write_exactly(image, folder / f"{number:06d}.nii")
            return [folder], {f"{number:06d}.nii": f"{number:06d}" for number in range(len(given))}
        kinds = ", ".join(sorted({type(one).__name__ for one in given})) or "an empty list"
        raise StudyError(
            f"images are {kinds}; expected a file, a folder or a list of them, a NIfTI image of nibabel or a list of them, or "
            "one array or tensor of prepared images. Turn other images of nibabel into NIfTI: "
            "nibabel.Nifti1Image.from_image(image)."
        )


@contextmanager
def in_own_names(called: Mapping[str, str]) -> Iterator[None]:
    """Errors speak of what the caller gave: ids and folders of this call alone mean nothing to a reader."""
    try:
        yield
    except (StudyError, TooManyRefusalsError) as error:
        text = str(error)
        for own, name in called.items():
            text = text.replace(own, name)
        raise type(error)(text) from None


def write_exactly(image: Nifti1Pair, path: Path) -> None:
    """Write an image with the values that it has: scaled ones as float, so that they are not rounded again.

    Raises:
        StudyError: it cannot be written as NIfTI.
    """
    values = np.asanyarray(image.dataobj)
    header = image.header.copy()
    try:
        header.set_data_dtype(values.dtype)
        header.set_slope_inter(1, 0)
        kind = Nifti2Image if isinstance(image, Nifti2Pair) else Nifti1Image
        kind(values, image.affine, header).to_filename(str(path))
    except (ValueError, TypeError) as error:
        raise StudyError(f"image {path.stem} cannot be written as NIfTI ({error}). Save it as a file, and give that.") from None


def names_of(sample_ids: Sequence[str], origins: Sequence[Origin], named: dict[str, str]) -> list[tuple[str, int]]:
    """(image, slice) of each sample: the file it is of, and its place there; of several volumes of a file also which one.

    named: what a file is called instead.
    """
    places: dict[str, tuple[str, bool]] = {}
    beside: dict[str, list[str]] = {}
    for origin in origins:
        if origin.index is None:
            beside.setdefault(origin.files[0], []).append(origin.volume_id)
    for origin in origins:
        file = origin.files[0]
        twins = sorted(beside.get(file, []))
        number = f" ({1 + twins.index(origin.volume_id)} of {len(twins)})" if origin.index is None and len(twins) > 1 else ""
        places[origin.id] = named.get(file, spelled(file)) + number, origin.index is None or bool(origin.part)
    found = []
    for sample in sample_ids:
        volume_id, _, index = sample.rpartition("-")
        name, numbered = places.get(sample) or places[volume_id]
        found.append((name, int(index) if numbered else 0))
    return found
