"""Random views of a batch, made on the device: one resampling for geometry, then window, grey curve, light, blur, noise, cut-out.

Every draw is a function of (seed, epoch, view, sample id), so workers, ranks, batch composition and resume cannot change it.
Masks move with their images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from medssl.artefacts.volumes import Volume
from medssl.core.errors import StudyError
from medssl.core.rng import key, rng, uniforms
from medssl.nn.blur import Blur
from medssl.nn.changes import Changes, Coarsening, Light, Noise
from medssl.nn.crop_places import sides, spacings_mm, turned
from medssl.nn.loading import Batch
from medssl.nn.options import AugmentOptions, Variation, ViewOptions

AXES = "ijk"
NUM_DRAWS = 22
AREA, RATIO, POSITION, FLIP, ANGLE, CENTRE, WIDTH, GAMMA, BLUR, SIGMA, NOISE, OFFSET, CUT, BOX = (
    0, 1, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
)  # fmt: skip
LOW_RESOLUTION, BENT, NOISY, FACTOR = range(4)
"""Additional draws that only some studies need."""
CONTROL_POINTS = 4
"""Points per axis of the elastic field."""
OVERSHOOT = 1.5
"""How far the elastic field may overshoot its control points, at most."""
BLUR_REACH = 4.0
"""Radius of a blur in units of the largest standard deviation."""
NOISE_BANK = 1 << 20
CACHED_NUMBERS = 1 << 19
"""How many output pixels are processed together on a CPU."""
SLICES_LAST = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])
"""By slice axis, the order of an image's axes that puts its slices along the last one."""


@dataclass(frozen=True)
class Crop:
    """`count` views of one size; `scale` is the share of the image's area or volume they show (None: the study's).

    With `varies: intensity` every view shows the whole image, so that places correspond between views. With `nothing` a view is
    the
    image itself, resized. `noise: False` omits the study's noise, for pixel-wise prediction.

    `shows` is the part of an image under `AugmentOptions`: the `whole`, resized, or its `middle`, of `size` unscaled pixels, with
    the surrounding pixels (`margins`) for what moves in at the borders. Under `ViewOptions` it is a `part`.
    """

    count: int
    size: tuple[int, ...]
    scale: tuple[float, float] | None = None
    varies: Literal["all", "intensity", "nothing"] = "all"
    noise: bool = True
    shows: Literal["part", "whole", "middle"] = "part"


@runtime_checkable
class HasVolumes(Protocol):
    """What views need to know about the images: their volumes, and the number of channels."""

    @property
    def volumes(self) -> Sequence[Volume]:
        """In the order of `Batch.volume`."""

    @property
    def num_channels(self) -> int:
        """One per window."""


