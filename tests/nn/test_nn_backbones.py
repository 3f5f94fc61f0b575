"""Weights are loaded whole or not at all, and backbones have the names and shapes of the networks they claim to be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core import plugins
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.nn.adapters.nnunet import twice
from medssl.nn.backbone import build
from medssl.nn.pair_mean import PairMean3d
from medssl.nn.resnet import SeparableMaxPool3d
from medssl.nn.weights import load_encoder, read_tensors, save_encoder, save_tensors

NARROW: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 0.125}, "resnet34": {"width": 0.125}, "resnet50": {"width": 0.125}, "convnext_tiny": {"width": 0.1},
    "unet": {"features": (4, 4, 8, 8, 8, 4)}, "resenc": {"features": (4, 8, 8, 8), "blocks": (1, 2, 1, 1)},
}  # fmt: skip
every_backbone = pytest.mark.parametrize("name", sorted(set(plugins.names("backbone")) & set(NARROW)))


@every_backbone
def test_weights_round_trip_and_less_than_all_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    one, other = (build(name, NARROW[name], 2, 1) for _ in range(2))
    save_encoder(tmp_path / "e.safetensors", one)
    match = load_encoder(tmp_path / "e.safetensors", other)
    total = len(one.state_dict())
    assert (match.matched, match.total) == (total, total)
    assert f"{total}/{total} tensors matched" in capsys.readouterr().out
    x = torch.rand(2, 1, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(one.eval()(x), other.eval()(x), strict=True))
    with pytest.raises(StudyError, match="tensors matched"):
        load_encoder(tmp_path / "e.safetensors", build(name, NARROW[name], 2, 3))
    headed = nn.ModuleDict({"head": nn.Linear(3, 2)})
    for child_name, child in other.named_children():
        headed.add_module(child_name, child)
    with pytest.raises(StudyError):
        load_encoder(tmp_path / "e.safetensors", headed)
    assert load_encoder(tmp_path / "e.safetensors", headed, extra=("head.",)).matched == total


def test_a_smaller_network_inside_a_larger_one_is_not_all(tmp_path: Path) -> None:
    save_encoder(tmp_path / "e.safetensors", build("resnet18", {"width": 0.125}, 2, 1))
    larger = build("resnet34", {"width": 0.125}, 2, 1)
    with pytest.raises(StudyError, match="only in the model"):
        load_encoder(tmp_path / "e.safetensors", larger)
    assert load_encoder(tmp_path / "e.safetensors", larger, at_least=0.3).matched == 120


def test_other_formats_and_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"\x80\x04")
    with pytest.raises(StudyError, match="medssl convert"):
        read_tensors(tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CorruptArtefactError):
        read_tensors(tmp_path / "w.safetensors")
    with pytest.raises(StudyError, match="no weights"):
        read_tensors(tmp_path / "none.safetensors")


PARAMETERS = {"resnet18": 11_170_240, "resnet34": 21_278_400, "resnet50": 23_501_760}
"""Public counts of torchvision's networks (11,689,512; 21,797,672; 25,557,032) less the classifier and two input channels."""


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_resnets_have_the_names_and_sizes_of_torchvisions(name: str) -> None:
    backbone = build(name, {}, 2, 1)
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]
    names = list(backbone.state_dict())
    assert names[:6] == [
        "conv1.weight",
        *(f"bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]
    assert "layer2.0.downsample.0.weight" in names and "layer2.0.downsample.0.bias" not in names
    assert backbone.state_dict()["conv1.weight"].shape == (64, 1, 7, 7)


def test_convnext_has_the_names_and_size_of_timms() -> None:
    backbone = build("convnext_tiny", {}, 2, 3)
    # 28,589,128 with the 1000-class head: norm 2 × 768, dense 768 × 1000 + 1000
    assert sum(p.numel() for p in backbone.parameters()) == 28_589_128 - 2 * 768 - 768 * 1000 - 1000
    wanted = {"stem.0.weight", "stem.1.bias", "stages.0.blocks.0.conv_dw.weight", "stages.2.blocks.8.mlp.fc1.weight",
              "stages.1.downsample.0.weight", "stages.1.downsample.1.weight", "stages.3.blocks.2.gamma"}  # fmt: skip
    assert wanted <= set(backbone.state_dict())


def test_unet_is_the_encoder_of_monais() -> None:
    from monai.networks.nets.basic_unet import BasicUNet

    torch.manual_seed(0)
    theirs, ours = BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4)), build("unet", NARROW["unet"] | {"decoder": True}, 2, 1)
    ours.load_state_dict({n: t for n, t in theirs.state_dict().items() if not n.startswith("final")})
    x = torch.rand(2, 1, 32, 32)
    assert torch.allclose(theirs.final_conv(ours.decode(ours(x))[-1]), theirs(x), atol=1e-6)


