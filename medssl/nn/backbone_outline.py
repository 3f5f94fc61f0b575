"""What is known of a backbone by its name and options alone, without building it; of a wrapping one also what is inside."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from medssl.core import plugins
from medssl.core.options import PluginChoice, choice_of


class Attention(NamedTuple):
    """The shape of a transformer: channels of a token, blocks, and heads of each."""

    width: int
    blocks: int
    heads: int


class Inside(NamedTuple):
    """A backbone inside another."""

    backbone: PluginChoice
    spatial_dims: int
    cuts_slices: bool
    """Whether it sees slices of a volume, along its last axis."""


def inside(backbone: PluginChoice, spatial_dims: int) -> Inside | None:
    """The backbone that a wrapping one is built around; None for any other.

    Raises:
        ValueError: its options are wrong, as a sentence.
    """
    plugin = plugins.find("backbone", backbone.name)
    if (option := _option_inside(backbone.name)) is None:
        return None
    given = {backbone.options[option]: backbone.options[f"{option}_options"] or {}}
    cuts_slices = bool(plugin.constant("CUTS_SLICES", default=False))
    return Inside(choice_of("backbone", given), 2 if cuts_slices else spatial_dims, cuts_slices)


def wrapped(wrapper: str, backbone: PluginChoice) -> PluginChoice:
    """A wrapping backbone with its default options around another."""
    option = _option_inside(wrapper)
    return choice_of("backbone", {wrapper: {option: backbone.name, f"{option}_options": backbone.options}})


def has(backbone: PluginChoice, literal: str) -> bool:
    """Whether the file of a backbone, or of the one inside, sets a literal such as `HAS_ATTENTION`."""
    if plugins.find("backbone", backbone.name).constant(literal, default=False):
        return True
    within = inside(backbone, 3)
    return within is not None and has(within.backbone, literal)


def in_words(backbone: PluginChoice) -> str:
    """Its name, and that of the backbone inside."""
    within = inside(backbone, 3)
    return backbone.name if within is None else f"{backbone.name} around {in_words(within.backbone)}"


def misfit(backbone: PluginChoice, spatial_dims: int) -> str:
    """Why no network has the options of this backbone; empty if one has, as far as is known without building it."""
    if within := inside(backbone, spatial_dims):
        return misfit(within.backbone, within.spatial_dims)
    outline = plugins.find("backbone", backbone.name).constant("OUTLINE", default=None)
    return str(_outline(outline).misfit(spatial_dims, backbone.options)) if outline else ""


def num_maps(backbone: PluginChoice, spatial_dims: int) -> int | None:
    """How many maps a backbone has; None where its file does not say. A wrapping one has one more than the one inside."""
    if within := inside(backbone, spatial_dims):
        return _one_more(num_maps(within.backbone, within.spatial_dims))
    plugin = plugins.find("backbone", backbone.name)
    outline, maps = plugin.constant("OUTLINE", default=None), plugin.constant("MAPS", default=None)
    if outline:
        return int(_outline(outline).num_maps(spatial_dims, backbone.options))
    return len(backbone.options[maps]) if isinstance(maps, str) else maps


def num_blocks(backbone: PluginChoice, spatial_dims: int) -> int | None:
    """How many blocks compute the maps of a backbone; None where its file does not say. A class token is a map without one."""
    if within := inside(backbone, spatial_dims):
        return _one_more(num_blocks(within.backbone, within.spatial_dims))
    shape = attention_of(backbone, spatial_dims)
    return shape.blocks if shape else num_maps(backbone, spatial_dims)


def patch_of(backbone: PluginChoice, spatial_dims: int) -> int | None:
    """Side of the patches of a backbone that cuts images into patches; None for any other."""
    if within := inside(backbone, spatial_dims):
        return patch_of(within.backbone, within.spatial_dims)
    usual = plugins.find("backbone", backbone.name).constant("PATCH", default=None)
    return usual and (backbone.options["patch"] or usual[spatial_dims])


def whole_patches(backbone: PluginChoice, spatial_dims: int, size: Sequence[int]) -> list[int]:
    """The size nearest to `size` whose patches are whole: `size` itself if they are, or if there are none."""
    patch, within = patch_of(backbone, spatial_dims), inside(backbone, spatial_dims)
    if not patch:
        return list(size)
    across = len(size) if within is None or not within.cuts_slices else min(len(size), 2)
    return [*(max(1, round(side / patch)) * patch for side in size[:across]), *size[across:]]


def attention_of(backbone: PluginChoice, spatial_dims: int) -> Attention | None:
    """The shape of a transformer over patches; None for a backbone without one."""
    if within := inside(backbone, spatial_dims):
        return attention_of(within.backbone, within.spatial_dims)
    plugin = plugins.find("backbone", backbone.name)
    outline = plugin.constant("OUTLINE", default=None) if plugin.constant("HAS_ATTENTION", default=False) else None
    return Attention(*_outline(outline).shape_of(spatial_dims, backbone.options)) if outline else None


def _option_inside(backbone: str) -> str | None:
    """The option that names the backbone inside."""
    used = plugins.find("backbone", backbone).constant("USES", default={})
    return next((option for option, kind in used.items() if kind == "backbone"), None)


def _one_more(count: int | None) -> int | None:
    return None if count is None else count + 1


def _outline(name: str) -> Any:
    return importlib.import_module(f"medssl.nn.{name}")
