"""Weights of vision transformers under the names of others: what DINOv2, DINOv3 and timm release, and nnU-Net's Primus.

Primus has a layer each for queries, keys and values. It turns channels in pairs (0, 1), (2, 3), … where the network here turns
the halves of a head against each other, and it reads the axes of an image as (k, j, i).
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.positions import resampled

OF_TRANSFORMERS = (
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
"""Patterns of names in files for the library transformers, each with the name here."""
REVERSED = (2, 1, 0)
"""The axes (i, j, k) as nnU-Net reads them; it is its own inverse."""


def of_dino(network: Any, found: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under this network's names: names of registers, positions of another grid, tensors for training alone.

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
        if name in found:
            found["reg_token"] = found.pop(name)
            changes.append(f"{name} are the registers")
    for name in [name for name in found if name.endswith("attn.qkv.bias_mask")]:
        bias, mask = name.removesuffix("_mask"), found.pop(name)
        found[bias] = torch.where(mask == 0, torch.zeros_like(found[bias]), found[bias])
    for name in ("mask_token", "rope_embed.periods"):
        if found.pop(name, None) is not None:
            changes.append(f"{name} is left")
    for name in list(found):  # DINOv2's gated perceptron, and the factors of timm's rotary networks
        own = re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."))
        found[own] = found.pop(name)
    if network.learned_grid is not None and "pos_embed" in found and found["pos_embed"].shape != network.pos_embed.shape:
        found["cls_token"], found["pos_embed"], of_positions = _own_positions(network, found["cls_token"], found["pos_embed"])
        changes += of_positions
    return found, changes


def _of_transformers(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """DINOv3's files for the library transformers under its authors' names: a layer each for queries, keys and values there,
    keys without a bias.
    """
    if "embeddings.patch_embeddings.weight" not in found:
        return found, []
    named = {}
    for name, tensor in found.items():
        for pattern, own in OF_TRANSFORMERS:
            name = re.sub(pattern, own, name)
        named[name] = tensor
    for layer in [name.removesuffix("q_proj.weight") for name in named if name.endswith(".q_proj.weight")]:
        for what in ("weight", "bias"):
            parts = [named.pop(f"{layer}{part}_proj.{what}", None) for part in "qkv"]
            if parts[0] is not None:
                named[f"{layer}qkv.{what}"] = torch.cat([torch.zeros_like(parts[0]) if part is None else part for part in parts])
    return named, ["names of the library transformers"]


def _own_positions(network: Any, cls: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Class token, and positions for this network's grid; those of a file are for a square one."""
    side, dims = _side(positions.shape[1] - 1, network.spatial_dims), network.spatial_dims
    of_cls = int(side**dims == positions.shape[1] - 1)
    before, places = positions[:, :of_cls], positions[:, of_cls:]
    places, changes = _own_grid(network, places)
    if of_cls and network.reg_token is not None:  # then the class token has no position here: it is part of the token
        cls, before = cls + before, before[:, :0]
        changes.append("the position of the class token added to it")
    return cls, torch.cat([before, places], 1), changes


def _own_grid(network: Any, places: Tensor) -> tuple[Tensor, list[str]]:
    """Positions of a grid of equal sides for this network's grid."""
    grid, dims = tuple(network.learned_grid or ()), network.spatial_dims
    side = _side(places.shape[1], dims)
    if side**dims != places.shape[1] or (side,) * dims == grid:
        return places, []
    return resampled(places, (side,) * dims, grid), [f"positions resampled from {side} patches along each axis to {list(grid)}"]


def _side(places: int, dims: int) -> int:
    return round(places ** (1 / dims))


def of_primus(network: Any, found: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of nnU-Net's Primus, as OpenMind released them, under this network's names and in its order of axes."""
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
    for block in range(len(network.blocks)):
        parts = [made.pop(f"blocks.{block}.attn.{part}_proj.weight", None) for part in "qkv"]
        if all(part is not None for part in parts):
            q, k, v = parts
            made[f"blocks.{block}.attn.qkv.weight"] = torch.cat([_halves(q, heads), _halves(k, heads), v])  # type: ignore[arg-type,list-item]
        name = f"blocks.{block}.attn.q_bias"
        if name in made:
            made[name] = _halves(made[name], heads)
    changes = ["names, axes (k, j, i) and pairs of channels are nnU-Net's"]
    if "pos_embed" in made:
        reversed_grid, count = tuple(network.learned_grid or ())[::-1], made["pos_embed"].shape[1]
        same = math.prod(reversed_grid) == count  # a file of another size is for equal sides
        grid = reversed_grid if same else (_side(count, 3),) * 3
        if math.prod(grid) == count:
            made["pos_embed"] = made["pos_embed"].unflatten(1, grid).permute(0, 3, 2, 1, 4).flatten(1, 3)
        if not same:
            made["pos_embed"], of_grid = _own_grid(network, made["pos_embed"])
            changes += of_grid
    return made, changes + [f"{name} is left" for name in sorted(left)]


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
