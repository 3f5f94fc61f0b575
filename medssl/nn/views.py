"""Random views of a batch, made on the device: one resampling for geometry, then window jitter, gamma, blur, noise, cut-out.

Every draw is a function of (seed, epoch, view, sample id), so workers, ranks, batch composition and resume cannot change it.
Masks move with their images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from medssl.artefacts.volumes import Volume
from medssl.core.errors import StudyError
from medssl.core.rng import key, rng, uniforms
from medssl.nn.loading import Batch
from medssl.nn.options import AugmentOptions, Variation, ViewOptions

AXES = "ijk"
NUM_DRAWS = 22
AREA, RATIO, POSITION, FLIP, ANGLE, CENTRE, WIDTH, GAMMA, BLUR, SIGMA, NOISE, OFFSET, CUT, BOX = (
    0, 1, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
)  # fmt: skip
LOW_RESOLUTION, BENT, NOISY, FACTOR = range(4)
"""Of the further draws that only some studies need."""
CONTROL_POINTS = 4
"""Points per axis of the elastic field."""
OVERSHOOT = 1.5
"""How far beyond its points the elastic field may reach between them, at most."""
NOISE_BANK = 1 << 20
CACHED_NUMBERS = 1 << 19
"""How many output pixels are worked on at once on a CPU."""
SLICES_LAST = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])
"""By the axis that slices are cut along, the axes of an image whose slices lie along the last one."""
STRIP = 32
"""How many pixels along an axis are blurred by one product."""
NEGLIGIBLE = 1e-30
"""Weights of a blur that are taken as zero: below 1e-38 a processor takes many times as long for each product."""


@dataclass(frozen=True)
class Crop:
    """`count` views of one size; `scale` is the share of the image's area or volume they show (None: the study's).

    With `varies: intensity` every view shows the image as a whole, so that a place in one is that place in another; with
    `nothing` a view is the image itself, brought to the size. `noise: False` leaves the study's noise out, for what is predicted
    pixel by pixel.

    `shows` what of an image, under `AugmentOptions`: the `whole`, brought to the size; or its `middle`, of `size` pixels as they
    are, where what is moved in at the borders lies beside it (`margins`). A `part` of it, under `ViewOptions`.
    """

    count: int
    size: tuple[int, ...]
    scale: tuple[float, float] | None = None
    varies: Literal["all", "intensity", "nothing"] = "all"
    noise: bool = True
    shows: Literal["part", "whole", "middle"] = "part"


@runtime_checkable
class HasVolumes(Protocol):
    """What views know of the images: their volumes, and a channel for each window."""

    @property
    def volumes(self) -> Sequence[Volume]:
        """In the order that `Batch.volume` counts them."""

    @property
    def num_channels(self) -> int:
        """One for each window."""


class Views:
    """Makes the views of batches: `views(batch)` is a list with `(n, c, *size)` in [0, 1] for each view of each crop.

    Args:
        settings: `AugmentOptions` for crops that show the `whole` or the `middle`, else `ViewOptions`.
        samples: has the volumes that `Batch.volume` counts, and their number of channels.
        slices_last: the axes of 3-D images are turned so that the slices lie along the last one.

    Raises:
        StudyError: a crop has another number of sizes than the images have dimensions.
    """

    def __init__(
        self, settings: Variation, crops: list[Crop], samples: HasVolumes, *, seed: int, slices_last: bool = False
    ) -> None:
        self.settings, self.crops, self.seed, self.slices_last = settings, crops, seed, slices_last
        flip = {str(modality): axes for modality, axes in settings.flip.items()}
        self.flippable = np.array(
            [[axis in flip.get(volume.modality, ()) for axis in AXES] for volume in samples.volumes], dtype=bool
        )
        largest = max(math.prod(crop.size) for crop in crops) * samples.num_channels
        bank = rng(seed, "noise").standard_normal(max(NOISE_BANK, 2 * largest), dtype=np.float32)
        self._bank = torch.from_numpy(bank)

    def __call__(self, batch: Batch) -> list[Float[Tensor, "n c ..."]]:
        """The views of a batch, crop by crop."""
        return self._made(batch, [])

    def labelled(self, batch: Batch) -> tuple[Float[Tensor, "n c *size"], Int64[Tensor, "n *size"]]:
        """The one view of each image of a batch, and its mask moved alike: the nearest voxel, 0 beyond the image."""
        masks: list[Tensor] = []
        (images,) = self._made(batch, masks)
        return images, torch.cat(masks)

    def _made(self, batch: Batch, masks: list[Tensor]) -> list[Tensor]:
        """The views; the masks that the batch has are moved too and put into `masks`."""
        dims = batch.stored.ndim - 2
        for crop in self.crops:
            if len(crop.size) != dims:
                raise StudyError(
                    f"size {list(crop.size)} has {len(crop.size)} numbers, the images have {dims} dimensions. "
                    "Give pretrain.size as many numbers as spatial_dims."
                )
        self._bank = self._bank.to(batch.stored.device)
        share = len(batch)
        if batch.stored.device.type == "cpu":
            # A few images at a time stay in the processor's cache through all operations.
            share = max(1, CACHED_NUMBERS // max(crop.count * math.prod(crop.size) for crop in self.crops))
        made = [self._of_part(batch.part(at, at + share), masks) for at in range(0, len(batch), share)]
        return [torch.cat(parts) for parts in zip(*made, strict=True)] if len(made) > 1 else made[0]

    def _of_part(self, batch: Batch, masks: list[Tensor]) -> list[Tensor]:
        # Numbers as stored, less the one that stands for the window's low end: zero is then what lies beyond an image.
        shape = (-1, *[1] * (batch.stored.ndim - 1))
        zero = (batch.low[:, 0] - batch.intercept) / batch.slope
        numbers = batch.stored.float().sub_(zero.view(shape))
        made, first = [], 0
        for crop in self.crops:
            made += self._varying(crop)._of_one_size(batch, numbers, crop, range(first, first + crop.count), masks)
            first += crop.count
        return made

    def _varying(self, crop: Crop) -> Views:
        """These views, or views that vary less."""
        if crop.varies == "all" and crop.noise:
            return self
        less = copy.copy(self)
        if crop.varies != "all":
            less.settings = self._of_parts.unmoved() if crop.varies == "intensity" else ViewOptions.still()
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

    def _of_one_size(self, batch: Batch, numbers: Tensor, crop: Crop, which: range, masks: list[Tensor]) -> list[Tensor]:
        """All views of one size by one resampling: their grids are stacked along the first spatial axis."""
        n, dims, device = len(batch), numbers.ndim - 2, numbers.device
        controls = dims * CONTROL_POINTS**dims if self.settings.elastic_frac else 0
        u = self._drawn(batch, "views", which, NUM_DRAWS + controls)
        if crop.varies != "all":
            u[:, POSITION : POSITION + dims] = 0.5
        flips = torch.from_numpy(self._flips(batch, dims))
        drawn = u.to(device)
        extent, may_flip, slope, low, high = (
            field.to(device).repeat_interleave(len(which), 0)
            for field in (batch.extent.float(), flips, batch.slope, batch.low, batch.high)
        )
        places = _places(self._points(drawn, extent, may_flip, crop, numbers.shape[2:]), crop, n)
        if batch.mask is not None:
            moved = F.grid_sample(batch.mask.float(), places, mode="nearest", padding_mode="zeros", align_corners=False)
            masks.append(moved.view(n * len(which), *crop.size).long())
        images = F.grid_sample(numbers, places, mode="bilinear", padding_mode="zeros", align_corners=False)
        images = images.view(n * len(which), 1, *crop.size)
        images = self._photometric(images, slope, low, high, drawn, u.numpy(), self._further(batch, which))
        return list(images.view(n, len(which), *images.shape[1:]).unbind(1))

    def _drawn(self, batch: Batch, name: str, which: range, count: int) -> Tensor:
        """Uniform numbers of the views `which` of each sample, `(n · views, count)`, on the processor."""
        draws = [uniforms(key(self.seed, name, batch.epoch, view), batch.keys, count) for view in which]
        return torch.from_numpy(np.stack(draws, 1).reshape(len(batch) * len(which), -1).astype(np.float32))

    def _further(self, batch: Batch, which: range) -> Tensor:
        """The draws that say what happens to some of the views; where all are alike, none is made."""
        settings = self.settings
        if settings.gamma_prob == settings.noise_prob == 1 and not settings.low_resolution_prob:
            return torch.zeros(len(batch) * len(which), 0)
        return self._drawn(batch, "some views", which, 4)

    def _flips(self, batch: Batch, dims: int) -> np.ndarray:
        allowed = self.flippable[batch.volume.cpu().numpy()]
        if dims == 3:
            return np.take_along_axis(allowed, SLICES_LAST[batch.axis], axis=1) if self.slices_last else allowed
        return np.take_along_axis(allowed, SLICES_LAST[batch.axis][:, :2], axis=1)

    def _points(self, u: Tensor, extent: Tensor, may_flip: Tensor, crop: Crop, canvas: torch.Size) -> list[list[Tensor]]:
        """Where each output pixel lies on the canvas, −1 to 1: per axis, terms `(m, …)` whose broadcast sum it is."""
        settings, dims = self.settings, len(crop.size)
        side, centre = self._part(u, extent, crop) if crop.shows == "part" else self._moved(u, extent, crop)
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
            # In the plane of the first two axes: slices of a volume are turned about their normal.
            angle = math.radians(settings.rotation_deg) * (2 * u[:, ANGLE] - 1)
            cos, sin = (t.view(one) for t in (angle.cos(), angle.sin()))
            points[0] = [(cos * along[0] + centre[:, 0].view(one)) * scale[0] - 1, -sin * along[1] * scale[0]]
            points[1] = [(cos * along[1] + centre[:, 1].view(one)) * scale[1] - 1, sin * along[0] * scale[1]]
        if settings.elastic_frac:
            control = (2 * u[:, NUM_DRAWS:] - 1).view(-1, dims, *[CONTROL_POINTS] * dims) * settings.elastic_frac
            mode = "bicubic" if dims == 2 else "trilinear"
            field = F.interpolate(control, size=crop.size, mode=mode, align_corners=True)
            for d in range(dims):
                points[d].append(field[:, d] * (side[:, d] * scale[d]).view(one))
        return points

    def _part(self, u: Tensor, extent: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
        """Side and centre `(m, d)` of a part of each image, in pixels.

        The crop has the output's proportions times a random ratio, and the drawn share of the image's area or volume.
        """
        settings, dims = self._of_parts, len(crop.size)
        low, high = crop.scale or settings.scale
        share = low + (high - low) * u[:, AREA]
        out = torch.tensor(crop.size, dtype=torch.float32, device=u.device)
        ratio = math.log(settings.ratio) * (2 * u[:, RATIO : RATIO + dims] - 1) / 2
        ratio = (ratio - ratio.mean(1, keepdim=True)).exp()
        unit = (share * extent.prod(1) / out.prod()) ** (1 / dims)
        side = extent if crop.varies != "all" else torch.minimum(unit[:, None] * out * ratio, extent)
        return side, side / 2 + u[:, POSITION : POSITION + dims] * (extent - side)

    def _moved(self, u: Tensor, extent: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
        """Side and centre `(m, d)` of the whole of each image, or of its middle, larger or smaller and shifted."""
        settings, dims = self._of_wholes, len(crop.size)
        side = torch.tensor(crop.size, device=u.device).float().expand_as(extent) if crop.shows == "middle" else extent
        low, high = map(math.log, settings.zoom)
        shift = settings.shift_frac * (2 * u[:, POSITION : POSITION + dims] - 1) * side
        return side * (low + (high - low) * u[:, AREA, None]).exp(), extent / 2 + shift

    def _photometric(
        self, images: Tensor, slope: Tensor, low: Tensor, high: Tensor, u: Tensor, u_cpu: np.ndarray, further: Tensor
    ) -> Tensor:
        """Numbers `(m, 1, *size)` to channels `(m, c, *size)` in [0, 1], varied as scanners and readers vary them."""
        settings, dims = self.settings, images.ndim - 2
        one = (-1, *[1] * (dims + 1))
        base = low[:, :1]
        if settings.window_jitter:
            width, middle = high - low, (high + low) / 2
            middle = middle + width * settings.window_jitter * (u[:, CENTRE, None] - 0.5)
            width = width * (1 + settings.window_jitter * (2 * u[:, WIDTH, None] - 1))
            low, high = middle - width / 2, middle + width / 2
        gain, offset = slope[:, None] / (high - low), (base - low) / (high - low)
        wide = (*gain.shape, *[1] * dims)
        images = torch.addcmul(offset.view(wide), images, gain.view(wide)).clamp_(0, 1)
        if settings.gamma > 1:
            exponent = torch.exp(math.log(settings.gamma) * (2 * u[:, GAMMA] - 1))
            if settings.gamma_prob < 1:
                exponent = torch.where(further[:, BENT].to(u.device) < settings.gamma_prob, exponent, 1.0)
            # a power, at a third of its cost; the logarithm of 0 would be slow
            images = images.clamp_min_(1e-6).log_().mul_(exponent.view(one)).exp_()
        if settings.blur_prob and settings.blur_sigma_frac:
            images = self._blurred(images, u, u_cpu)
        if settings.low_resolution_prob:
            images = self._coarsened(images, further)
        if settings.noise:
            noisy = further[:, NOISY] < settings.noise_prob if settings.noise_prob < 1 else torch.ones(len(u))
            self._add_noise(images, u[:, OFFSET], u[:, NOISE] * settings.noise * noisy.to(u.device))
        if settings.cutout_prob:
            images = images * ~self._box(images, u)
        return images

    def _blurred(self, images: Tensor, u: Tensor, u_cpu: np.ndarray) -> Tensor:
        """A Gaussian blur of those that are chosen; on a GPU of all, the others with width 0, which spares a wait."""
        settings = self.settings
        sigma = u[:, SIGMA] * settings.blur_sigma_frac
        if images.device.type != "cpu":
            sigma = torch.where(u[:, BLUR] < settings.blur_prob, sigma, 0.0)
            for d, size in enumerate(images.shape[2:]):
                images = _blur(images, sigma * size, d, self._blur_radius(size))
            return images
        chosen = torch.from_numpy(np.flatnonzero(u_cpu[:, BLUR] < settings.blur_prob))
        if not len(chosen):
            return images
        part = images[chosen]
        for d, size in enumerate(images.shape[2:]):
            part = _blur(part, sigma[chosen] * size, d, self._blur_radius(size))
        return images.index_copy_(0, chosen, part)

    def _blur_radius(self, size: int) -> int:
        return max(1, math.ceil(4 * self.settings.blur_sigma_frac * size))

    def _coarsened(self, images: Tensor, further: Tensor) -> Tensor:
        """Some of the images at a lower resolution: their nearest pixels, and lines between these.

        Source: Isensee et al., nnU-Net, arXiv 1904.08128, supplementary note 4 (simulation of low resolution).
        """
        chosen = torch.nonzero(further[:, LOW_RESOLUTION] < self.settings.low_resolution_prob)[:, 0]
        if not len(chosen):
            return images
        factor = self.settings.low_resolution + (1 - self.settings.low_resolution) * further[chosen, FACTOR]
        part = images[chosen.to(images.device)]
        for d in range(images.ndim - 2):
            part = _coarse(part, factor.to(images.device), d)
        return images.index_copy(0, chosen.to(images.device), part)

    def _add_noise(self, images: Tensor, place: Tensor, strength: Tensor) -> None:
        """White noise of a strength of its own for each image: a run of a fixed bank that begins at a random place."""
        amount = math.prod(images.shape[1:])
        starts = (place * (len(self._bank) - amount)).long()
        if images.device.type == "cpu":
            for image, alpha, start in zip(images, strength.tolist(), starts.tolist(), strict=True):
                image.add_(self._bank[start : start + amount].view_as(image), alpha=alpha)
        else:
            noise = self._bank[starts[:, None] + torch.arange(amount, device=starts.device)].view_as(images)
            images.addcmul_(noise, strength.view(-1, *[1] * (images.ndim - 1)))
        images.clamp_(0, 1)

    def _box(self, images: Tensor, u: Tensor) -> Tensor:
        """True inside each image's box, `(m, 1, *size)`; the boxes of images that are not chosen are empty."""
        dims = images.ndim - 2
        chosen = (u[:, CUT] < self.settings.cutout_prob).view(-1, *[1] * (dims + 1))
        inside = chosen
        for d in range(dims):
            size = images.shape[2 + d]
            side = self.settings.cutout_frac * size
            start = u[:, BOX + d, None] * (size - side)
            at = torch.arange(size, device=images.device) + 0.5
            along = (at >= start) & (at < start + side)
            inside = inside & along.view(-1, *[size if axis == d + 1 else 1 for axis in range(dims + 1)])
        return inside


