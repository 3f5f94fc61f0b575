"""Random views of a batch, made on the device: one resampling for geometry, then window jitter, gamma, blur, noise, cut-out.

Every draw is a function of (seed, epoch, view, sample id), so workers, ranks, batch composition and resume cannot change it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.core.rng import key, rng, uniforms
from medssl.nn.loading import Batch, Samples
from medssl.nn.options import ViewOptions

AXES = "ijk"
NUM_DRAWS = 22
AREA, RATIO, POSITION, FLIP, ANGLE, CENTRE, WIDTH, GAMMA, BLUR, SIGMA, NOISE, OFFSET, CUT, BOX = (
    0, 1, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
)  # fmt: skip
CONTROL_POINTS = 4
"""Points per axis of the elastic field."""
NOISE_BANK = 1 << 20
CACHED_NUMBERS = 1 << 19
"""How many output pixels are worked on at once on a CPU."""
STRIP = 32
"""How many pixels along an axis are blurred by one product."""


@dataclass(frozen=True)
class Crop:
    """`count` views of one size; `scale` is the share of the image's area or volume they show (None: the study's).

    With `varies: intensity` every view shows the image as a whole, so that a place in one is that place in another; with
    `nothing` a view is the image itself, brought to the size. `noise: False` leaves the study's noise out, for what is to be told
    pixel by pixel.
    """

    count: int
    size: tuple[int, ...]
    scale: tuple[float, float] | None = None
    varies: Literal["all", "intensity", "nothing"] = "all"
    noise: bool = True


class Views:
    """Makes the views of batches: `views(batch)` is a list with `(n, c, *size)` in [0, 1] for each view of each crop.

    Raises:
        StudyError: a crop has another number of sizes than the images have dimensions.
    """

    def __init__(self, settings: ViewOptions, crops: list[Crop], samples: Samples, *, seed: int) -> None:
        self.settings, self.crops, self.seed = settings, crops, seed
        flip = {str(modality): axes for modality, axes in settings.flip.items()}
        self.flippable = np.array(
            [[axis in flip.get(volume.modality, ()) for axis in AXES] for volume in samples.volumes], dtype=bool
        )
        largest = max(math.prod(crop.size) for crop in crops) * samples.num_channels
        bank = rng(seed, "noise").standard_normal(max(NOISE_BANK, 2 * largest), dtype=np.float32)
        self._bank = torch.from_numpy(bank)

    def __call__(self, batch: Batch) -> list[Float[Tensor, "n c ..."]]:
        """The views of a batch, crop by crop."""
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
        made = [self._of_part(batch.part(at, at + share)) for at in range(0, len(batch), share)]
        return [torch.cat(parts) for parts in zip(*made, strict=True)] if len(made) > 1 else made[0]

    def _of_part(self, batch: Batch) -> list[Tensor]:
        # Numbers as stored, less the one that stands for the window's low end: zero is then what lies beyond an image.
        shape = (-1, *[1] * (batch.stored.ndim - 1))
        zero = (batch.low[:, 0] - batch.intercept) / batch.slope
        numbers = batch.stored.float().sub_(zero.view(shape))
        made, first = [], 0
        for crop in self.crops:
            made += self._varying(crop)._of_one_size(batch, numbers, crop, range(first, first + crop.count))
            first += crop.count
        return made

    def _varying(self, crop: Crop) -> Views:
        """These views, or views that vary less."""
        if crop.varies == "all" and crop.noise:
            return self
        less = copy.copy(self)
        if crop.varies != "all":
            less.settings = self.settings.unmoved() if crop.varies == "intensity" else ViewOptions.still()
            less.flippable = np.zeros_like(self.flippable)
        if not crop.noise:
            less.settings = less.settings.model_copy(update={"noise": 0.0})
        return less

    def _of_one_size(self, batch: Batch, numbers: Tensor, crop: Crop, which: range) -> list[Tensor]:
        """All views of one size by one resampling: their grids are stacked along the first spatial axis."""
        n, dims, device = len(batch), numbers.ndim - 2, numbers.device
        controls = dims * CONTROL_POINTS**dims if self.settings.elastic_frac else 0
        draws = [uniforms(key(self.seed, "views", batch.epoch, v), batch.keys, NUM_DRAWS + controls) for v in which]
        u = torch.from_numpy(np.stack(draws, 1).reshape(n * len(which), -1).astype(np.float32))
        if crop.varies != "all":
            u[:, POSITION : POSITION + dims] = 0.5
        flips = torch.from_numpy(self._flips(batch, dims))
        drawn = u.to(device)
        extent, may_flip, slope, low, high = (
            field.to(device).repeat_interleave(len(which), 0)
            for field in (batch.extent.float(), flips, batch.slope, batch.low, batch.high)
        )
        images = _resample(numbers, self._points(drawn, extent, may_flip, crop, numbers.shape[2:]), crop, len(which))
        images = self._photometric(images, slope, low, high, drawn, u.numpy())
        return list(images.view(n, len(which), *images.shape[1:]).unbind(1))

    def _flips(self, batch: Batch, dims: int) -> np.ndarray:
        allowed = self.flippable[batch.volume.cpu().numpy()]
        if dims == 3:
            return allowed
        others = np.array([[1, 2], [0, 2], [0, 1]])[batch.axis]
        return np.take_along_axis(allowed, others, axis=1)

    def _points(self, u: Tensor, extent: Tensor, may_flip: Tensor, crop: Crop, canvas: torch.Size) -> list[list[Tensor]]:
        """Where each output pixel lies on the canvas, −1 to 1: per axis, terms `(m, …)` whose broadcast sum it is.

        The crop has the output's proportions times a random ratio, and the drawn share of the image's area or volume.
        """
        settings, dims = self.settings, len(crop.size)
        low, high = crop.scale or settings.scale
        share = low + (high - low) * u[:, AREA]
        out = torch.tensor(crop.size, dtype=torch.float32, device=u.device)
        ratio = math.log(settings.ratio) * (2 * u[:, RATIO : RATIO + dims] - 1) / 2
        ratio = (ratio - ratio.mean(1, keepdim=True)).exp()
        unit = (share * extent.prod(1) / out.prod()) ** (1 / dims)
        side = extent if crop.varies != "all" else torch.minimum(unit[:, None] * out * ratio, extent)
        centre = side / 2 + u[:, POSITION : POSITION + dims] * (extent - side)
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

    def _photometric(self, images: Tensor, slope: Tensor, low: Tensor, high: Tensor, u: Tensor, u_cpu: np.ndarray) -> Tensor:
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
            # a power, at a third of its cost; the logarithm of 0 would be slow
            images = images.clamp_min_(1e-6).log_().mul_(exponent.view(one)).exp_()
        if settings.blur_prob and settings.blur_sigma_frac:
            images = self._blurred(images, u, u_cpu)
        if settings.noise:
            self._add_noise(images, u, u_cpu)
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

    def _add_noise(self, images: Tensor, u: Tensor, u_cpu: np.ndarray) -> None:
        """White noise of a random strength: a run of a fixed bank that begins at a random place."""
        amount = math.prod(images.shape[1:])
        room = len(self._bank) - amount
        if images.device.type == "cpu":
            for image, strength, place in zip(images, u_cpu[:, NOISE] * self.settings.noise, u_cpu[:, OFFSET], strict=True):
                start = int(place * np.float32(room))
                image.add_(self._bank[start : start + amount].view_as(image), alpha=float(strength))
        else:
            starts = (u[:, OFFSET] * room).long()
            noise = self._bank[starts[:, None] + torch.arange(amount, device=starts.device)].view_as(images)
            images.addcmul_(noise, (u[:, NOISE] * self.settings.noise).view(-1, *[1] * (images.ndim - 1)))
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


def _resample(numbers: Tensor, points: list[list[Tensor]], crop: Crop, num_views: int) -> Tensor:
    """`(n, 1, *canvas)` at the points of `num_views` views each, linear interpolation, 0 outside: `(n · num_views, 1, *size)`."""
    n, dims = len(numbers), len(points)
    planes = torch.empty((n, dims, num_views, *crop.size), device=numbers.device)
    for d, terms in enumerate(points):
        coordinate = planes[:, dims - 1 - d]
        terms = [term.view(n, num_views, *term.shape[1:]) for term in terms]
        if len(terms) == 1:
            coordinate.copy_(terms[0])
        else:
            torch.add(terms[0].expand(coordinate.shape), terms[1], out=coordinate)
        for term in terms[2:]:
            coordinate.add_(term)
    stacked = planes.view(n, dims, num_views * crop.size[0], *crop.size[1:]).movedim(1, -1)
    images = F.grid_sample(numbers, stacked, mode="bilinear", padding_mode="zeros", align_corners=False)
    return images.view(n * num_views, 1, *crop.size)


def _blur(images: Tensor, sigma: Tensor, dim: int, radius: int) -> Tensor:
    """Gaussian blur along one spatial axis with a width of its own for each image (pixels).

    Strips of the axis, with `radius` pixels before and behind, times a band matrix: torch's depth-wise convolution of so few
    groups took a CPU 1.6 times as long, and in some processes 6 times.
    """
    m, size, wide = len(images), images.shape[2 + dim], STRIP + 2 * radius
    away = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-(away**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    # What the kernel holds inside the image: at the edges less than 1.
    # A product with a triangle, as torch has no deterministic cumulative sum on a GPU.
    held = F.pad((kernel[:, None] * torch.ones_like(kernel[0]).expand(len(away), -1).tril()).sum(2), (1, 0))
    at = torch.arange(size, device=images.device)
    inside = held[:, (size + radius - at).clamp(max=2 * radius + 1)] - held[:, (radius - at).clamp(min=0)]
    # Row i of a band is the kernel moved by i: rows of one number more than `wide`, read as if they had `wide`.
    band = F.pad(kernel, (0, STRIP)).repeat(1, STRIP)[:, : STRIP * wide].view(m, STRIP, wide)
    lines = images.reshape(m, math.prod(images.shape[1 : 2 + dim]), size, -1)
    strips = F.pad(lines, (0, 0, radius, radius + -size % STRIP)).unfold(2, wide, STRIP)
    if lines.shape[3] == 1:
        blurred = strips.reshape(m, -1, wide) @ band.mT
    else:
        blurred = band[:, None, None] @ strips.mT
    blurred = blurred.reshape(*lines.shape[:2], -1, lines.shape[3])[:, :, :size]
    return (blurred / inside[:, None, :, None]).view(images.shape)