def test_resenc_wants_a_number_of_blocks_for_every_level() -> None:
    with pytest.raises(StudyError, match="got 2 features and 3 blocks"):
        build("resenc", {"features": [8, 16], "blocks": [1, 1, 1]}, 2, 1)


def test_resenc_has_nnunets_names_each_tensor_once() -> None:
    state = build("resenc", {}, 3, 1).state_dict()
    for wanted in ("encoder.stem.convs.0.conv.weight", "encoder.stem.convs.0.norm.bias",
                   "encoder.stages.1.blocks.0.skip.1.conv.weight", "encoder.stages.5.blocks.5.conv2.norm.weight"):  # fmt: skip
        assert wanted in state
    # an nnU-Net checkpoint of ResEncL holds 448 encoder tensors, each under two names
    assert len(state) == 448 // 2
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize("inside", [False, True])
def test_files_that_hold_each_tensor_of_resenc_twice_load_as_well(tmp_path: Path, inside: bool) -> None:
    """nnU-Net's own, and encoders of earlier versions; with the second name in addition to the first or alone."""
    torch.manual_seed(0)
    one = build("resenc", NARROW["resenc"], 2, 1)
    doubled = twice(one.state_dict())
    assert len(doubled) == 2 * len(one.state_dict())
    for number, kept in enumerate([doubled, {n: t for n, t in doubled.items() if n not in one.state_dict()}]):
        network: nn.Module = build("resenc", NARROW["resenc"], 2, 1)
        network = nn.ModuleDict({"backbone": network}) if inside else network
        prefix = "backbone." if inside else ""
        save_tensors(tmp_path / f"{number}.safetensors", {prefix + n: t for n, t in kept.items()})
        match = load_encoder(tmp_path / f"{number}.safetensors", network)
        assert (match.matched, match.total) == (len(one.state_dict()),) * 2
        assert all(torch.equal(t, network.state_dict()[prefix + n]) for n, t in one.state_dict().items())


def test_two_names_of_one_tensor_that_differ_are_refused(tmp_path: Path) -> None:
    network = build("resenc", NARROW["resenc"], 2, 1)
    doubled = twice(network.state_dict())
    save_tensors(tmp_path / "w.safetensors", doubled | {"encoder.stem.convs.0.all_modules.0.bias": torch.ones(4)})
    with pytest.raises(StudyError, match="are one tensor in the model, and differ in the file"):
        load_encoder(tmp_path / "w.safetensors", network)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (2, 0)])
