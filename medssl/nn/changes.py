"""The changes that turn pixels into views: one resampling, then window, grey curve, blur, lower resolution, noise, cut-out.

The draws for each view are a small tensor with a row per view, the views of an image one after another; images come a few at a
time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from medssl.nn.blur import Blur


@dataclass(frozen=True)
class Changes:
    """How the views of one size vary; None marks what does not."""

    size: tuple[int, ...]
    points: list[list[Tensor]]
    """The place of each pixel on the canvas, −1 to 1: per axis, terms `(m, …)` whose broadcast sum it is."""
    bends: Float[Tensor, "m d ..."] | None
    """How far the control points of an elastic field move, as a share of the side that a view shows."""
    shown: Float[Tensor, "m d"]
    """That side, in the unit of the points."""
    gain: Float[Tensor, "m c"]
    offset: Float[Tensor, "m c"]
    """Of each window."""
    exponent: Float[Tensor, "m"] | None
    """Of the grey curve."""
    light: Light | None
    blur: Blur | None
    blurred: Int64[np.ndarray, "some"] | None
    """The rows that `blur` applies to, ascending; None: all."""
    coarsening: Coarsening | None
    coarse: Int64[np.ndarray, "few"]
    """The rows that `coarsening` applies to, ascending."""
    noise: Noise | None
    boxes: list[Bool[Tensor, "m ..."]] | None
    """Which pixels are cut out, as a mask along every axis."""

    def places(self, rows: slice, num_images: int) -> Float[Tensor, "n ..."]:
        """The points of these views in the form of grid_sample, all of an image stacked along the first spatial axis."""
        dims = len(self.size)
        num_views = (rows.stop - rows.start) // num_images
        planes = torch.empty((num_images, dims, num_views, *self.size), device=self.gain.device)
        field = None
        if self.bends is not None:
            mode = "bicubic" if dims == 2 else "trilinear"
            field = F.interpolate(self.bends[rows], size=self.size, mode=mode, align_corners=True)
        for d, terms in enumerate(self.points):
            coordinate = planes[:, dims - 1 - d]
            wide = [term[rows].view(num_images, num_views, *term.shape[1:]) for term in terms]
            if len(wide) == 1:
                coordinate.copy_(wide[0])
            else:
                torch.add(wide[0].expand(coordinate.shape), wide[1], out=coordinate)
                for term in wide[2:]:
                    coordinate.add_(term)
            if field is not None:
                coordinate.add_((field[:, d] * self.shown[rows, d].view(-1, *[1] * dims)).view(coordinate.shape))
        return planes.view(num_images, dims, num_views * self.size[0], *self.size[1:]).movedim(1, -1)

    def masks(self, masks: Shaped[Tensor, "n 1 *canvas"], places: Float[Tensor, "n *places"]) -> Int64[Tensor, "m *size"]:
        """Masks `(n, 1, …)` moved like their images: the nearest voxel, 0 beyond the image."""
        moved = F.grid_sample(masks.float(), places, mode="nearest", padding_mode="zeros", align_corners=False)
        return moved.view(-1, *self.size).long()

    def images(
        self, numbers: Float[Tensor, "n 1 *canvas"], places: Float[Tensor, "n *places"], rows: slice
    ) -> Float[Tensor, "m c *size"]:
        """Turn numbers `(n, 1, …)`, zero beyond the image, into views in [0, 1], or up to the brightest value that light may
        produce.
        """
        images = F.grid_sample(numbers, places, mode="bilinear", padding_mode="zeros", align_corners=False)
        images = images.view(-1, 1, *self.size)
        gain, offset = (each[rows].view(*each[rows].shape, *[1] * len(self.size)) for each in (self.gain, self.offset))
        images = images.mul_(gain) if gain.shape[1] == 1 else images * gain
        images.add_(offset).clamp_(0, 1)
        if self.exponent is not None:
            # a power at a third of its cost; the logarithm of 0 would be slow
            exponent = self.exponent[rows].view(-1, *[1] * (images.ndim - 1))
            images = images.clamp_min_(1e-6).log_().mul_(exponent).exp_()
        if self.light is not None:
            images = self.light(images, rows)
        if self.blur is not None:
            images = self.blur(images, rows) if self.blurred is None else _of_some(images, self.blurred, rows, self.blur)
        if self.coarsening is not None:
            images = _of_some(images, self.coarse, rows, self.coarsening)
        if self.noise is not None:
            self.noise.add_to(images, rows)
        if self.boxes is not None:
            inside = self.boxes[0][rows]
            for box in self.boxes[1:]:
                inside = inside & box[rows]
            images = images * ~inside
        return images


@dataclass(frozen=True)
class Light:
    """Contrast about the mean of a view's channel, then brightness: mean + factor × (grey value − mean) + shift, in [0, `top`].

    Source: Chaitanya et al., arXiv 2006.10511, §4 (intensity transformations), as in the authors' code.
    """

    factor: Float[Tensor, "m"]
    shift: Float[Tensor, "m"]
    top: float

    def __call__(self, images: Float[Tensor, "k c *size"], rows: slice) -> Float[Tensor, "k c *size"]:
        """Change the light of these `rows` of all images."""
        shape = (-1, *[1] * (images.ndim - 1))
        factor, shift = self.factor[rows].view(shape), self.shift[rows].view(shape)
        mean = images.flatten(2).mean(2).view(*images.shape[:2], *[1] * (images.ndim - 2))
        return (images * factor).add_(mean * (1 - factor) + shift).clamp_(0, self.top)


@dataclass(frozen=True)
class Noise:
    """White noise with its own strength for each view: a section of a fixed bank from a random place."""

    bank: Float[Tensor, "..."]
    start: Int64[Tensor, "m"]
    strength: Float[Tensor, "m"]
    top: float = 1.0

    def add_to(self, images: Float[Tensor, "m c *size"], rows: slice) -> None:
        """In place; the images stay in [0, `top`]."""
        amount = math.prod(images.shape[1:])
        start, strength = self.start[rows], self.strength[rows]
        if images.device.type == "cpu":
            for image, alpha, first in zip(images, strength.tolist(), start.tolist(), strict=True):
                image.add_(self.bank[first : first + amount].view_as(image), alpha=alpha)
        else:
            noise = self.bank[start[:, None] + torch.arange(amount, device=start.device)].view_as(images)
            images.addcmul_(noise, strength.view(-1, *[1] * (images.ndim - 1)))
        images.clamp_(0, self.top)


@dataclass(frozen=True)
class Coarsening:
    """A lower resolution: a share of the pixels along each axis by nearest neighbour, then linear interpolation.

    Source: Isensee et al., nnU-Net, arXiv 1904.08128, supplementary note 4 (simulation of low resolution).
    """

    factor: Float[Tensor, "m"]

    def __call__(self, images: Float[Tensor, "k c *size"], rows: slice) -> Float[Tensor, "k c *size"]:
        """These `rows` of all images, coarser."""
        for d in range(images.ndim - 2):
            images = coarse(images, self.factor[rows], d)
        return images


def coarse(images: Float[Tensor, "m c ..."], factor: Float[Tensor, "m"], dim: int) -> Float[Tensor, "m c ..."]:
    """Along one spatial axis, `factor` times the pixels, with linear interpolation between them."""
    size = images.shape[2 + dim]
    shape = [len(images), *[1] * (images.ndim - 1)]
    shape[2 + dim] = size
    few = (factor * size).round().clamp_min(1)[:, None]
    at = ((torch.arange(size, device=images.device) + 0.5) / size * few - 0.5).clamp_min(0)
    first = torch.minimum(at.floor(), few - 1)
    places = [((number + 0.5) / few * size).long().clamp(max=size - 1) for number in (first, torch.minimum(first + 1, few - 1))]
    one, other = (images.gather(2 + dim, place.view(shape).expand_as(images)) for place in places)
    return one.lerp(other, (at - first).clamp(max=1).view(shape))


def _of_some(images: Tensor, chosen: np.ndarray, rows: slice, change: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Images, which are `rows` of all, with the chosen ones among them changed in place."""
    start, stop = np.searchsorted(chosen, [rows.start, rows.stop]).tolist()
    if start == stop:
        return images
    some = torch.from_numpy(chosen[start:stop] - rows.start).to(images.device)
    return images.index_copy_(0, some, change(images[some], slice(start, stop)))
