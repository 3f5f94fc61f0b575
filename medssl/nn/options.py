"""Options of the views that a network is trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medssl.core.bounds import Fold, Fraction, Part
from medssl.core.options import Modality, Options


class ViewOptions(Options):
    """What may vary between two views of one image."""

    scale: tuple[Fraction, Fraction] = (0.2, 1.0)
    """Least and largest share of the image's area (volume) that a crop shows."""
    ratio: Annotated[float, Field(ge=1)] = 1.33
    """Largest ratio of the sides of a crop."""
    flip: dict[Modality, list[Literal["i", "j", "k"]]] = {}
    """Axes that may be mirrored, by modality (`{CT: [i]}`); only where anatomy allows."""
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest rotation in the plane of the slice, either way."""
    elastic_frac: Fold = 0.0
    """Largest elastic displacement, as a share of the side."""
    window_jitter: Fold = 0.2
    """Largest shift of the window's ends, as a share of its width."""
    gamma: Annotated[float, Field(ge=1)] = 1.5
    """Largest exponent of the grey curve; the smallest is its inverse."""
    blur_prob: Part = 0.5
    """How often a view is blurred."""
    blur_sigma_frac: Fold = 0.01
    """Largest standard deviation of the blur, as a share of the side."""
    noise: Fold = 0.05
    """Largest standard deviation of Gaussian noise, as a share of the window."""
    cutout_prob: Part = 0.0
    """How often a rectangle is cut out of a view."""
    cutout_frac: Fraction = 0.25
    """Largest share of the view that is cut out."""

    @model_validator(mode="after")
    def _scale_order(self) -> ViewOptions:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"views.scale {list(self.scale)}: the first share must not be above the second")
        return self

    def unmoved(self) -> ViewOptions:
        """Only intensities vary: every view shows the whole image."""
        return self.model_copy(update={"scale": (1.0, 1.0), "ratio": 1.0, "rotation_deg": 0.0, "elastic_frac": 0.0, "flip": {}})

    @classmethod
    def still(cls) -> ViewOptions:
        """Nothing varies: the whole image, as it is."""
        return cls(scale=(1.0, 1.0), ratio=1.0, rotation_deg=0, window_jitter=0, gamma=1, blur_prob=0, noise=0)
