"""How deep a parameter of a backbone lies, counted from the head: what falling learning rates and unfrozen blocks go by."""

from __future__ import annotations

from torch import nn

from medssl.nn.backbone import Backbone


def blocks_below(backbone: nn.Module) -> dict[str, int]:
    """By parameter, how many blocks it lies below the head: 1 in the last block, one more than there are blocks in the stem.

    A block is the part that computes one map from the previous one; in backbones composed of others, each of their parts.
    """
    names = [name for name, _ in backbone.named_parameters()]
    if isinstance(backbone, Backbone) and backbone.stage_names:
        parts = {name: backbone.part_of(name) for name in names}
        last = max(part for part in parts.values() if part is not None)  # a class token is a map without parameters
        return {name: 1 if part is None else last + 1 - part for name, part in parts.items()}
    blocks = list(dict.fromkeys(name.split(".")[0] for name in names))
    return {name: len(blocks) - blocks.index(name.split(".")[0]) for name in names}


def shares_of_rate(backbone: nn.Module, *, layer_decay: float, stem_frac: float) -> dict[str, float]:
    """By parameter, its share of the learning rate: `layer_decay` to the power of the blocks below the head, times `stem_frac` in
    the stem.
    """
    below = blocks_below(backbone)
    deepest = max(below.values(), default=0)
    return {name: layer_decay**depth * (stem_frac if depth == deepest else 1.0) for name, depth in below.items()}