def _places(points: list[list[Tensor]], crop: Crop, n: int) -> Tensor:
    """The points of all views of `n` images as grid_sample wants them, stacked along the first spatial axis."""
    dims, num_views = len(points), crop.count
    planes = torch.empty((n, dims, num_views, *crop.size), device=points[0][0].device)
    for d, terms in enumerate(points):
        coordinate = planes[:, dims - 1 - d]
        terms = [term.view(n, num_views, *term.shape[1:]) for term in terms]
        if len(terms) == 1:
            coordinate.copy_(terms[0])
        else:
            torch.add(terms[0].expand(coordinate.shape), terms[1], out=coordinate)
        for term in terms[2:]:
            coordinate.add_(term)
    return planes.view(n, dims, num_views * crop.size[0], *crop.size[1:]).movedim(1, -1)


def margins(size: tuple[int, ...], settings: AugmentOptions) -> tuple[int, ...]:
    """Pixels beyond each side of a patch of `size` that a change of a crop's `middle` may bring into it."""
    most = math.radians(settings.rotation_deg)
    shown = [float(side) for side in size]
    for axis in (0, 1):
        side, other = size[axis], size[1 - axis]
        angle = min(most, math.atan2(other, side))  # where what a turned patch covers is largest
        shown[axis] = side * math.cos(angle) + other * math.sin(angle)
    zoom, bent = settings.zoom[1], OVERSHOOT * settings.elastic_frac
    return tuple(
        math.ceil((zoom * whole - side) / 2 + (settings.shift_frac + zoom * bent) * side) + 1
        for whole, side in zip(shown, size, strict=True)
    )


