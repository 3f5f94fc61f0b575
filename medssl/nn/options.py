"""Options of training, with and without labels: how views vary, and the engine's own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medssl.core.bounds import Fold, Fraction, Part, Positive, Whole
from medssl.core.options import Modality, Options

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DataPlace = Literal["auto", "device", "loader"]
Fit = Literal["stretch", "crop"]
Unit = Literal["voxels", "mm"]


class Variation(Options):
    """How a view may vary, wherever it lies in the image."""

    flip: dict[Modality, list[Literal["i", "j", "k"]]] = {}
    """Axes that may be mirrored, by modality (`{CT: [i]}`); only where anatomy allows."""
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest rotation in the plane of the slice, in either direction."""
    elastic_frac: Fold = 0.0
    """Largest elastic displacement, as a share of the side."""
    window_jitter: Fold = 0.2
    """Largest shift of the window's ends, as a share of its width."""
    contrast: Fold = 0.0
    """Largest change of the factor that stretches grey values about the mean of a view; 0.3 is 0.7 to 1.3."""
    brightness: Fold = 0.0
    """Largest number that is added to grey values after that, in either direction, as a share of the window."""
    brightest: Annotated[float, Field(ge=1)] = 1.0
    """Largest grey value that contrast and brightness may produce, where the window ends at 1."""
    gamma: Annotated[float, Field(ge=1)] = 1.5
    """Largest exponent of the grey curve; the smallest is its inverse."""
    gamma_prob: Part = 1.0
    """How often the grey curve is bent."""
    blur_prob: Part = 0.5
    """How often a view is blurred."""
    blur_sigma_frac: Fold = 0.01
    """Largest standard deviation of the blur, as a share of the side."""
    noise: Fold = 0.05
    """Largest standard deviation of Gaussian noise, as a share of the window."""
    noise_prob: Part = 1.0
    """How often noise is added."""
    low_resolution_prob: Part = 0.0
    """How often a view is reduced to fewer pixels and enlarged again."""
    low_resolution: Fraction = 0.5
    """Smallest share of the pixels of a side that remain then."""
    cutout_prob: Part = 0.0
    """How often a rectangle is cut out of a view."""
    cutout_frac: Fraction = 0.25
    """Largest share of the view that is cut out."""


class ViewOptions(Variation):
    """How two views of one image may differ, each a part of it."""

    fit: Fit = "stretch"
    """How an image is fitted to the size of a view, before parts of it are shown: its sides are stretched, or it is cropped or
    padded about its middle, pixel by pixel.
    """
    unit: Unit = "voxels"
    """The unit in which a crop has the proportions of its view. With `mm` it shows the same length along every axis, whatever the
    spacing; an axis that is shorter is shown whole, and the rest is empty. In 3-D patches are read in these proportions too.
    """
    scale: tuple[Fraction, Fraction] = (0.2, 1.0)
    """Smallest and largest share of the image's area (volume) that a crop shows."""
    ratio: Annotated[float, Field(ge=1)] = 1.33
    """Largest ratio of the sides of a crop."""

    @model_validator(mode="after")
    def _scale_order(self) -> ViewOptions:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"views.scale {list(self.scale)}: the first share must not be above the second")
        return self

    @model_validator(mode="after")
    def _one_unit(self) -> ViewOptions:
        if self.unit == "mm" and self.fit == "crop":
            raise ValueError("views.fit: crop shows pixels as they are, so views.unit: mm does not apply. Set fit: stretch")
        return self

    def unmoved(self) -> ViewOptions:
        """Only intensities vary: every view shows the whole image."""
        return self.model_copy(update={"scale": (1.0, 1.0), "ratio": 1.0, "rotation_deg": 0.0, "elastic_frac": 0.0, "flip": {}})

    @classmethod
    def still(cls, fit: Fit = "stretch") -> ViewOptions:
        """Nothing varies: the whole image, unchanged."""
        return cls(fit=fit, scale=(1.0, 1.0), ratio=1.0, rotation_deg=0, window_jitter=0, gamma=1, blur_prob=0, noise=0)


class AugmentOptions(Variation):
    """How an image or patch may vary while it keeps its label: all of it stays in the view, except its borders."""

    zoom: tuple[Positive, Positive] = (0.87, 1.15)
    """Smallest and largest side of what is shown, as a share of the side of the image or patch."""
    shift_frac: Fold = 0.08
    """Largest shift along each axis, as a share of the side."""
    gamma: Annotated[float, Field(ge=1)] = 1.0
    """Largest exponent of the grey curve; the smallest is its inverse."""
    blur_prob: Part = 0.0
    """How often a view is blurred."""
    noise: Fold = 0.0
    """Largest standard deviation of Gaussian noise, as a share of the window."""

    @model_validator(mode="after")
    def _zoom_order(self) -> AugmentOptions:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"augment.zoom {list(self.zoom)}: the first share must not be above the second")
        return self

    @classmethod
    def still(cls) -> AugmentOptions:
        """Nothing varies."""
        return cls(zoom=(1.0, 1.0), shift_frac=0, rotation_deg=0, window_jitter=0)


class EngineOptions(Options):
    """How a network is computed, in pre-training and in fine-tuning."""

    clip_norm: Positive | None = None
    """Largest norm of the gradient; null turns clipping off."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep a running mean of the weights with this decay, and write the mean."""
    precision: Precision = "auto"
    """Arithmetic of the network; `auto` takes bf16 on a GPU and fp32 on a processor."""
    channels_last: bool = True
    """Memory layout of the network's tensors."""
    compile: Literal[False, True, "reduce-overhead"] = False
    """Compile the network with torch.compile; `reduce-overhead` also records its kernels on a GPU, which helps small networks."""


class PlaceOptions(Options):
    """Where a network runs and its images are stored; on one kind of device none of it changes results."""

    deterministic: bool = True
    """Use deterministic algorithms on a GPU, so that equal runs give equal bits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; `auto` takes a GPU if there is one."""
    data: DataPlace = "auto"
    """Where images are stored: all on the device; or on disk, with a loader. `auto` takes a GPU if it has room for them."""
    workers: Whole = 0
    """Processes that read ahead for a loader."""
    checkpoint_every_s: Positive = 60.0
    """Seconds between saved states."""
