"""A 2-D encoder in a 3-D task: slices with the transformer between them, kernels inflated, or the second encoder of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning import SMALL, scratch_model, write_scans
from torch import nn

from medssl.artefacts.encoder import parts_of
from medssl.core import plugins, tables
from medssl.core.errors import StudyError
from medssl.core.files import read_json, write_json
from medssl.finetune.lifting import Lift, inflated
from medssl.finetune.segmenter import Segmenter
from medssl.nn.backbone import build, pooled
from medssl.nn.depth import blocks_below
from medssl.nn.slice_attention import VolumeEncoder
from medssl.nn.weights import part_tensors, read_tensors, save_encoder, save_tensors

NARROW = {"stem": "small", "width": 0.125}
SLICEWISE = {"slices": "resnet18", "slices_options": NARROW, "width": 16, "layers": 1, "heads": 2, "feed_forward": 16}
FLAT = {"backbone": "resnet18", "backbone_options": NARROW, "spatial_dims": 2, "in_channels": 1, "input_size": [16, 16]}
RUN = "joint-all-seed0"


def declared(objective: str, options: dict[str, Any], *parts: str) -> dict[str, Any]:
    """What a run's contract says of the parts that it left, as its objective declares them."""
    plugin = plugins.find("objective", objective)
    found = parts_of(plugin.constant("PARTS"), plugin.check(options), parts)
    return {"parts": {name: part.plain() for name, part in found.items()}}


def transformer(**options: Any) -> dict[str, Any]:
    """A run with a trained transformer between the slices."""
    small = {"width": 16, "layers": 1, "attention_heads": 2, "feed_forward": 16} | options
    return declared("joint_2d3d", small, "volume_encoder")


def coded(space: str, width: int) -> dict[str, Any]:
    """A run with two trained spaces."""
    return declared("sepclr", {"width": width}, f"{space}_code")


def volume_part(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return part_tensors({"volume_encoder": VolumeEncoder((8, 16, 32, 64), width=16, layers=1, heads=2, feed_forward=16)})


def test_the_maps_of_a_volume_are_those_of_its_slices_and_one_of_the_volume() -> None:
    torch.manual_seed(0)
    network = build("slicewise", SLICEWISE, 3, 1).eval()
    x = torch.rand(2, 1, 16, 16, 5)
    maps = network(x)
    assert [m.shape[1] for m in maps] == list(network.channels)
    for k in range(5):
        for whole, flat in zip(maps, network.slices(x[..., k]), strict=False):
            assert torch.allclose(whole[..., k], flat, atol=1e-5)
    flat_maps = [network.slices(x[..., k]) for k in range(5)]
    embedded = torch.stack([network.volume.embed(m) for m in flat_maps], 1)
    assert torch.allclose(pooled(maps), network.volume(embedded).mean(1), atol=1e-5)
    with pytest.raises(StudyError, match="spatial_dims: 3"):
        build("slicewise", SLICEWISE, 2, 1)


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (5, 4)])
def test_a_volume_of_equal_slices_looks_to_inflated_kernels_like_a_slice(kernel: int, groups: int) -> None:
    torch.manual_seed(0)
    flat = nn.Conv2d(4, 8, kernel, groups=groups)
    solid = nn.Conv3d(4, 8, kernel, groups=groups)
    solid.load_state_dict(inflated(flat.state_dict(), solid.state_dict(), "flat.safetensors"))
    x = torch.rand(1, 4, 9, 8)
    wanted = flat(x)
    found = solid(x[..., None].expand(-1, -1, -1, -1, 7))
    assert torch.allclose(found, wanted[..., None].expand(found.shape), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"width": 0.125}), ("resnet50", {"width": 0.125}), ("convnext_tiny", {"width": 0.1}),
        ("unet", {"features": (4, 4, 8, 8, 8, 4)}), ("resenc", {"features": (4, 8, 8, 8), "blocks": (1, 2, 1, 1)}),
    ],
)  # fmt: skip
def test_every_backbone_can_be_inflated_and_another_one_is_refused(name: str, options: Any) -> None:
    flat, solid = (build(name, options, dims, 1) for dims in (2, 3))
    found = inflated(flat.state_dict(), solid.state_dict(), "flat.safetensors")
    assert all(found[key].shape == tensor.shape for key, tensor in solid.state_dict().items())
    with pytest.raises(StudyError, match="cannot be inflated"):
        inflated({**flat.state_dict(), "more": torch.zeros(1)}, solid.state_dict(), "flat.safetensors")