def _coarse(images: Tensor, factor: Tensor, dim: int) -> Tensor:
    """Along one spatial axis, `factor` times the pixels (the nearest of the image), and lines between these."""
    size = images.shape[2 + dim]
    shape = [len(images), *[1] * (images.ndim - 1)]
    shape[2 + dim] = size
    few = (factor * size).round().clamp_min(1)[:, None]
    at = ((torch.arange(size, device=images.device) + 0.5) / size * few - 0.5).clamp_min(0)
    first = torch.minimum(at.floor(), few - 1)
    places = [((number + 0.5) / few * size).long().clamp(max=size - 1) for number in (first, torch.minimum(first + 1, few - 1))]
    one, other = (images.gather(2 + dim, place.view(shape).expand_as(images)) for place in places)
    return one.lerp(other, (at - first).clamp(max=1).view(shape))


def _blur(images: Tensor, sigma: Tensor, dim: int, radius: int) -> Tensor:
    """Gaussian blur along one spatial axis with a width of its own for each image (pixels).

    A strip of the axis at a time, with `radius` pixels before and behind, times a band matrix: torch's depth-wise convolution of
    so few groups took a CPU 5 times as long, and the whole axis at once twice as long.
    """
    m, size, wide = len(images), images.shape[2 + dim], STRIP + 2 * radius
    away = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-(away**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    kernel = torch.where(kernel < NEGLIGIBLE, 0.0, kernel / kernel.sum(1, keepdim=True))
    # Row i of a band is the kernel moved by i: rows of one number more than `wide`, read as if they had `wide`.
    bands = F.pad(kernel, (0, STRIP)).repeat(1, STRIP)[:, : STRIP * wide].view(m, STRIP, wide)
    lines = images.reshape(m, math.prod(images.shape[1 : 2 + dim]), size, -1)
    blurred = torch.empty_like(lines)
    for start in range(0, size, STRIP):
        stop = min(start + STRIP, size)
        first, last = max(start - radius, 0), min(stop + radius, size)
        band = bands[:, : stop - start, first - start + radius : last - start + radius]
        if last - first < stop - start + 2 * radius:
            band = band / band.sum(2, keepdim=True)  # at an edge, what the kernel holds inside the image
        if lines.shape[3] == 1:
            torch.bmm(lines[:, :, first:last, 0], band.mT, out=blurred[:, :, start:stop, 0])
        elif lines.shape[1] == 1:
            torch.bmm(band, lines[:, 0, first:last], out=blurred[:, 0, start:stop])
        else:
            blurred[:, :, start:stop] = band[:, None] @ lines[:, :, first:last]
    return blurred.view(images.shape)
