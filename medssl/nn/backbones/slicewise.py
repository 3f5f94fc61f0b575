"""A 2-D network on the slices of a volume, and a transformer between the slices."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from medssl.core.bounds import Count, Fold
from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone, build
from medssl.nn.slice_attention import VolumeEncoder

TITLE = "slices and a transformer"
SOURCE = "Nguyen et al., AAAI 2023, arXiv 2212.01893"
USES = {"slices": "backbone"}
"""Options that name another plug-in, and its kind."""
CUTS_SLICES = True
"""A volume is seen as slices along its last axis."""
LIFTS = ["volume"]
"""Words of `finetune.<task>.encoder` that put the pre-trained network inside this one."""
WITHOUT_PART = {"places": {"encoder": "slices"}, "spatial_dims": 3, "required": False}
"""How a pre-trained network without a transformer is used inside (`Part` of artefacts/encoder.py); the transformer starts at
random.
"""


class Slicewise(Backbone):
    """Any 2-D backbone (`slices`, with `slices_options`) along the last axis of a volume: its maps, and one more.

    The deepest map is the volume's: the transformer's embedding of each slice, `(n, width, 1, 1, k)`. Its mean is the volume
    embedding, for classification; a decoder joins it to the deepest slice map. `strides` are those in the plane.

    Options:
        slices: the 2-D backbone for each slice.
        slices_options: its options.
        width: of the slice embeddings that the transformer takes.
        layers: of the transformer between slices.
        heads: of each of its layers; they divide `width`.
        feed_forward: width of the hidden layer after each attention.
        dropout: share of the transformer's activations that are set to 0 in training.
        positions: whether slices carry their relative place in the volume.

    Source: Nguyen et al., AAAI 2023, arXiv 2212.01893.
    """

    cuts_slices = CUTS_SLICES

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        slices: str = "resnet18",
        slices_options: dict[str, Any] | None = None,
        width: Count = 640,
        layers: Count = 4,
        heads: Count = 8,
        feed_forward: Count = 720,
        dropout: Fold = 0.0,
        positions: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims != 3:  # also refuses itself as the inner network, as the inner one has two
            raise StudyError(
                "backbone 'slicewise' makes a 3-D network of a 2-D one. Set slices: resnet18; and in a run spatial_dims: 3, in a "
                "task three numbers in size."
            )
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.slices = build(slices, slices_options or {}, 2, in_channels)
        options: dict[str, Any] = {"feed_forward": feed_forward, "dropout": dropout, "positions": positions}
        self.volume = VolumeEncoder(self.slices.channels, width=width, layers=layers, heads=heads, **options)
        self.channels = (*self.slices.channels, width)
        self.strides = (*self.slices.strides, self.slices.strides[-1])
        self.one_resolution = self.slices.one_resolution
        self.skips = (*self.slices.skips, len(self.slices.channels)) if self.slices.skips else ()
        self.stage_names = (*(f"slices.{name}" for name in self.slices.stage_names), "volume")

    def forward(self, x: Float[Tensor, "n c *size"], depth: int | None = None) -> list[Float[Tensor, "n _ ..."]]:
        """Volumes `(n, c, i, j, k)` to the slice maps `(n, channels, i / stride, j / stride, k)` and the volume's map."""
        self.check(x)
        count, flat = x.shape[4], len(self.slices.channels)
        maps = self.slices(x.movedim(4, 1).flatten(0, 1), None if depth is None else min(depth, flat))
        solid = [m.unflatten(0, (-1, count)).movedim(1, 4) for m in maps]
        if depth is not None and depth <= flat:
            return solid
        embedded = self.volume(self.volume.embed(maps).unflatten(0, (-1, count)))
        return [*solid, embedded.movedim(1, 2)[:, :, None, None]]

    def part_of(self, parameter: str) -> int | None:
        inner = parameter.removeprefix("slices.")
        return super().part_of(parameter) if inner == parameter else self.slices.part_of(inner)
