"""Weights of vision transformers under the names of others: what DINOv2, DINOv3 and timm release, and nnU-Net's Primus.

Primus has a layer each for queries, keys and values. It turns channels in pairs (0, 1), (2, 3), … where the network here turns
the halves of a head against each other, and it reads the axes of an image as (k, j, i).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from medssl.artefacts.encoder import ExportedContract
from medssl.core.errors import StudyError
from medssl.nn.positions import resampled

OF_TRANSFORMERS = (
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(encoder\.)?layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.attention\.attention\.([qkv])\w+\.", r".attn.\1_proj."),
    (r"\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
"""Patterns of names in files for the library transformers, of DINOv2 and DINOv3, each with the name here."""
REVERSED = (2, 1, 0)
"""The axes (i, j, k) as nnU-Net reads them; it is its own inverse."""


def of_dino(
    network: Any, found: dict[str, Tensor], exported: ExportedContract | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under this network's names: names of registers, positions of another grid, tensors for training alone.

    What cannot be turned is left as it is, so that it has no partner in the network. `exported`: see `Backbone.of_elsewhere`.

    Raises:
        StudyError: the file is one of Primus.
    """
    if any(name.startswith("eva.") for name in found):
        raise StudyError(
            "the file holds nnU-Net's Primus (names that begin with eva.), and the backbone is a ViT of another form. "
            "For OpenMind's Primus-M set vit: {form: primus, size: medium, layer_scale: 0.1, positions: both, "
            "learned_grid: [20, 20, 20]}."
        )
    found, changes = _of_transformers(dict(found))
    for name in ("register_tokens", "storage_tokens"):
        if name in found and "reg_token" not in found:
            found["reg_token"] = found.pop(name)
            changes.append(f"{name} are the registers")
    for name in [name for name in found if name.endswith("attn.qkv.bias_mask")]:
        bias, mask = name.removesuffix("_mask"), found[name]
        if bias not in found or found[bias].shape != mask.shape:
            continue
        del found[name]
        found[bias] = torch.where(mask == 0, torch.zeros_like(found[bias]), found[bias])
    for name in ("mask_token", "rope_embed.periods"):
        if found.pop(name, None) is not None:
            changes.append(f"{name} is dropped")
    for name in list(found):  # DINOv2's gated perceptron, and the factors of timm's rotary networks
        own = re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."))
        found[own] = found.pop(name)
    changes += _join_biases(network, found)
    cls, positions = found.get("cls_token"), found.get("pos_embed")
    if _are_positions(positions, network) and cls is not None and cls.shape == network.cls_token.shape:
        grid = None if exported is None else exported.backbone_options.get("learned_grid")
        found["cls_token"], found["pos_embed"], of_positions = _own_positions(network, cls, positions, grid)
        changes += of_positions
    return found, changes


def _join_biases(network: Any, found: dict[str, Tensor]) -> list[str]:
    """Biases of queries, keys and values as one, in place. timm has those of queries and values, or none if all are 0."""
    for layer in [name.removesuffix("q_bias") for name in found if name.endswith(".attn.q_bias")]:
        _join(found, f"{layer}qkv.bias", (f"{layer}q_bias", f"{layer}k_bias", f"{layer}v_bias"))
    if any(name.endswith(("_bias", "qkv.bias", "qkv.bias_mask")) for name in found):
        return []
    names = [name for name in network.state_dict() if name.endswith("attn.qkv.bias")]
    weights = {name: found.get(name.removesuffix("bias") + "weight") for name in names}
    if not all(weight is not None and weight.ndim == 2 for weight in weights.values()):
        return []
    found |= {name: weight.new_zeros(len(weight)) for name, weight in weights.items() if weight is not None}
    return ["it has no biases of queries, keys and values: they are 0"]


def _join(found: dict[str, Tensor], whole: str, names: tuple[str, str, str]) -> None:
    """Queries, keys and values under `names` as one tensor, in place; a bias of keys may be missing, and is 0 then."""
    q, k, v = (found.get(name) for name in names)
    if q is not None and k is None and q.ndim == 1:
        k = torch.zeros_like(q)
    if q is None or k is None or v is None or not q.shape == k.shape == v.shape or whole in found:
        return
    for name in names:
        found.pop(name, None)
    found[whole] = torch.cat([q, k, v])


