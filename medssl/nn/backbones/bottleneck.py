"""A backbone and a narrow linear code after its deepest map."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from medssl.core.bounds import Count
from medssl.nn.backbone import Backbone, build

TITLE = "narrow code"
USES = {"of": "backbone"}
"""Options that name another plug-in, and its kind."""
LIFTS = ["common", "salient"]
"""Words of `finetune.<task>.encoder` that put the pre-trained network inside this one."""


class Bottleneck(Backbone):
    """Any backbone (`of`, with `of_options`), and one more map: a linear code of `width` channels at each place.

    The mean of that map is the linear code of the backbone's mean features, as a method with a narrow head trains it.

    Options:
        of: the backbone before the code.
        of_options: its options.
        width: channels of the code.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        of: str = "resnet18",
        of_options: dict[str, Any] | None = None,
        width: Count = 32,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.inner = build(of, of_options or {}, spatial_dims, in_channels)
        self.code = nn.Linear(self.inner.channels[-1], width)
        self.channels = (*self.inner.channels, width)
        self.strides = (*self.inner.strides, self.inner.strides[-1])
        self.stage_names = (*(f"inner.{name}" for name in self.inner.stage_names), "code")

    def forward(self, x: Float[Tensor, "n c *size"], depth: int | None = None) -> list[Float[Tensor, "n _ ..."]]:
        flat = len(self.inner.channels)
        maps: list[Tensor] = self.inner(x, None if depth is None else min(depth, flat))
        if depth is not None and depth <= flat:
            return maps
        return [*maps, self.code(maps[-1].movedim(1, -1)).movedim(-1, 1)]

    def part_of(self, parameter: str) -> int | None:
        inner = parameter.removeprefix("inner.")
        return super().part_of(parameter) if inner == parameter else self.inner.part_of(inner)
