"""Random views of a batch, made on the device: one resampling for geometry, then window jitter, gamma, blur, noise, cut-out.

Every draw is a function of (seed, epoch, view, sample id), so workers, ranks, batch composition and resume cannot change it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.core.rng import key, rng, uniforms
from medssl.core.study import ViewSettings
from medssl.nn.loading import Batch, Samples, window

AXES = "ijk"
NUM_DRAWS = 22
AREA, RATIO, POSITION, FLIP, ANGLE, CENTRE, WIDTH, GAMMA, BLUR, SIGMA, NOISE, OFFSET, CUT, BOX = (
    0, 1, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
)  # fmt: skip
CONTROL_POINTS = 4
"""Points per axis of the elastic field."""
NOISE_BANK = 1 << 20


@dataclass(frozen=True)
class Crop:
    """`count` views of one size; `scale` is the share of the image's area or volume they show (None: the study's)."""

    count: int
    size: tuple[int, ...]
    scale: tuple[float, float] | None = None


class Views:
    """Makes the views of batches: `views(batch)` is a list with `(n, c, *size)` in [0, 1] for each view of each crop.

    Raises:
        StudyError: a crop has another number of sizes than the images have dimensions.
    """

    def __init__(self, settings: ViewSettings, crops: list[Crop], samples: Samples, *, seed: int) -> None:
        self.settings, self.crops, self.seed = settings, crops, seed
        self.flippable = np.array(
            [[axis in settings.flip.get(volume.modality, ()) for axis in AXES] for volume in samples.volumes], dtype=bool
        )
        largest = max(math.prod(crop.size) for crop in crops) * samples.num_channels
        bank = rng(seed, "noise").standard_normal(max(NOISE_BANK, 2 * largest), dtype=np.float32)
        self._bank = torch.from_numpy(bank)

    def __call__(self, batch: Batch) -> list[Tensor]:
        """The views of a batch, crop by crop."""
        self._bank = self._bank.to(batch.stored.device)
        values, made, first = batch.values, [], 0
        for crop in self.crops:
            if len(crop.size) != values.ndim - 2:
                raise StudyError(
                    f"size {list(crop.size)} has {len(crop.size)} numbers, the images have {values.ndim - 2} dimensions. "
                    "Give pretrain.size as many numbers as spatial_dims."
                )
            made += self._of_one_size(batch, values, crop, range(first, first + crop.count))
            first += crop.count
        return made

    def _of_one_size(self, batch: Batch, values: Tensor, crop: Crop, numbers: range) -> list[Tensor]:
        """All views of one size by one resampling: their grids are stacked along the first spatial axis."""
        n, dims, device = len(batch), values.ndim - 2, values.device
        controls = dims * CONTROL_POINTS**dims if self.settings.elastic_frac else 0
        draws = np.stack(
            [uniforms(key(self.seed, "views", batch.epoch, v), batch.keys, NUM_DRAWS + controls) for v in numbers], 1
        )
        flips = self._flips(batch, dims)
        u = torch.from_numpy(draws.reshape(n * len(numbers), -1).astype(np.float32)).to(device)
        extent = batch.extent.to(device).repeat_interleave(len(numbers), 0).float()
        may_flip = torch.from_numpy(flips).to(device).repeat_interleave(len(numbers), 0)
        points = self._points(u, extent, may_flip, crop)
        images = _resample(values, points, len(numbers))
        low, high = (t.repeat_interleave(len(numbers), 0) for t in (batch.low, batch.high))
        if self.settings.rotation_deg or self.settings.elastic_frac:
            images = torch.where(_outside(points, extent), low[:, :1].reshape(-1, *[1] * (dims + 1)), images)
        images = self._photometric(images, low, high, u)
        return list(images.view(n, len(numbers), *images.shape[1:]).unbind(1))

    def _flips(self, batch: Batch, dims: int) -> np.ndarray:
        allowed = self.flippable[batch.volume.cpu().numpy()]
        if dims == 3:
            return allowed
        others = np.array([[1, 2], [0, 2], [0, 1]])[batch.axis]
        return np.take_along_axis(allowed, others, axis=1)

    def _points(self, u: Tensor, extent: Tensor, may_flip: Tensor, crop: Crop) -> list[Tensor]:
        """Where each output pixel lies in the image, in pixels from its edge: one `(m, *size)` (or broadcastable) per axis.

        The crop has the output's proportions times a random ratio, and the drawn share of the image's area or volume.
        """
        settings, dims = self.settings, len(crop.size)
        low, high = crop.scale or settings.scale
        share = low + (high - low) * u[:, AREA]
        out = torch.tensor(crop.size, dtype=torch.float32, device=u.device)
        ratio = math.log(settings.ratio) * (2 * u[:, RATIO : RATIO + dims] - 1) / 2
        ratio = (ratio - ratio.mean(1, keepdim=True)).exp()
        unit = (share * extent.prod(1) / out.prod()) ** (1 / dims)
        side = torch.minimum(unit[:, None] * out * ratio, extent)
        centre = side / 2 + u[:, POSITION : POSITION + dims] * (extent - side)
        sign = torch.where(may_flip & (u[:, FLIP : FLIP + dims] < 0.5), -1.0, 1.0)
        offsets = []
        for d, size in enumerate(crop.size):
            steps = (torch.arange(size, device=u.device) + 0.5) / size - 0.5
            shape = [len(u), *[1] * dims]
            shape[1 + d] = size
            offsets.append(((sign * side)[:, d, None] * steps).view(shape))
        if settings.rotation_deg:
            # In the plane of the first two axes: slices of a volume are turned about their normal.
            angle = math.radians(settings.rotation_deg) * (2 * u[:, ANGLE] - 1)
            cos, sin = (t.view(-1, *[1] * dims) for t in (angle.cos(), angle.sin()))
            offsets[:2] = [cos * offsets[0] - sin * offsets[1], sin * offsets[0] + cos * offsets[1]]
        if settings.elastic_frac:
            control = (2 * u[:, NUM_DRAWS:] - 1).view(-1, dims, *[CONTROL_POINTS] * dims) * settings.elastic_frac
            mode = "bicubic" if dims == 2 else "trilinear"
            field = F.interpolate(control, size=crop.size, mode=mode, align_corners=True)
            offsets = [o + field[:, d] * side[:, d].view(-1, *[1] * dims) for d, o in enumerate(offsets)]
        return [o + centre[:, d].view(-1, *[1] * dims) for d, o in enumerate(offsets)]

    def _photometric(self, images: Tensor, low: Tensor, high: Tensor, u: Tensor) -> Tensor:
        """Values `(m, 1, *size)` to channels `(m, c, *size)` in [0, 1]: the parts of appearance that a scanner or reader may vary."""
        settings, dims = self.settings, images.ndim - 2
        one = (-1, *[1] * (dims + 1))
        if settings.window_jitter:
            width, middle = high - low, (high + low) / 2
            middle = middle + width * settings.window_jitter * (u[:, CENTRE, None] - 0.5)
            width = width * (1 + settings.window_jitter * (2 * u[:, WIDTH, None] - 1))
            low, high = middle - width / 2, middle + width / 2
        images = window(images, low, high)
        if settings.gamma > 1:
            exponent = torch.exp(math.log(settings.gamma) * (2 * u[:, GAMMA] - 1))
            images = images.pow(exponent.view(one))
        if settings.blur_prob and settings.blur_sigma_frac:
            chosen = u[:, BLUR] < settings.blur_prob
            for d in range(dims):
                sigma = u[:, SIGMA] * settings.blur_sigma_frac * images.shape[2 + d]
                images = _blur(images, torch.where(chosen, sigma, 0.0), d)
        if settings.noise:
            amount = math.prod(images.shape[1:])
            start = (u[:, OFFSET] * (len(self._bank) - amount)).long()
            noise = self._bank.unfold(0, amount, 1)[start].view_as(images)
            images = torch.addcmul(images, noise, (u[:, NOISE] * settings.noise).view(one)).clamp_(0, 1)
        if settings.cutout_prob:
            images = images * ~self._box(images, u)
        return images

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


def _resample(values: Tensor, points: list[Tensor], num_views: int) -> Tensor:
    """Values `(n, 1, *canvas)` at the points of `num_views` views each, linear interpolation: `(n · num_views, 1, *size)`."""
    canvas = values.shape[2:]
    shape = torch.broadcast_shapes(*(p.shape for p in points))
    grid = torch.empty((*shape, len(points)), device=values.device)
    for d, p in enumerate(points):
        grid[..., len(points) - 1 - d] = p * (2 / canvas[d]) - 1
    n, size = len(values), shape[1:]
    stacked = grid.view(n, num_views * size[0], *size[1:], len(points))
    images = F.grid_sample(values, stacked, mode="bilinear", padding_mode="border", align_corners=False)
    return images.view(n * num_views, 1, *size)


def _outside(points: list[Tensor], extent: Tensor) -> Tensor:
    """True where a point lies beyond its image, `(m, 1, *size)`."""
    beyond = torch.zeros((), dtype=torch.bool, device=extent.device)
    for d, p in enumerate(points):
        beyond = beyond | (p < 0) | (p > extent[:, d].view(-1, *[1] * (p.ndim - 1)))
    return beyond[:, None]


def _blur(images: Tensor, sigma: Tensor, dim: int) -> Tensor:
    """Gaussian blur along one spatial axis with a width of its own for each image (pixels), as a product with a band matrix."""
    at = torch.arange(images.shape[2 + dim], device=images.device, dtype=torch.float32)
    weights = torch.exp(-((at[:, None] - at[None, :]) ** 2) / (2 * sigma.clamp_min(1e-3)[:, None, None] ** 2))
    weights = weights / weights.sum(2, keepdim=True)
    moved = images.movedim(2 + dim, 1)
    return torch.bmm(weights, moved.flatten(2)).view(moved.shape).movedim(1, 2 + dim)
