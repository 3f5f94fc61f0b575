"""The interface of a backbone, and how one is built from its name."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medssl.artefacts.encoder import ExportedContract
from medssl.core import plugins
from medssl.core.errors import StudyError


class Backbone(nn.Module):
    """A network that turns images `(n, in_channels, *size)` into maps from shallow to deep.

    Map `m` has shape `(n, channels[m], *size / strides[m])`; a last one of a single place stands for the whole image, such as a
    class token. State-dict names are those of the public network of that name.
    """

    spatial_dims: int
    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stage_names: tuple[str, ...] = ()
    """For each map the part that computes it from the previous map, if there is one; what precedes the first is the stem."""
    branch_ends: tuple[str, ...] = ()
    """For each residual branch, from the images on, the part whose output is added to the shortcut; empty without branches."""
    multiple: int = 1
    """Sizes of images are multiples of this."""
    skips: tuple[int, ...] = ()
    """The maps that a decoder joins, the deepest last; empty: all."""
    one_resolution: bool = False
    """Whether all maps have the same stride."""
    decoder_names: tuple[str, ...] = ()
    """The parts of its own decoder, if it has one."""
    cuts_slices: bool = False
    """Whether a volume is seen as slices along its last axis, each by a 2-D network; `CUTS_SLICES` of its file."""
    monai: str = ""
    """The expression that builds MONAI's network with the same tensors, if there is one."""
    is_unet: bool = False
    """Whether it is the encoder of a U-Net, so that a decoder trained with it is worth keeping."""

    def forward(self, x: Float[Tensor, "n c *size"], depth: int | None = None) -> list[Float[Tensor, "n _ ..."]]:
        """Images to maps; with a depth only the first `depth` maps, and only the work for them."""
        raise NotImplementedError

    def part_of(self, parameter: str) -> int | None:
        """The position of a parameter, from the images on: 0 is the stem, `m + 1` the part that computes map `m`, None the
        decoder.
        """
        if parameter.startswith(self.decoder_names):
            return None
        return next((number + 1 for number, name in enumerate(self.stage_names) if parameter.startswith(name + ".")), 0)

    def draw(self, seed: int, step: int) -> None:
        """Draw what all images of a training step share, as a function of seed and step alone. By default nothing."""

    def of_elsewhere(
        self, found: dict[str, Tensor], exported: ExportedContract | None = None
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors that another program released for this network, under this network's names and in its order of axes, and what
        was changed, in words. `exported`: the contract beside them, if `medssl export` wrote them.
        """
        return found, []

    def check(self, x: Float[Tensor, "..."]) -> None:
        """Refuse an input of the wrong rank or channel count.

        Raises:
            StudyError: `x` is not `(n, in_channels, *size)` with `spatial_dims` sizes.
        """
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise StudyError(
                f"{type(self).__name__} takes (n, {self.in_channels}, {', '.join('hwd'[: self.spatial_dims])}), got "
                f"{tuple(x.shape)}. Set spatial_dims and the windows (one channel each) to fit the images."
            )


def build(name: str, options: dict[str, Any], spatial_dims: int, in_channels: int) -> Backbone:
    """The backbone of a file in `nn/backbones`, with fresh weights from torch's generator.

    Raises:
        StudyError: no such backbone, or not in this number of dimensions.
    """
    if spatial_dims not in (2, 3):
        raise StudyError(f"backbone {name!r}: spatial_dims is {spatial_dims}; expected 2 or 3.")
    plugin = plugins.find("backbone", name)
    built: Backbone = plugin.load()(spatial_dims, in_channels, **plugin.check(options))
    return built


def backbones_in(network: nn.Module) -> list[Backbone]:
    """All backbones that a network has."""
    return [module for module in network.modules() if isinstance(module, Backbone)]


def call(name: str, arguments: dict[str, Any]) -> str:
    """The Python source of a call with keyword arguments."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def pooled(maps: list[Float[Tensor, "n _ ..."]]) -> Float[Tensor, "n d"]:
    """The last map averaged over space, `(n, channels[-1])`, in at least float32 whatever the precision of the network."""
    return wide(maps[-1]).flatten(2).mean(2)


def last_pooled(maps: list[Float[Tensor, "n _ ..."]], blocks: int) -> Float[Tensor, "n d"]:
    """The last `blocks` maps, each averaged over space as in `pooled`, side by side: those of more blocks have more channels.

    Raises:
        StudyError: there are fewer maps.
    """
    if blocks > len(maps):
        raise StudyError(f"blocks is {blocks}, and the backbone has {len(maps)}. Lower finetune.<task>.options.blocks.")
    return torch.cat([pooled(maps[: len(maps) - before]) for before in reversed(range(blocks))], 1)


def wide(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision to float32; float32 and float64 unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