class Views:
    """Makes the views of batches: `views(batch)` is a list with `(n, c, *size)` in [0, 1] for each view of each crop.

    Args:
        settings: `AugmentOptions` for crops that show the `whole` or the `middle`, else `ViewOptions`.
        samples: has the volumes that `Batch.volume` refers to, and their number of channels.
        slices_last: the axes of 3-D images are permuted so that the slices lie along the last one.

    Raises:
        StudyError: a crop has another number of sizes than the images have dimensions. Or crops are in mm, and images have no
            spacing.
    """

    def __init__(
        self, settings: Variation, crops: list[Crop], samples: HasVolumes, *, seed: int, slices_last: bool = False
    ) -> None:
        self.settings, self.crops, self.seed, self.slices_last = settings, crops, seed, slices_last
        self.frame = tuple(int(side) for side in np.max([crop.size for crop in crops], axis=0))
        flip = {str(modality): axes for modality, axes in settings.flip.items()}
        self.flippable = np.array(
            [[axis in flip.get(volume.modality, ()) for axis in AXES] for volume in samples.volumes], dtype=bool
        )
        in_mm = isinstance(settings, ViewOptions) and settings.unit == "mm"
        self.spacing_mm = spacings_mm(samples.volumes) if in_mm else None
        largest = max(math.prod(crop.size) for crop in crops) * samples.num_channels
        self._bank = noise_bank(seed, max(NOISE_BANK, 2 * largest))

    def __call__(self, batch: Batch) -> list[Float[Tensor, "n c ..."]]:
        """The views of a batch, crop by crop."""
        return self._made(batch, [])

    def labelled(self, batch: Batch) -> tuple[Float[Tensor, "n c *size"], Int64[Tensor, "n *size"]]:
        """The one view of each image of a batch, and its mask moved the same way: the nearest voxel, 0 beyond the image."""
        masks: list[Tensor] = []
        (images,) = self._made(batch, masks)
        return images, torch.cat(masks)

    def _made(self, batch: Batch, masks: list[Tensor]) -> list[Tensor]:
        """The views; the masks of the batch are moved too and added to `masks`."""
        dims = batch.stored.ndim - 2
        for crop in self.crops:
            if len(crop.size) != dims:
                raise StudyError(
                    f"size {list(crop.size)} has {len(crop.size)} numbers, the images have {dims} dimensions. "
                    "Give pretrain.size as many numbers as spatial_dims."
                )
        device, n = batch.stored.device, len(batch)
        self._bank = self._bank.to(device)
        firsts = np.cumsum([0, *[crop.count for crop in self.crops]]).tolist()
        whole = [
            self._varying(crop)._changes(batch, crop, range(first, first + crop.count))
            for crop, first in zip(self.crops, firsts, strict=False)
        ]
        made = [torch.empty((crop.count, n, batch.low.shape[1], *crop.size), device=device) for crop in self.crops]
        # Numbers as stored, minus the one for the window's low end: places beyond an image are then zero.
        zero = ((batch.low[:, 0] - batch.intercept) / batch.slope).view(-1, *[1] * (dims + 1))
        share = n
        if device.type == "cpu":
            # A few images at a time stay in the processor's cache through all operations.
            share = max(1, CACHED_NUMBERS // max(crop.count * math.prod(crop.size) for crop in self.crops))
        for start in range(0, n, share):
            some = slice(start, min(start + share, n))
            numbers = batch.stored[some].to(torch.float32, copy=True).sub_(zero[some])
            for changes, views in zip(whole, made, strict=True):
                rows = slice(some.start * len(views), some.stop * len(views))
                places = changes.places(rows, len(numbers))
                if batch.mask is not None:
                    masks.append(changes.masks(batch.mask[some], places))
                images = changes.images(numbers, places, rows)
                views[:, some] = images.view(len(numbers), len(views), *images.shape[1:]).transpose(0, 1)
        return [view for views in made for view in views]

    def _varying(self, crop: Crop) -> Views:
        """These views, or less varied ones."""
        if crop.varies == "all" and crop.noise:
            return self
        less = copy.copy(self)
        if crop.varies != "all":
            parts = self._of_parts
            less.settings = parts.unmoved() if crop.varies == "intensity" else ViewOptions.still(parts.fit)
            less.flippable = np.zeros_like(self.flippable)
        if not crop.noise:
            less.settings = less.settings.model_copy(update={"noise": 0.0})
        return less

    @property
    def _of_parts(self) -> ViewOptions:
        if not isinstance(self.settings, ViewOptions):
            raise TypeError("a crop that shows a part of an image needs ViewOptions")
        return self.settings

    @property
    def _of_wholes(self) -> AugmentOptions:
        if not isinstance(self.settings, AugmentOptions):
            raise TypeError("a crop that shows the whole of an image, or its middle, needs AugmentOptions")
        return self.settings

    def _changes(self, batch: Batch, crop: Crop, which: range) -> Changes:
        """How the views `which` of each image vary; they belong to one crop."""
        settings, dims, device = self.settings, len(crop.size), batch.stored.device
        controls = dims * CONTROL_POINTS**dims if settings.elastic_frac else 0
        on_host = self._drawn(batch, "views", which, NUM_DRAWS + controls)
        if crop.varies != "all":
            on_host[:, POSITION : POSITION + dims] = 0.5
        further = self._further(batch, which)
        u = on_host.to(device)
        extent, may_flip, slope, low, high = (
            field.to(device).repeat_interleave(len(which), 0)
            for field in (
                batch.extent.float(), self._by_axis(self.flippable, batch, dims), batch.slope, batch.low, batch.high
            )
        )  # fmt: skip
        spacing = None
        if self.spacing_mm is not None:
            spacing = self._by_axis(self.spacing_mm, batch, dims).repeat_interleave(len(which), 0)
        across = np.full(len(batch), 2) if dims == 2 or self.slices_last else np.asarray(batch.axis)
        canvas = batch.stored.shape[2:]
        points, bends, shown = self._points(u, extent, spacing, may_flip, crop, canvas, across.repeat(len(which)))
        gain, offset = self._windows(u, slope, low, high)
        blur, blurred = self._blur(u, on_host, crop.size)
        coarsening, coarse = self._coarsening(further, device)
        return Changes(
            crop.size, points, bends, shown, gain, offset, self._exponent(u, further), self._light(batch, which), blur, blurred,
            coarsening, coarse, self._noise(u, further, math.prod(crop.size) * low.shape[1]), self._boxes(u, crop.size),
        )  # fmt: skip

    def _drawn(self, batch: Batch, name: str, which: range, count: int) -> Tensor:
        """Uniform numbers of the views `which` of each sample, `(n · views, count)`, on the processor."""
        draws = [uniforms(key(self.seed, name, batch.epoch, view), batch.keys, count) for view in which]
        return torch.from_numpy(np.stack(draws, 1).reshape(len(batch) * len(which), -1).astype(np.float32))

    def _further(self, batch: Batch, which: range) -> Tensor:
        """The draws that apply a change to only some of the views; none if no such change is in use."""
        settings = self.settings
        if settings.gamma_prob == settings.noise_prob == 1 and not settings.low_resolution_prob:
            return torch.zeros(len(batch) * len(which), 0)
        return self._drawn(batch, "some views", which, 4)

    def _by_axis(self, of_volumes: np.ndarray, batch: Batch, dims: int) -> Tensor:
        """A property of the axes of volumes, for those of each image `(n, d)`; looked up on the device, so that the host need not
        wait.
        """
        device = batch.volume.device
        found = torch.from_numpy(of_volumes).to(device)[batch.volume]
        if dims == 3 and not self.slices_last:
            return found
        return found.gather(1, torch.from_numpy(SLICES_LAST[batch.axis][:, :dims]).to(device))

    def _points(
        self,
        u: Tensor,
        extent: Tensor,
        spacing: Tensor | None,
        may_flip: Tensor,
        crop: Crop,
        canvas: torch.Size,
        across: np.ndarray,
    ) -> tuple[list[list[Tensor]], Tensor | None, Tensor]:
        """Places of pixels on the canvas, displacements of control points, and the side shown, as in `Changes`.

        spacing: `(m, d)` in mm, if crops are.
        across: `(m,)` the axis of each image that its slices lie along, about which it is rotated.
        """
        settings, dims = self.settings, len(crop.size)
        side, centre = self._part(u, extent, spacing, crop) if crop.shows == "part" else self._moved(u, extent, crop)
        sign = torch.where(may_flip & (u[:, FLIP : FLIP + dims] < 0.5), -1.0, 1.0)
        one = (-1, *[1] * dims)
        scale = [2 / canvas[d] for d in range(dims)]
        along = []
        for d, size in enumerate(crop.size):
            steps = (torch.arange(size, dtype=torch.float32, device=u.device) + 0.5) / size - 0.5
            shape = [len(u), *[1] * dims]
            shape[1 + d] = size
            along.append(((sign * side)[:, d, None] * steps).view(shape))
        points = [[along[d] * scale[d] + (centre[:, d] * scale[d] - 1).view(one)] for d in range(dims)]
        if settings.rotation_deg:
            angle = math.radians(settings.rotation_deg) * (2 * u[:, ANGLE] - 1)
            points = turned(points, along, centre, scale, angle, across, spacing)
        bends = None
        if settings.elastic_frac:
            bends = (2 * u[:, NUM_DRAWS:] - 1).view(-1, dims, *[CONTROL_POINTS] * dims) * settings.elastic_frac
        return points, bends, side * torch.tensor(scale, device=u.device)

    def _part(self, u: Tensor, extent: Tensor, spacing: Tensor | None, crop: Crop) -> tuple[Tensor, Tensor]:
        """Side and centre `(m, d)` of a part of each image, in pixels.

        The crop has the output's proportions times a random ratio, and the drawn share of the image's area or volume. With `fit:
        crop`
        it lies in the middle of the image that the largest view has room for. In mm it may be longer than a short axis, which it
        then shows whole.
        """
        settings, dims, start = self._of_parts, len(crop.size), torch.zeros_like(extent)
        if settings.fit == "crop":
            frame = torch.tensor(self.frame, dtype=torch.float32, device=u.device).expand_as(extent)
            start, extent = ((extent - frame) / 2).trunc(), frame  # whole pixels
        low, high = crop.scale or settings.scale
        share = low + (high - low) * u[:, AREA]
        out = torch.tensor(crop.size, dtype=torch.float32, device=u.device)
        ratio = math.log(settings.ratio) * (2 * u[:, RATIO : RATIO + dims] - 1) / 2
        ratio = (ratio - ratio.mean(1, keepdim=True)).exp()
        side = extent if crop.varies != "all" else sides(share, extent, out, ratio, spacing)
        return side, start + side / 2 + u[:, POSITION : POSITION + dims] * (extent - side)

    def _moved(self, u: Tensor, extent: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
        """Side and centre `(m, d)` of the whole of each image, or of its middle, scaled and shifted."""
        settings, dims = self._of_wholes, len(crop.size)
        side = torch.tensor(crop.size, device=u.device).float().expand_as(extent) if crop.shows == "middle" else extent
        low, high = map(math.log, settings.zoom)
        shift = settings.shift_frac * (2 * u[:, POSITION : POSITION + dims] - 1) * side
        return side * (low + (high - low) * u[:, AREA, None]).exp(), extent / 2 + shift

    def _windows(self, u: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and offset `(m, c)` of the windows, varied as readers vary them."""
        settings, base = self.settings, low[:, :1]
        if settings.window_jitter:
            width, middle = high - low, (high + low) / 2
            middle = middle + width * settings.window_jitter * (u[:, CENTRE, None] - 0.5)
            width = width * (1 + settings.window_jitter * (2 * u[:, WIDTH, None] - 1))
            low, high = middle - width / 2, middle + width / 2
        gain, offset = slope[:, None] / (high - low), (base - low) / (high - low)
        return gain, offset

    def _exponent(self, u: Tensor, further: Tensor) -> Tensor | None:
        settings = self.settings
        if settings.gamma == 1:
            return None
        exponent = torch.exp(math.log(settings.gamma) * (2 * u[:, GAMMA] - 1))
        if settings.gamma_prob < 1:
            exponent = torch.where(further[:, BENT].to(u.device) < settings.gamma_prob, exponent, 1.0)
        return exponent

    def _light(self, batch: Batch, which: range) -> Light | None:
        """Contrast and brightness of each view, from separate draws: a study without them keeps its views unchanged."""
        settings = self.settings
        if not (settings.contrast or settings.brightness):
            return None
        factor, shift = (2 * self._drawn(batch, "light", which, 2) - 1).to(batch.stored.device).unbind(1)
        return Light(1 + settings.contrast * factor, settings.brightness * shift, settings.brightest)

    def _blur(self, u: Tensor, on_host: Tensor, size: tuple[int, ...]) -> tuple[Blur | None, np.ndarray | None]:
        """The blur of the chosen views; on a GPU of all, the others with width 0, which avoids a wait."""
        settings = self.settings
        if not (settings.blur_prob and settings.blur_sigma_frac):
            return None, None
        sigma, reach = u[:, SIGMA] * settings.blur_sigma_frac, BLUR_REACH * settings.blur_sigma_frac
        if u.device.type != "cpu":
            return Blur(torch.where(u[:, BLUR] < settings.blur_prob, sigma, 0.0), reach, size), None
        chosen = np.flatnonzero(on_host[:, BLUR].numpy() < settings.blur_prob)
        return Blur(sigma[torch.from_numpy(chosen)], reach, size), chosen

    def _coarsening(self, further: Tensor, device: torch.device) -> tuple[Coarsening | None, np.ndarray]:
        """The lower resolution of the chosen views."""
        settings = self.settings
        if not settings.low_resolution_prob:
            return None, np.zeros(0, np.int64)
        chosen = np.flatnonzero(further[:, LOW_RESOLUTION].numpy() < settings.low_resolution_prob)
        factor = settings.low_resolution + (1 - settings.low_resolution) * further[torch.from_numpy(chosen), FACTOR]
        return Coarsening(factor.to(device)), chosen

    def _noise(self, u: Tensor, further: Tensor, amount: int) -> Noise | None:
        settings = self.settings
        if not settings.noise:
            return None
        strength = u[:, NOISE] * settings.noise
        if settings.noise_prob < 1:
            strength = strength * (further[:, NOISY] < settings.noise_prob).to(u.device)
        start = (u[:, OFFSET] * (len(self._bank) - amount)).long()
        return Noise(self._bank, start, strength, settings.brightest)

    def _boxes(self, u: Tensor, sizes: tuple[int, ...]) -> list[Tensor] | None:
        """Which pixels each view loses, along each axis `(m, 1, …)`; boxes of other views are empty."""
        settings, dims = self.settings, len(sizes)
        if not settings.cutout_prob:
            return None
        boxes = [(u[:, CUT] < settings.cutout_prob).view(-1, *[1] * (dims + 1))]
        for d, size in enumerate(sizes):
            side = settings.cutout_frac * size
            start = u[:, BOX + d, None] * (size - side)
            at = torch.arange(size, device=u.device) + 0.5
            along = (at >= start) & (at < start + side)
            boxes.append(along.view(-1, *[size if axis == d + 1 else 1 for axis in range(dims + 1)]))
        return boxes


@lru_cache(maxsize=2)
def noise_bank(seed: int, length: int) -> Float[Tensor, " length"]:
    """Normal noise from which views take sections. Fits of one process share it, so it must not be changed."""
    return torch.from_numpy(rng(seed, "noise").standard_normal(length, dtype=np.float32))


def margins(size: tuple[int, ...], settings: AugmentOptions, across: Collection[int] = (2,)) -> tuple[int, ...]:
    """Pixels beyond each side of a patch of `size` that a change of a crop's `middle` may bring into it.

    across: the axes that slices lie along; patches are rotated in the planes of the others.
    """
    most = math.radians(settings.rotation_deg)
    shown = [float(side) for side in size]
    for normal in across:
        for axis in {0, 1, 2} - {normal}:
            side, other = size[axis], size[3 - normal - axis]
            angle = min(most, math.atan2(other, side))  # the angle at which a rotated patch covers most
            shown[axis] = max(shown[axis], side * math.cos(angle) + other * math.sin(angle))
    zoom, bent = settings.zoom[1], OVERSHOOT * settings.elastic_frac
    return tuple(
        math.ceil((zoom * whole - side) / 2 + (settings.shift_frac + zoom * bent) * side) + 1
        for whole, side in zip(shown, size, strict=True)
    )