def _of_transformers(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Files of DINOv2 and DINOv3 for the library transformers under their authors' names: a layer each for queries, keys and
    values there; DINOv3's keys have no bias.
    """
    if not any(name.startswith("embeddings.patch_embeddings.") for name in found):
        return found, []
    named = {}
    for name, tensor in found.items():
        for pattern, own in OF_TRANSFORMERS:
            name = re.sub(pattern, own, name)
        named[name] = tensor
    for layer in [name.removesuffix("q_proj.weight") for name in named if name.endswith(".q_proj.weight")]:
        for what in ("weight", "bias"):
            q, k, v = (f"{layer}{part}_proj.{what}" for part in "qkv")
            _join(named, f"{layer}qkv.{what}", (q, k, v))
    return named, ["names of the library transformers"]


def _are_positions(positions: Tensor | None, network: Any) -> TypeGuard[Tensor]:
    """Whether they can be those of a network that learns some: `(1, places, width)`."""
    if network.learned_grid is None or positions is None or positions.ndim != 3:
        return False
    return positions.shape[::2] == network.pos_embed.shape[::2]


def _own_positions(
    network: Any, cls: Tensor, positions: Tensor, stated: Sequence[int] | None
) -> tuple[Tensor, Tensor, list[str]]:
    """Class token, and positions for this network's grid; `stated`: see `_layout`."""
    if (layout := _layout(network, positions.shape[1], stated)) is None:
        return cls, positions, []
    of_cls, grid = layout
    before, places = positions[:, :of_cls], positions[:, of_cls:]
    places, changes = _on_own_grid(network, places, grid, stated)
    if of_cls and network.reg_token is not None:  # then the class token has no position here: it is part of the token
        cls, before = cls + before, before[:, :0]
        changes.append("the position of the class token added to it")
    return cls, torch.cat([before, places], 1), changes


def _layout(network: Any, count: int, stated: Sequence[int] | None) -> tuple[int, tuple[int, ...]] | None:
    """How many of a file's positions are the class token's, and the grid of the others; None if no grid has as many.

    The grid is the one that the contract beside the file states. Else its sides are equal, as in all public files. Else it is the
    network's own.
    """
    own, dims = tuple(network.learned_grid), network.spatial_dims
    has_class = network.pos_embed.shape[1] > math.prod(own)
    counts = (0,) if network.cls_token is None else (1,) if has_class else (1, 0)
    for sides in (stated, None, own):
        for of_cls in counts:
            places = max(0, count - of_cls)
            grid = tuple(sides or (_side(places, dims),) * dims)
            if places and len(grid) == dims and math.prod(grid) == places:
                return of_cls, grid
    return None


def _on_own_grid(network: Any, places: Tensor, grid: tuple[int, ...], stated: Sequence[int] | None) -> tuple[Tensor, list[str]]:
    """Positions of a grid for this network's grid, and what to say of it."""
    own, known = tuple(network.learned_grid), stated is not None and tuple(stated) == grid
    if grid != own:
        assumed = "" if known else ", equal sides assumed"
        return resampled(places, grid, own), [f"positions resampled from {list(grid)} patches to {list(own)}{assumed}"]
    return places, [] if known or len(set(own)) == 1 else [f"positions assumed to be those of {list(own)} patches"]


def _side(places: int, dims: int) -> int:
    return round(places ** (1 / dims))


def of_primus(
    network: Any, found: dict[str, Tensor], exported: ExportedContract | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of nnU-Net's Primus, as OpenMind released them, under this network's names and in its order of axes.

    What cannot be turned is left as it is, so that it has no partner in the network. `exported`: see `Backbone.of_elsewhere`.
    """
    if not any(name.startswith("eva.") for name in found):
        return found, []
    heads, made, left = _heads(network), {}, set[str]()
    for name, tensor in found.items():
        own = _renamed(name)
        if own is None:
            left.add(name.split(".")[0])
        elif own == "pos_embed" and network.learned_grid is None:
            left.add(name)
        else:
            made[own] = _turned(tensor)
    width = network.channels[0]
    for layer in (f"blocks.{block}.attn." for block in range(len(network.blocks))):
        q, k, v = (f"{layer}{part}_proj.weight" for part in "qkv")
        for name, shape in ((q, (width, width)), (k, (width, width)), (f"{layer}q_bias", (width,))):
            if name in made and made[name].shape == shape:
                made[name] = _halves(made[name], heads)
        _join(made, f"{layer}qkv.weight", (q, k, v))
    changes = ["names, axes (k, j, i) and pairs of channels are nnU-Net's"]
    positions = made.get("pos_embed")
    if _are_positions(positions, network):
        stated = None if exported is None else [side // network.patch for side in exported.input_size]
        if (layout := _layout(network, positions.shape[1], stated)) is not None:
            _, grid = layout
            positions = positions.unflatten(1, grid[::-1]).permute(0, 3, 2, 1, 4).flatten(1, 3)
            made["pos_embed"], of_grid = _on_own_grid(network, positions, grid, stated)
            changes += of_grid
    return made, changes + [f"{name} is dropped" for name in sorted(left)]


def to_primus(network: Any, size: tuple[int, ...]) -> dict[str, Tensor]:
    """The network's tensors for nnU-Net's Primus on images of `size` (i, j, k); positions are 0 if it learned none."""
    heads, made = _heads(network), {}
    for name, tensor in network.state_dict().items():
        if name.endswith("attn.qkv.weight"):
            q, k, v = tensor.chunk(3)
            for part, weight in (("q", _pairs(q, heads)), ("k", _pairs(k, heads)), ("v", v)):
                made[_released(name.replace("qkv", f"{part}_proj"))] = weight.contiguous()
        elif name.endswith("attn.q_bias"):
            made[_released(name)] = _pairs(tensor, heads)
        elif name != "pos_embed":
            made[_released(name)] = _turned(tensor)
    grid = tuple(side // network.patch for side in size)
    positions = torch.zeros(1, math.prod(grid), network.channels[0])
    if network.learned_grid is not None:
        positions = resampled(network.pos_embed.detach(), network.learned_grid, grid)
    made["eva.pos_embed"] = positions.unflatten(1, grid).permute(0, 3, 2, 1, 4).flatten(1, 3).contiguous()
    return made


NAMES = (
    (r"^down_projection\.", "patch_embed."),
    (r"^eva\.(blocks|norm|pos_embed)", r"\1"),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
    (r"attn\.(q|v)_proj\.bias$", r"attn.\1_bias"),
)
"""A name of Primus as one of this network, in turn."""
BACK = (
    (r"attn\.(q|v)_bias$", r"attn.\1_proj.bias"),
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
    (r"^(blocks|norm|pos_embed)", r"eva.\1"),
    (r"^patch_embed\.", "down_projection."),
)


def _renamed(name: str) -> str | None:
    """The network's name of a tensor of Primus; None if it has none."""
    if not name.startswith(("down_projection.", "eva.")):
        return None
    for pattern, own in NAMES:
        name = re.sub(pattern, own, name)
    return name


def _released(name: str) -> str:
    for pattern, theirs in BACK:
        name = re.sub(pattern, theirs, name)
    return name


def _heads(network: Any) -> int:
    return network.channels[0] // network.of_head


def _turned(tensor: Tensor) -> Tensor:
    """Kernels (out, in, i, j, k) as (out, in, k, j, i), or the other way round."""
    return tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.ndim == 5 else tensor


def _pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys, halves of a head along axes (i, j, k), as pairs along (k, j, i)."""
    split = rows.view(heads, 2, 3, -1, *rows.shape[1:])[:, :, list(REVERSED)]
    return split.movedim(1, 3).reshape(rows.shape).contiguous()


def _halves(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `_pairs`."""
    split = rows.view(heads, 3, -1, 2, *rows.shape[1:])[:, list(REVERSED)]
    return split.movedim(3, 1).reshape(rows.shape).contiguous()