def test_separable_max_pooling_is_max_pooling(kernel: int, padding: int) -> None:
    x = torch.randn(2, 3, 9, 8, 7)
    assert torch.equal(SeparableMaxPool3d(kernel, stride=2, padding=padding)(x), nn.MaxPool3d(kernel, 2, padding)(x))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_narrow_shortcuts_take_their_stride_first_and_say_the_same(
    name: str, spatial_dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def maps(narrow: int) -> tuple[list[torch.Tensor], list[str]]:
        monkeypatch.setattr("medssl.nn.resnet.NARROW", narrow)
        torch.manual_seed(0)
        network = build(name, {"width": 0.125, "stem": "small"}, spatial_dims, 1).double()
        return network(torch.rand(2, 1, *(17,) * spatial_dims, dtype=torch.float64)), list(network.state_dict())

    (told, names), (wanted, wanted_names) = maps(16), maps(0)
    assert names == wanted_names
    assert all(torch.equal(a, b) for a, b in zip(told, wanted, strict=True))


def test_a_narrow_network_in_channels_last_survives_its_backward_pass() -> None:
    network = build("resnet18", {"width": 0.125, "stem": "small"}, 2, 1).to(memory_format=torch.channels_last)
    images = torch.rand(16, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    for _ in range(3):  # oneDNN's issue 6035 ends the process here on AVX-512
        network(images)[-1].square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("keep_rest", [False, True])
@pytest.mark.parametrize("size", [(4, 6, 8), (5, 6, 3), (3, 7, 2)])
def test_the_mean_of_pairs_is_torchs_average_pooling(size: tuple[int, int, int], keep_rest: bool) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = PairMean3d(keep_rest=keep_rest)(x), torch.nn.AvgPool3d(2, ceil_mode=keep_rest)(x)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-15)
    pull = torch.rand_like(theirs)
    slopes = [torch.autograd.grad((y * pull).sum(), x)[0] for y in (ours, theirs)]
    assert torch.allclose(*slopes, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda t: t.index_fill(0, torch.tensor([0]), torch.nan), "not finite in torch.float32"),
        (lambda t: (t.double() + 1) * 1e300, "not finite in torch.float32"),
        (lambda t: t.round().to(torch.int8), "holds numbers of type torch.int8"),
        (lambda t: t > 0, "holds numbers of type torch.bool"),
    ],
)
@pytest.mark.parametrize(("foreign", "name"), [(False, "layer1.0.conv1.weight"), (True, "conv1.weight")])
def test_weights_that_no_training_gives_are_refused_with_file_and_tensor(
    tmp_path: Path, wrong: Any, words: str, foreign: bool, name: str
) -> None:
    network = build("resnet18", NARROW["resnet18"], 2, 1)
    file = build("resnet18", NARROW["resnet18"], 2, 3 if foreign else 1).state_dict()
    save_tensors(tmp_path / "w.safetensors", file | {name: wrong(file[name])})
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(StudyError, match=rf"w.safetensors: {name} .*{words}"):
        load_encoder(tmp_path / "w.safetensors", network, foreign=foreign)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize(("prefix", "name"), [("module.", "resnet18"), ("module.backbone.", "convnext_tiny")])
def test_names_with_one_prefix_are_refused_with_the_command_that_removes_it(tmp_path: Path, prefix: str, name: str) -> None:
    network = build(name, NARROW[name], 2, 1)
    save_tensors(tmp_path / "w.safetensors", {prefix + key: tensor for key, tensor in network.state_dict().items()})
    with pytest.raises(StudyError, match=r"match without it") as refused:
        load_encoder(tmp_path / "w.safetensors", network, foreign=True)
    (words,) = re.findall(r"Run medssl (convert .*?), and name that file", str(refused.value))
    assert CliRunner().invoke(app, words.split(), catch_exceptions=False).exit_code == 0
    load_encoder(tmp_path / "w-stripped.safetensors", network, foreign=True)
    with pytest.raises(StudyError, match="those of public files in docs/howto/transfer"):
        load_encoder(tmp_path / "w.safetensors", build("resnet34", NARROW["resnet34"], 2, 1), foreign=True)


def test_two_tensors_of_one_name_after_the_prefix_is_removed_are_refused(tmp_path: Path) -> None:
    network = build("resnet18", NARROW["resnet18"], 2, 1)
    save_tensors(tmp_path / "w.safetensors", network.state_dict() | {"module.conv1.weight": torch.zeros(1)})
    with pytest.raises(StudyError, match=r"holds 'module.conv1.weight' and 'conv1.weight'"):
        load_encoder(tmp_path / "w.safetensors", network, strip="module.")
