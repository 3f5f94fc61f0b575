"""The battery that every backbone passes, at every rank that it exists at, from its file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.options import choice_of
from medssl.nn.backbone import Backbone, build, pooled
from medssl.nn.backbone_outline import misfit, num_maps
from medssl.nn.transfer import adapters
from medssl.nn.weights import load_encoder, save_encoder

NARROW: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 0.125}, "resnet34": {"width": 0.125}, "resnet50": {"width": 0.125}, "convnext_tiny": {"width": 0.1},
    "unet": {"features": (4, 4, 8, 8, 8, 4)}, "resenc": {"features": (4, 8, 8, 8), "blocks": (1, 2, 1, 1)},
    "vit": {"width": 36, "blocks": 5, "heads": 3, "patch": 8},
    "bottleneck": {"of_options": {"width": 0.125}, "width": 8},
    "slicewise": {"slices_options": {"width": 0.125}, "width": 32, "layers": 1, "heads": 2, "feed_forward": 32},
}  # fmt: skip
"""Options that make a quick network; what is not here passes as it is."""
SIZES = {2: (64, 96), 3: (64, 32, 32)}
every_backbone = pytest.mark.parametrize("name", plugins.names("backbone"))
every_rank = pytest.mark.parametrize("dims", sorted(SIZES))


def made(name: str, dims: int, channels: int = 2, seed: int = 0) -> Backbone:
    """A narrow network; the test skips where there is none of this rank."""
    torch.manual_seed(seed)
    try:
        return build(name, NARROW.get(name, {}), dims, channels)
    except StudyError as error:
        assert "spatial_dims" in str(error)
        pytest.skip(f"{name} has another rank")


def images(dims: int, channels: int = 2) -> torch.Tensor:
    return torch.rand(2, channels, *SIZES[dims], generator=torch.Generator().manual_seed(1))


@every_backbone
def test_it_exists_at_some_rank(name: str) -> None:
    found = []
    for dims in SIZES:
        try:
            found.append(build(name, NARROW.get(name, {}), dims, 1).spatial_dims)
        except StudyError:
            continue
    assert found


@every_backbone
@every_rank
def test_maps_have_the_declared_channels_and_strides(name: str, dims: int) -> None:
    backbone, x = made(name, dims), images(dims)
    before = x.clone()
    maps = backbone(x)
    assert torch.equal(x, before)
    assert len(maps) == len(backbone.channels) == len(backbone.strides) == len(backbone.stage_names)
    for number, (m, channels, stride) in enumerate(zip(maps, backbone.channels, backbone.strides, strict=True)):
        size = [side // stride for side in SIZES[dims]]
        if backbone.cuts_slices:  # in the plane, and at last the volume's own map: an embedding of each slice
            size = [1, 1, SIZES[dims][2]] if number == len(maps) - 1 else [*size[:2], SIZES[dims][2]]
        assert m.shape == (2, channels, *size), number
    assert list(backbone.strides) == sorted(backbone.strides)
    assert pooled(maps).shape == (2, backbone.channels[-1])


@every_backbone
@every_rank
def test_images_of_another_rank_or_number_of_channels_are_refused(name: str, dims: int) -> None:
    backbone = made(name, dims)
    for wrong in (torch.rand(2, 1, *SIZES[dims]), torch.rand(2, 2, *SIZES[5 - dims])):
        with pytest.raises(StudyError, match="takes"):
            backbone(wrong)


@every_backbone
@every_rank
def test_a_depth_gives_the_first_maps_and_no_others(name: str, dims: int) -> None:
    backbone, x = made(name, dims).eval(), images(dims)
    with torch.no_grad():
        whole = backbone(x)
        for depth in range(1, len(whole) + 1):
            some = backbone(x, depth)
            assert len(some) == depth
            assert all(torch.equal(a, b) for a, b in zip(some, whole, strict=False))


@every_backbone
@every_rank
def test_a_parameter_reaches_the_map_of_its_part_and_all_later_ones_alone(name: str, dims: int) -> None:
    """`part_of` is what freezing the first stages, and falling learning rates, go by."""
    backbone = made(name, dims)
    parameters = dict(backbone.named_parameters())
    assert {backbone.part_of(parameter) for parameter in parameters} <= {*range(len(backbone.channels) + 1)}
    maps = backbone(images(dims))
    for number, m in enumerate(maps):
        pull = (m * torch.rand(m.shape, generator=torch.Generator().manual_seed(number))).sum()
        gradients = torch.autograd.grad(pull, list(parameters.values()), allow_unused=True, retain_graph=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            reached = gradient is not None and bool((gradient != 0).any())
            assert gradient is None or bool(gradient.isfinite().all()), parameter
            assert reached or backbone.part_of(parameter) > 0 or number > 0 or _begins_at_zero(parameters[parameter]), parameter
            if backbone.part_of(parameter) > number + 1:
                assert not reached, (parameter, number)
    for stage in range(1, len(maps) + 1):
        assert any(backbone.part_of(parameter) == stage for parameter in parameters), backbone.stage_names[stage - 1]


def _begins_at_zero(parameter: torch.Tensor) -> bool:
    return bool((parameter == 0).all())


@every_backbone
@every_rank
def test_every_parameter_is_used(name: str, dims: int) -> None:
    backbone = made(name, dims)
    sum((m * torch.rand_like(m)).sum() for m in backbone(images(dims))).backward()
    for parameter, p in backbone.named_parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all()), parameter


@every_backbone
@every_rank
def test_weights_go_through_a_file_that_holds_each_tensor_once(name: str, dims: int, tmp_path: Path) -> None:
    one, other = made(name, dims), made(name, dims, seed=1)
    save_encoder(tmp_path / "encoder.safetensors", one)
    held = load_file(tmp_path / "encoder.safetensors")
    assert held.keys() == one.state_dict().keys()
    assert len({tensor.data_ptr() for tensor in one.state_dict().values() if tensor.numel()}) == len(held)
    assert load_encoder(tmp_path / "encoder.safetensors", other).matched == len(held)
    x = images(dims)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(one.eval()(x), other.eval()(x), strict=True))


@every_backbone
@every_rank
def test_half_precision_gives_finite_maps(name: str, dims: int) -> None:
    backbone = made(name, dims)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = backbone(images(dims))
    assert all(bool(m.isfinite().all()) for m in maps)
    assert pooled(maps).dtype == torch.float32


@every_backbone
def test_its_file_says_what_others_must_know(name: str) -> None:
    plugin = plugins.find("backbone", name)
    assert plugin.constant("TITLE") and plugin.summary
    assert {library for library in plugin.constant("LIBRARIES", default={})} <= set(adapters())
    assert plugin.constant("CUTS_SLICES", default=False) == plugin.load().cuts_slices
    for option, field in plugin.options.model_fields.items():
        assert field.description and field.description.endswith("."), option


@every_backbone
@every_rank
def test_what_is_known_of_it_without_building_it_is_true(name: str, dims: int) -> None:
    backbone, choice = made(name, dims), choice_of("backbone", {name: NARROW.get(name, {})})
    assert misfit(choice, dims) == ""
    assert num_maps(choice, dims) in (None, len(backbone.channels))
    assert plugins.find("backbone", name).constant("ONE_RESOLUTION", default=False) == backbone.one_resolution
    assert plugins.find("backbone", name).constant("HAS_BRANCHES", default=False) == bool(backbone.branch_ends)