def of_authors(name: str) -> str:
    """The name of a tensor of ConvNeXt in its authors' code."""
    for pattern, other in (
        (r"^stem\.", "downsample_layers.0."), (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"),
    ):  # fmt: skip
        name = re.sub(pattern, other, name)
    return name


def test_a_file_of_convnexts_authors_is_inflated_as_one_of_its_own_names_and_another_is_refused_with_both_shapes(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    flat, solid = (build("convnext_tiny", {"width": 0.1}, dims, 1) for dims in (2, 3))
    released = {of_authors(name): tensor.clone() for name, tensor in flat.state_dict().items()}
    save_tensors(tmp_path / "w.safetensors", released | {"norm.weight": torch.ones(77), "norm.bias": torch.ones(77)})
    lift, wanted = Lift.of("inflated", {}), inflated(flat.state_dict(), solid.state_dict(), "flat")
    lift.load(solid, "given", tmp_path / "w.safetensors", None, foreign=True)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in solid.state_dict().items())
    for change, words in (
        ({"downsample_layers.0.0.bias": torch.ones(3)}, r"stem.0.bias.*\(3,\) in the file, \(10,\) in the model"),
        ({"more": torch.ones(3)}, "'more' .only in the file"),
        ({"downsample_layers.0.0.bias": torch.full((10,), torch.nan)}, "stem.0.bias holds numbers that are not finite"),
    ):
        save_tensors(tmp_path / "w.safetensors", released | change)
        with pytest.raises(StudyError, match=words):
            lift.load(solid, "given", tmp_path / "w.safetensors", None, foreign=True)


def test_the_lifted_network_holds_the_encoder_and_what_the_run_left_beside_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = build("resnet18", NARROW, 2, 1)
    save_encoder(tmp_path / "encoder.safetensors", encoder)
    save_tensors(tmp_path / "parts.safetensors", volume_part(2))
    lift = Lift.of("volume", {RUN: FLAT | transformer()})
    contract = lift.contract(RUN, FLAT)
    network = build(contract["backbone"], contract["backbone_options"], contract["spatial_dims"], 1)
    lift.load(network, RUN, tmp_path / "encoder.safetensors", tmp_path / "parts.safetensors")
    assert all(torch.equal(network.slices.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())
    learnt = volume_part(2)
    assert all(torch.equal(tensor, learnt[f"volume_encoder.{name}"]) for name, tensor in network.volume.state_dict().items())
    with pytest.raises(StudyError, match="3-D already"):
        lift.contract(RUN, contract)


def test_a_run_that_left_no_transformer_has_no_say_in_its_width() -> None:
    lift = Lift.of("volume", {"flat-all-seed0": FLAT, RUN: FLAT | transformer()})
    for start in ("flat-all-seed0", RUN, "scratch-slicewise"):
        options = lift.contract(start, FLAT)["backbone_options"]
        assert options["width"] == 16 and options["heads"] == 2
    assert [lift.is_drawn(start) for start in ("flat-all-seed0", RUN)] == [True, False]


def test_a_run_without_declarations_leaves_nothing_that_could_be_taken_up() -> None:
    """Contracts of older versions name no parts."""
    lift = Lift.of("own", {RUN: FLAT})
    assert lift.files_used(RUN, ["decoder"]) == (True, False) and lift.contract(RUN, FLAT) == FLAT
    assert Lift.of("own", {RUN: FLAT | declared("local_contrast", {}, "decoder")}).files_used(RUN, ["decoder"]) == (True, True)


@pytest.mark.parametrize(
    ("encoder", "one", "other"),
    [("volume", transformer(), transformer(width=32)), ("common", coded("common", 8), coded("common", 16))],
)
def test_runs_whose_parts_are_not_alike_are_refused_with_a_sentence(encoder: str, one: Any, other: Any) -> None:
    with pytest.raises(StudyError, match=r"different width \(\d+ and \d+\)"):
        Lift.of(encoder, {f"a-all-seed{n}": FLAT | parts for n, parts in enumerate((one, other))})


def test_a_part_that_does_not_fit_is_refused_with_a_sentence(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.safetensors", build("resnet18", NARROW, 2, 1))
    paths = tmp_path / "encoder.safetensors", tmp_path / "parts.safetensors"
    save_tensors(paths[1], volume_part(2))
    with pytest.raises(StudyError, match="left a volume_encoder that does not fit"):
        Lift.of("volume", {RUN: transformer()}).load(build("slicewise", SLICEWISE | {"width": 32}, 3, 1), RUN, *paths)
    save_tensors(paths[1], part_tensors({"common_code": nn.Linear(64, 8)}))
    network = build("bottleneck", {"of": "resnet18", "of_options": NARROW, "width": 16}, 2, 1)
    with pytest.raises(StudyError, match="left a common_code that does not fit"):
        Lift.of("common", {RUN: coded("common", 16)}).load(network, RUN, *paths)


def write_run(folder: Path, seed: int, *, parts: dict[str, torch.Tensor], learnt: Any = None) -> Path:
    from prepared import receipt

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    save_encoder(folder / "encoder.safetensors", build("resnet18", NARROW, 2, 1))
    save_tensors(folder / "parts.safetensors", parts)
    write_json(folder / "contract.json", {"format": "medssl-encoder-1", **FLAT, **(learnt or {})})
    receipt(folder, "pretrain")
    return folder


@pytest.mark.parametrize("axis", [2, 0])
def test_volumes_are_segmented_by_slices_that_see_each_other(tmp_path: Path, finetune: Any, spec_of: Any, axis: int) -> None:
    from medssl.finetune.run import predict

    source = write_scans(tmp_path / "study", axis=axis)
    pretrained = tmp_path / "study" / "4_pretrain" / "ct"
    joint = write_run(pretrained / "joint-all-seed0", 1, parts=volume_part(2), learnt=transformer())
    flat = write_run(pretrained / "flat-all-seed0", 1, parts={})
    settings = SMALL | {"size": [16, 16, 8], "fractions": [1.0], "batch_size": 2, "max_steps": 2, "encoder": "volume"}
    out = finetune(spec_of(source, joint, flat, backbone=None, **settings))
    fits = tables.read_tsv(out / "fits.tsv")
    assert sorted(fits["init"]) == ["flat-all", "joint-all", scratch_model(out).name]
    assert set(fits["backbone"]) == {"slicewise"} and fits["parameters"].nunique() == 1
    contract = read_json(out / "models" / "joint-all-seed0" / "contract.json")
    assert contract["backbone_options"]["width"] == 16
    model = out / "models" / "joint-all-seed0"
    ingested = tmp_path / "study" / "1_ingest" / "hearts" / "volumes"
    predict(model, source / "samples.parquet", source / "volumes.tsv", tmp_path / "out", ingested=ingested)
    import nibabel

    rows = tables.read_parquet(out / "predictions.parquet")
    row = rows[(rows["init"] == "joint-all") & (rows["split"] == "test")].iloc[0]
    a, b = (nibabel.load(path) for path in (out / row["prediction"], tmp_path / "out" / "masks" / f"{row['case_id']}.nii.gz"))
    assert np.array_equal(np.asanyarray(a.dataobj), np.asanyarray(b.dataobj))


@pytest.mark.parametrize(("name", "inner"), [("slicewise", "slices"), ("bottleneck", "inner")])
def test_a_network_round_another_gives_its_maps_as_deep_as_asked_and_knows_where_a_parameter_lies(name: str, inner: str) -> None:
    options = SLICEWISE if name == "slicewise" else {"of": "resnet18", "of_options": NARROW}
    network = build(name, options, 3, 1).eval()
    x = torch.rand(1, 1, 16, 16, 4 if name == "slicewise" else 16)
    whole = network(x)
    for depth in range(1, 6):
        assert all(torch.equal(a, b) for a, b in zip(network(x, depth), whole[:depth], strict=True))
    lies = {parameter: network.part_of(parameter) for parameter, _ in network.named_parameters()}
    assert lies[f"{inner}.conv1.weight"] == 0 and lies[f"{inner}.layer4.1.conv2.weight"] == 4 and max(lies.values()) == 5


@pytest.mark.parametrize("pool", ["mean", "class_and_mean"])
@pytest.mark.parametrize(("name", "inner"), [("slicewise", "slices"), ("bottleneck", "of")])
def test_a_part_of_a_network_inside_another_lies_where_it_does_alone(name: str, inner: str, pool: str) -> None:
    flat = {"width": 24, "blocks": 3, "heads": 2, "patch": 4, "pool": pool}
    more = {key: value for key, value in SLICEWISE.items() if key not in ("slices", "slices_options")}
    options = {inner: "vit", f"{inner}_options": flat} | (more if name == "slicewise" else {})
    network, alone = build(name, options, 3 if name == "slicewise" else 2, 1), build("vit", flat, 2, 1)
    place = {"slicewise": "slices", "bottleneck": "inner"}[name]
    for parameter, _ in alone.named_parameters():
        assert network.part_of(f"{place}.{parameter}") == alone.part_of(parameter)
    deepest = network.part_of("code.weight" if name == "bottleneck" else "volume.projection.weight")
    assert deepest == len(network.channels)
    below = blocks_below(network)
    assert below[f"{place}.norm.weight"] == below[f"{place}.blocks.2.norm1.weight"] < below[f"{place}.patch_embed.proj.weight"]


def test_a_decoder_over_a_transformer_of_slices_joins_the_maps_that_it_does_over_one_alone() -> None:
    flat = {"width": 24, "blocks": 8, "heads": 2, "patch": 8, "pool": "class"}
    options = SLICEWISE | {"slices": "vit", "slices_options": flat}
    network, alone = build("slicewise", options, 3, 1), build("vit", flat, 2, 1)
    assert network.one_resolution and network.skips == (*alone.skips, len(alone.channels))
    assert Segmenter(network, 2)(torch.rand(1, 1, 32, 16, 3)).shape == (1, 2, 32, 16, 3)
    plain = build("slicewise", SLICEWISE, 3, 1)
    assert not plain.one_resolution and plain.skips == ()


def test_a_transformer_of_patches_is_not_inflated() -> None:
    lift = Lift.of("inflated", {})
    contract = FLAT | {"backbone": "vit", "backbone_options": {"width": 24, "heads": 2, "patch": 4}}
    with pytest.raises(
        StudyError, match="encoder: inflated: kernels are repeated along the third axis, and the positions of the"
    ):
        lift.contract("flat-all-seed0", contract)
    assert lift.contract("flat-all-seed0", FLAT)["spatial_dims"] == 3


def test_volumes_are_segmented_by_an_inflated_encoder(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    source = write_scans(tmp_path / "study")
    run = write_run(tmp_path / "study" / "4_pretrain" / "ct" / "flat-all-seed0", 1, parts={})
    settings = SMALL | {"size": [16, 16, 8], "fractions": [1.0], "batch_size": 2, "max_steps": 1, "encoder": "inflated"}
    out = finetune(spec_of(source, run, backbone=None, **settings))
    assert set(tables.read_tsv(out / "fits.tsv")["init"]) == {"flat-all", scratch_model(out).name}
    model = read_tensors(out / "models" / "flat-all-seed0" / "model.safetensors")
    assert model["backbone.conv1.weight"].ndim == 5


@pytest.mark.parametrize("space", ["common", "salient"])
def test_each_space_of_a_run_is_probed_alone(tmp_path: Path, image_source: Path, finetune: Any, spec_of: Any, space: str) -> None:
    torch.manual_seed(3)
    codes = {f"{name}_code": nn.Linear(64, 8) for name in ("common", "salient")}
    left = part_tensors({"salient": build("resnet18", NARROW, 2, 1), **codes})
    run = write_run(tmp_path / "study" / "4_pretrain" / "ct" / "sepclr-all-seed0", 1, parts=left, learnt=coded(space, 8))
    tiny = {"modes": ["linear"], "fractions": [1.0], "backbone": None, "scratch": False}
    out = finetune(spec_of(image_source, run, encoder=space, **tiny))
    model = read_tensors(out / "models" / "sepclr-all-seed0" / "model.safetensors")
    assert model["head.weight"].shape == (3, 8)
    assert torch.equal(model["backbone.code.weight"], left[f"{space}_code.weight"])
    inner = {
        "common": read_tensors(run / "encoder.safetensors"),
        "salient": {n[8:]: t for n, t in left.items() if n[:8] == "salient."},
    }
    assert all(torch.equal(model[f"backbone.inner.{name}"], tensor) for name, tensor in inner[space].items())
    bare = write_run(tmp_path / "study" / "4_pretrain" / "ct" / "simclr-all-seed0", 1, parts={})
    with pytest.raises(StudyError, match=f"left nothing that encoder: {space} could take up"):
        finetune(spec_of(image_source, bare, encoder=space, **tiny))
