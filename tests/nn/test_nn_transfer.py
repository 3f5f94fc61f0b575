"""Encoders in and out: adapters agree with the real library, foreign files give tensors or nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import monai
import nibabel
import numpy as np
import pytest
import torch
import warm
from made_encoders import make_run
from prepared import phantom, write_prepared
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.nn.adapters.nnunet import twice
from medssl.nn.backbone import build, pooled
from medssl.nn.transfer import adapters, convert, embed, export
from medssl.nn.weights import load_encoder

DOCS = Path(__file__).resolve().parents[2] / "docs" / "howto"
PEERS = Path(sys.prefix) / "parity"
"""torchvision and timm without what they depend on, out of sight of everything else."""


def test_there_is_an_adapter_for_each_library() -> None:
    assert adapters() == ["hf", "monai", "nnunet", "timm", "torchvision"]


@pytest.mark.parametrize(
    ("name", "dims", "options"),
    [("resnet18", 3, {}), ("resnet50", 2, {"width": 0.25}), ("resnet34", 2, {"stem": "small", "width": 0.125})],
)
def test_monais_resnet_of_the_exported_contract_gives_the_same_features(
    tmp_path: Path, name: str, dims: int, options: dict[str, Any]
) -> None:
    ours = make_run(tmp_path / "run", name, dims, **options)
    weights, contract, _ = export(tmp_path / "run", "monai", tmp_path / "out")
    theirs = eval(json.loads(contract.read_text())["network"], {"monai": monai}).eval()
    theirs.load_state_dict(load_file(weights))
    x = torch.rand(2, 1, *[32] * dims)
    assert torch.allclose(theirs(x), pooled(ours(x)), atol=1e-6)


def test_a_run_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    make_run(tmp_path / "simclr-hash-seed0", "resnet18", width=0.125)
    with pytest.raises(StudyError, match=r"simclr-all-seed0 holds no contract.json: .* Beside it: simclr-hash-seed0\."):
        export(tmp_path / "simclr-all-seed0", "monai", tmp_path / "out")


def test_monais_unet_of_the_exported_contract_gives_the_same_maps(tmp_path: Path) -> None:
    ours = make_run(tmp_path / "run", "unet", features=(4, 4, 8, 8, 8, 4))
    weights, contract, _ = export(tmp_path / "run", "monai", tmp_path / "out")
    theirs = eval(json.loads(contract.read_text())["network"], {"monai": monai}).eval()
    left = theirs.load_state_dict(load_file(weights), strict=False)
    assert not left.unexpected_keys and all(key.startswith(("upcat_", "final_conv")) for key in left.missing_keys)
    x = torch.rand(2, 1, 32, 32)
    assert torch.allclose(theirs.down_1(theirs.conv_0(x)), ours(x)[1], atol=1e-6)


def test_the_documented_network_of_monai_gives_the_same_features(tmp_path: Path) -> None:
    text = (DOCS / "transfer.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"^model = (monai\.networks.*?^\))$", text, re.M | re.S)
    ours = make_run(tmp_path / "run", "resnet18", dims=3)
    weights, contract, _ = export(tmp_path / "run", "monai", tmp_path / "out")
    stated = json.loads(contract.read_text())["network"]
    assert ast.dump(ast.parse(written)) == ast.dump(ast.parse(stated))
    theirs = eval(written, {"monai": monai}).eval()
    theirs.load_state_dict(load_file(weights))
    x = torch.rand(2, 1, 32, 32, 32)
    assert torch.allclose(theirs(x), pooled(ours(x)), atol=1e-6)


def test_the_documented_export_is_a_command(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "resnet18")
    (words,) = re.findall(r"^`medssl (export .*)`:$", (DOCS / "transfer.md").read_text(encoding="utf-8"), re.M)
    places = {"<run folder>": tmp_path / "run", "<library>": "timm", "<folder>": tmp_path / "out"}
    for name, place in places.items():
        words = words.replace(name, str(place))
    said = CliRunner().invoke(app, words.split(), catch_exceptions=False)
    assert said.exit_code == 0 and (tmp_path / "out" / "resnet18.safetensors").is_file()
    assert 'timm.create_model(model_name="resnet18"' in said.output.replace("'", '"') and "window: -1000 to 1000" in said.output


def test_three_equal_channels_through_the_torchvision_stem_equal_one(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "resnet18")
    tensors = load_file(export(tmp_path / "run", "torchvision", tmp_path / "out")[0])
    ours = load_file(tmp_path / "run" / "encoder.safetensors")
    x = torch.rand(2, 1, 32, 32)
    wide = torch.nn.functional.conv2d(x.expand(-1, 3, -1, -1), tensors["conv1.weight"])
    assert torch.allclose(wide, torch.nn.functional.conv2d(x, ours["conv1.weight"]), atol=1e-5)


@pytest.mark.parametrize(
    ("library", "name"),
    [("torchvision", "resnet18"), ("torchvision", "resnet50"), ("timm", "convnext_tiny"), ("timm", "resnet34")],
)
def test_the_real_library_gives_the_same_features(tmp_path: Path, library: str, name: str) -> None:
    """And what it saves of its network is the encoder again, for `medssl.load` and as weights to start from."""
    if not (PEERS / library).is_dir():
        pytest.skip(f"{library} is not there: make test installs it beside the environment")
    ours = make_run(tmp_path / "run", name)
    weights, contract, readme = export(tmp_path / "run", library, tmp_path / "out")
    code = json.loads(contract.read_text())["code"]
    assert f"```python\n{code}```" in readme.read_text(encoding="utf-8")
    (tmp_path / "code.py").write_text(code)
    check_features(ours, "code", str(tmp_path / "code.py"), weights, torch.rand(2, 1, 64, 64), tmp_path)
    load_encoder(tmp_path / "saved.safetensors", again := build(name, {}, 2, 1), foreign=True)
    assert all(torch.allclose(again.state_dict()[key], tensor, atol=1e-6) for key, tensor in ours.float().state_dict().items())


@pytest.mark.parametrize(
    ("registers", "side", "scale"),
    [(0, 64, 0.5), (4, 64, 0.5), (0, 96, 0.5), (0, 64, 0.0)],  # the third with positions resampled; the last as for ImageNet
)
def test_a_transformer_with_timms_weights_gives_timms_features(tmp_path: Path, registers: int, side: int, scale: float) -> None:
    if not (PEERS / "timm").is_dir():
        pytest.skip("timm is not there: make test installs it beside the environment")
    torch.manual_seed(0)
    options = {"size": "tiny", "positions": "learned", "learned_grid": (4, 4), "registers": registers, "layer_scale": scale}
    ours = build("vit", options, 2, 1)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(ours.state_dict(), tmp_path / "vit.safetensors")
    (tmp_path / "code.py").write_text(
        "import timm\nfrom safetensors.torch import load_file\n"
        f"model = timm.create_model('vit_tiny_patch16_224', in_chans=1, num_classes=0, img_size=64, dynamic_img_size=True,\n"
        f"    reg_tokens={registers}, no_embed_class={registers > 0}, init_values={scale or None})\n"
        "model.load_state_dict(load_file('vit.safetensors'))\n"
    )
    x = torch.rand(2, 1, side, side)
    check_features(ours.eval(), "code", str(tmp_path / "code.py"), tmp_path / "vit.safetensors", x, tmp_path)


DINOV2 = {"patch": 14, "positions": "learned", "learned_grid": (4, 4), "layer_scale": 1.0, "registers": 4}
DINOV3 = {"patch": 16, "layer_scale": 1.0, "registers": 4, "epsilon": 1e-5}


@pytest.mark.parametrize(
    ("timms", "module", "options", "side", "grid"),
    [
        ("vit_small_patch14_reg4_dinov2", "vision_transformer", DINOV2, 56, 4),
        ("vit_small_patch14_reg4_dinov2", "vision_transformer", DINOV2, 56, 7),  # positions for another size, which are resampled
        ("vit_small_patch14_dinov2", "vision_transformer", DINOV2 | {"registers": 0}, 56, 4),
        ("vit_small_patch16_dinov3_qkvb", "eva", DINOV3, 64, 0),
    ],
)
def test_files_of_dino_give_timms_features_under_their_released_names(
    tmp_path: Path, timms: str, module: str, options: dict[str, Any], side: int, grid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (PEERS / "timm").is_dir():
        pytest.skip("timm is not there: make test installs it beside the environment")
    torch.manual_seed(0)
    ours = build("vit", options, 2, 1)
    file = {name: torch.randn(tensor.shape) * 0.05 for name, tensor in ours.state_dict().items()}
    if grid:
        file["pos_embed"] = torch.randn(1, 1 + grid**2, 384)
        file["mask_token"] = torch.zeros(1, 384)
        if options["registers"]:
            file["register_tokens"] = file.pop("reg_token")
    else:
        file["storage_tokens"], file["mask_token"] = file.pop("reg_token"), torch.zeros(1, 384)
        file["rope_embed.periods"] = 100.0 ** (torch.arange(16) / 16)
        for block in range(12):
            mask = file[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(3 * 384)
            mask[384:768] = 0
            file[f"blocks.{block}.attn.qkv.bias"][384:768] = 9.0  # what the mask hides
    save_file(file, tmp_path / "vit.safetensors")
    load_encoder(tmp_path / "vit.safetensors", ours, foreign=True)
    said = capsys.readouterr().out
    assert "mask_token is dropped" in said and ("are the registers" in said) == bool(options["registers"])
    (tmp_path / "code.py").write_text(
        "import timm\nfrom safetensors.torch import load_file\n"
        f"from timm.models.{module} import checkpoint_filter_fn\n"
        f"model = timm.create_model('{timms}', in_chans=1, num_classes=0, img_size={side})\n"
        "model.load_state_dict(checkpoint_filter_fn(load_file('vit.safetensors'), model))\n"
    )
    check_features(
        ours.eval(), "code", str(tmp_path / "code.py"), tmp_path / "vit.safetensors", torch.rand(2, 1, side, side), tmp_path
    )


def vit_for_transformers(file: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of DINOv3's ViT as transformers' script of conversion writes them."""
    made = {}
    for name, tensor in file.items():
        if name.endswith("qkv.bias_mask") or name == "rope_embed.periods":
            continue
        for pattern, other in (
            ("cls_token", "embeddings.cls_token"), ("mask_token", "embeddings.mask_token"),
            ("storage_tokens", "embeddings.register_tokens"), (r"patch_embed\.proj", "embeddings.patch_embeddings"),
            (r"blocks\.(\d+)\.attn\.proj", r"layer.\1.attention.o_proj"), (r"blocks\.(\d+)\.attn\.", r"layer.\1.attention."),
            (r"blocks\.(\d+)\.ls(\d+)\.gamma", r"layer.\1.layer_scale\2.lambda1"),
            (r"blocks\.(\d+)\.mlp\.fc1", r"layer.\1.mlp.up_proj"), (r"blocks\.(\d+)\.mlp\.fc2", r"layer.\1.mlp.down_proj"),
            (r"blocks\.(\d+)\.norm", r"layer.\1.norm"),
        ):  # fmt: skip
            name = re.sub(pattern, other, name)
        if "qkv" not in name:
            made[name] = tensor
            continue
        for part, share in zip("qkv", tensor.chunk(3), strict=True):
            if (part, name.rpartition(".")[2]) != ("k", "bias"):
                made[name.replace("qkv", f"{part}_proj")] = share.contiguous()
    return made


def test_a_file_of_dinov3_for_transformers_is_the_one_of_its_authors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    one, other = (build("vit", DINOV3 | {"blocks": 2}, 2, 1) for _ in range(2))
    file = {name: torch.randn(tensor.shape) for name, tensor in one.state_dict().items()}
    file["storage_tokens"], file["mask_token"] = file.pop("reg_token"), torch.zeros(1, 384)
    for block in range(2):
        mask = file[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(3 * 384)
        mask[384:768] = 0
    released = vit_for_transformers(file)
    assert "layer.1.attention.k_proj.weight" in released and "layer.1.attention.k_proj.bias" not in released
    for network, tensors, name in ((one, file, "authors"), (other, released, "transformers")):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        load_encoder(tmp_path / f"{name}.safetensors", network, foreign=True)
    assert "transformers.safetensors: names of the library transformers" in capsys.readouterr().out
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def vit_of_dinov2_for_transformers(file: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of DINOv2's ViT as transformers' script of conversion writes them."""
    made = {}
    for name, tensor in file.items():
        for pattern, other in (
            ("cls_token", "embeddings.cls_token"), ("mask_token", "embeddings.mask_token"),
            ("register_tokens", "embeddings.register_tokens"), ("pos_embed", "embeddings.position_embeddings"),
            (r"patch_embed\.proj", "embeddings.patch_embeddings.projection"), (r"^norm\.", "layernorm."),
            (r"blocks\.(\d+)\.attn\.proj", r"encoder.layer.\1.attention.output.dense"),
            (r"blocks\.(\d+)\.attn\.", r"encoder.layer.\1.attention.attention."),
            (r"blocks\.(\d+)\.ls(\d+)\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
            (r"blocks\.(\d+)\.mlp\.w12", r"encoder.layer.\1.mlp.weights_in"),
            (r"blocks\.(\d+)\.mlp\.w3", r"encoder.layer.\1.mlp.weights_out"),
            (r"blocks\.(\d+)\.", r"encoder.layer.\1."),
        ):  # fmt: skip
            name = re.sub(pattern, other, name)
        if "qkv" not in name:
            made[name] = tensor
            continue
        for part, share in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            made[name.replace("qkv", part)] = share.contiguous()
    return made


@pytest.mark.parametrize(("registers", "perceptron"), [(0, "gelu"), (4, "gelu"), (0, "swiglu")])
def test_a_file_of_dinov2_for_transformers_is_the_one_of_its_authors(tmp_path: Path, registers: int, perceptron: str) -> None:
    torch.manual_seed(0)
    options = DINOV2 | {"blocks": 2, "registers": registers, "perceptron": perceptron}
    one, other = (build("vit", options, 2, 1) for _ in range(2))
    file = {name: torch.randn(tensor.shape) for name, tensor in one.state_dict().items()}
    file["mask_token"] = torch.zeros(1, 384)
    file["pos_embed"] = torch.randn(1, 1 + 37**2, 384)
    if registers:
        file["register_tokens"] = file.pop("reg_token")
    if perceptron == "swiglu":
        file = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): tensor for name, tensor in file.items()}
    released = vit_of_dinov2_for_transformers(file)
    assert {"encoder.layer.1.attention.attention.key.bias", "layernorm.weight"} <= released.keys()
    for network, tensors, name in ((one, file, "authors"), (other, released, "transformers")):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        load_encoder(tmp_path / f"{name}.safetensors", network, foreign=True)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def of_authors(name: str) -> str:
    """The name of a tensor of ConvNeXt in its authors' code, which DINOv3's files have too."""
    parts = name.split(".")
    if parts[0] == "stem":
        return ".".join(["downsample_layers", "0", *parts[1:]])
    stage, part, *rest = parts[1:]
    if part == "downsample":
        return ".".join(["downsample_layers", stage, *rest])
    block, *inside = rest
    last = ".".join(inside).replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    return f"stages.{stage}.{block}.{last}"


def for_transformers(name: str) -> str:
    """The same in the files for transformers, as its script of conversion renames them."""
    for pattern, other in (
        ("dwconv", "depthwise_conv"), ("pwconv", "pointwise_conv"), ("norm", "layer_norm"),
        (r"stages\.(\d+)\.(\d+)", r"stages.\1.layers.\2"),
        (r"downsample_layers\.(\d+)\.(\d+)", r"stages.\1.downsample_layers.\2"),
    ):  # fmt: skip
        name = re.sub(pattern, other, name)
    return name


@pytest.mark.parametrize("released", ["dinov3", "transformers", "imagenet", pytest.param("timm", marks=pytest.mark.full)])
def test_files_of_convnext_load_under_their_released_names(
    tmp_path: Path, released: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    ours = build("convnext_tiny", {} if released == "timm" else {"width": 0.1}, 2, 1)
    wanted = {name: torch.randn(tensor.shape) * 0.05 for name, tensor in ours.state_dict().items()}
    colour = {name: t.expand(-1, 3, -1, -1) / 3 if name == "stem.0.weight" else t for name, t in wanted.items()}
    file = {of_authors(name): tensor.contiguous() for name, tensor in colour.items()}
    assert len(file) == 178 and "downsample_layers.2.1.weight" in file and "stages.2.8.pwconv2.bias" in file
    file |= {f"norm.{what}": torch.ones(768) for what in ("weight", "bias")}
    if released in ("dinov3", "timm"):
        file |= {f"norms.3.{what}": torch.ones(768) for what in ("weight", "bias")}
    elif released == "transformers":
        file = {for_transformers(name): tensor for name, tensor in file.items()}
    else:
        file |= {"head.weight": torch.ones(1000, 768), "head.bias": torch.ones(1000)}
    save_file(file, tmp_path / "convnext.safetensors")
    load_encoder(tmp_path / "convnext.safetensors", ours, foreign=True)
    said = capsys.readouterr().out
    assert "178/178 tensors matched" in said and "the norm after pooling" in said and "stem.0.weight: 3 channels summed" in said
    assert all(torch.allclose(tensor, wanted[name], atol=1e-7) for name, tensor in ours.state_dict().items())
    if released != "timm" or not (PEERS / "timm").is_dir():
        return
    (tmp_path / "code.py").write_text(
        "import timm\nfrom safetensors.torch import load_file\n"
        "from timm.models.convnext import checkpoint_filter_fn\n"
        "model = timm.create_model('convnext_tiny', num_classes=0)\n"
        "model.load_state_dict(checkpoint_filter_fn(load_file('convnext.safetensors'), model))\n"
        "model.stem[0].weight.data = model.stem[0].weight.data.sum(1, keepdim=True)\n"  # for equal channels
    )
    x = torch.rand(2, 1, 64, 64)
    check_features(ours.eval(), "code", str(tmp_path / "code.py"), tmp_path / "convnext.safetensors", x, tmp_path)


def doubled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in twice(tensors).items()}


def test_a_file_of_nnunet_has_its_axes_turned_and_one_of_a_run_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    ours, again = (build("resenc", {"features": (4, 8), "blocks": (1, 1)}, 3, 1) for _ in range(2))
    tensors = ours.state_dict()
    turned = {name: t.permute(0, 1, 4, 3, 2).contiguous() if t.ndim == 5 else t for name, t in tensors.items()}
    of_encoder = doubled(turned)
    whole = of_encoder | {f"decoder.{name}": tensor.clone() for name, tensor in of_encoder.items()}
    whole["decoder.seg_layers.0.weight"] = torch.ones(2, 8, 1, 1, 1)
    for file, has_decoder in ((of_encoder, False), (whole, True)):
        save_file(file, tmp_path / "nnunet.safetensors")
        load_encoder(tmp_path / "nnunet.safetensors", again, foreign=True)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in tensors.items())
        said = capsys.readouterr().out
        assert "kernels turned from nnU-Net's axes (k, j, i)" in said and ("its decoder is dropped" in said) == has_decoder
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "contract.json").write_text("{}")
    for path, content in ((tmp_path / "run" / "encoder.safetensors", doubled(tensors)), (tmp_path / "own.safetensors", tensors)):
        save_file(content, path)  # earlier versions of medssl stored each tensor twice as well
        load_encoder(path, again, foreign=True)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in tensors.items())
        assert "turned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("library", "name", "dims", "options"),
    [
        ("monai", "resnet50", 3, {"width": 0.125}),
        ("monai", "resnet34", 2, {"stem": "small", "width": 0.125}),
        ("monai", "unet", 2, {"features": (4, 4, 8, 8, 8, 4)}),
        ("monai", "unet", 3, {"features": (4, 4, 8, 8, 8, 4)}),
        ("hf", "resenc", 3, {"features": (4, 8, 8), "blocks": (1, 2, 1)}),
        ("hf", "convnext_tiny", 2, {"width": 0.1}),
    ],
)
def test_the_stated_lines_make_the_network_and_load_it(
    tmp_path: Path, library: str, name: str, dims: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as text, those of the contract, which are those of the README; of torchvision and timm: the test above."""
    ours = make_run(tmp_path / "run", name, dims, **options)
    export(tmp_path / "run", library, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    code = json.loads(Path("contract.json").read_text())["code"]
    assert f"```python\n{code}```" in Path("README.md").read_text(encoding="utf-8")
    place: dict[str, Any] = {}
    exec(code, place)
    theirs, x = place["model"].eval(), torch.rand(2, 1, *[32] * dims)
    with torch.inference_mode():
        if library == "monai" and name == "unet":
            found = theirs.down_4(theirs.down_3(theirs.down_2(theirs.down_1(theirs.conv_0(x)))))
            assert torch.allclose(found, ours(x)[-1], atol=1e-6)
        else:
            found = theirs(x)
            assert torch.allclose(pooled(found) if isinstance(found, list) else found, pooled(ours(x)), atol=1e-6)


def test_the_readme_of_an_exported_folder_has_the_window_of_the_training(tmp_path: Path) -> None:
    mr_encoder(tmp_path / "mr")
    values = phantom(3, (16, 16, 5)).astype(np.float32)
    above = values[values > values.min()]
    low, high = np.percentile(above, [5.0, 90.0], method="inverted_cdf")
    make_run(tmp_path / "ct", "resnet18", width=0.125)
    for run, a, b in (("mr", low, high), ("ct", -1000.0, 1000.0)):
        export(tmp_path / run, "hf", tmp_path / "out" / run)
        *_, code = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / run / "README.md").read_text(encoding="utf-8"), re.S)
        place: dict[str, Any] = {"values": values}
        exec(code, place)
        assert np.allclose(place["seen"], ((values - a) / (b - a)).clip(0, 1)[None], atol=1e-6)


def test_a_repository_layout_has_a_card_and_a_config(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "resnet18", width=0.125)
    written = export(tmp_path / "run", "hf", tmp_path / "out")
    assert sorted(path.name for path in written) == ["README.md", "config.json", "contract.json", "model.safetensors"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["backbone"], config["spatial_dims"], config["input_size"]) == ("resnet18", 2, [32, 32])
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: medssl\n") and "This is not a medical device" in card


def test_nnunets_own_network_gives_the_same_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (PEERS / "dynamic_network_architectures").is_dir():
        pytest.skip("dynamic_network_architectures is not there: make test installs it beside the environment")
    options = {"features": [4, 8, 12], "blocks": [1, 2, 2]}
    monkeypatch.setattr("medssl.nn.adapters.nnunet.require", lambda *_: None)  # of ResEncL's size
    ours = make_run(tmp_path / "run", "resenc", dims=3, **options)
    convert(export(tmp_path / "run", "nnunet", tmp_path / "out")[0], tmp_path / "back.safetensors", key="network_weights")
    name, x = json.dumps(options), torch.rand(2, 1, 16, 20, 24)
    check_features(ours, "dynamic_network_architectures", name, tmp_path / "back.safetensors", x, tmp_path)


def check_features(ours: Any, library: str, name: str, weights: Path, x: torch.Tensor, folder: Path) -> None:
    """The library's network with exported weights gives our output, in a separate process."""
    run_peer(library, name, weights, x, folder)
    compare_features(ours, x, folder)


def run_peer(library: str, name: str, weights: Path, x: torch.Tensor, folder: Path) -> None:
    """Write the features and the tensors of the library's network."""
    save_file({"x": x}, folder / "x.safetensors")
    script = [
        Path(__file__).with_name("real_features.py"),
        library,
        name,
        weights,
        folder / "x.safetensors",
        folder / "y.safetensors",
    ]
    done = subprocess.run(
        [warm.python(), *map(str, script)], env={**os.environ, "PYTHONPATH": str(PEERS)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def compare_features(ours: Any, x: torch.Tensor, folder: Path) -> None:
    """Our output is what `run_peer` wrote."""
    with torch.inference_mode():
        expected = pooled(ours.double()(x.double()))
    # in float64, so that what is compared is the network and not the order of its sums
    assert torch.allclose(load_file(folder / "y.safetensors")["features"].double(), expected.double(), atol=1e-6)


@pytest.mark.parametrize("size", ["small", pytest.param("ResEncL", marks=pytest.mark.full)])
def test_nnunet_gets_a_checkpoint_with_its_plan(tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {} if size == "ResEncL" else {"features": [4, 8], "blocks": [1, 2]}
    if options:
        monkeypatch.setattr("medssl.nn.adapters.nnunet.require", lambda *_: None)
    make_run(tmp_path / "run", "resenc", dims=3, **options)
    stated = tmp_path / "run" / "contract.json"
    stated.write_text(json.dumps(json.loads(stated.read_text()) | {"input_size": [96, 64, 32], "spacing_mm": [0.7, 0.8, 5.0]}))
    target, plan = export(tmp_path / "run", "nnunet", tmp_path / "out")[:2]
    summary = convert(target, tmp_path / "back.safetensors", key="network_weights")
    encoder = tmp_path / "run" / "encoder.safetensors"
    # 448: as many as an nnU-Net checkpoint of ResEncL holds for its encoder, each tensor under two names
    count = 448 if size == "ResEncL" else 2 * len(load_file(encoder))
    assert summary.startswith(f"{count} tensors")
    assert target.stat().st_size < 1.1 * encoder.stat().st_size + 200_000, "and its numbers once"
    written = json.loads(plan.read_text())
    assert written["key_to_stem"] == "encoder.stem"
    assert written["pretrain_plan"]["configurations"]["medssl"]["spacing"] == [5.0, 0.8, 0.7]
    assert written["recommended_downstream_patchsize"] == [32, 64, 96]
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "nnUNetv2_preprocess_like_nnssl -d" in text and "nnUNetv2_train_pretrained" in text and "-1000 to 1000" in text
    back, ours = load_file(tmp_path / "back.safetensors"), load_file(tmp_path / "run" / "encoder.safetensors")
    assert all(torch.equal(back[n], t.transpose(2, 4) if t.ndim == 5 else t) for n, t in ours.items())


def test_an_export_replaces_nothing_unless_asked(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "resnet18", width=0.125)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")

    def exported(out: str, *words: str) -> Any:
        return CliRunner().invoke(
            app, ["export", str(tmp_path / "run"), "--library", "monai", "--out", str(tmp_path / out), *words]
        )

    said = exported("out")
    assert isinstance(said.exception, StudyError) and "out holds README.md already" in str(said.exception)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"], "nothing else was written"
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert exported("out", "--overwrite").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "contract.json", "resnet18.safetensors"]
    assert (tmp_path / "out" / "README.md").read_text() != "mine"
    said = exported("out/README.md")
    assert isinstance(said.exception, StudyError) and "README.md cannot be the folder to write to" in str(said.exception)
    said = exported("run", "--overwrite")
    assert isinstance(said.exception, StudyError) and "is the run itself" in str(said.exception)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_network_that_the_library_does_not_have_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "resnet18", stem="small")
    with pytest.raises(StudyError, match="stem 'small'"):
        export(tmp_path / "run", "torchvision", tmp_path / "out")
    with pytest.raises(StudyError, match="Did you mean 'timm'"):
        export(tmp_path / "run", "tim", tmp_path / "out")
    with pytest.raises(StudyError, match="no contract"):
        export(tmp_path, "timm", tmp_path / "out")


def test_a_foreign_state_is_found_renamed_and_converted(tmp_path: Path) -> None:
    weights = {f"module.{n}": torch.randn(3) for n in "abc"}
    torch.save({"epoch": 3, "state_dict": weights, "opt": {"x": torch.zeros(1)}}, tmp_path / "w.pth")
    assert convert(tmp_path / "w.pth", tmp_path / "w.safetensors", strip="module.").startswith("3 tensors, 9 numbers")
    assert all(torch.equal(load_file(tmp_path / "w.safetensors")[n], weights["module." + n]) for n in "abc")


def test_of_entries_with_as_many_tensors_none_is_chosen_and_the_one_taken_is_named(tmp_path: Path) -> None:
    student, teacher = ({"w": torch.full((2,), value)} for value in (1.0, 2.0))
    torch.save({"student": student, "teacher": {"backbone": teacher}, "epoch": 3}, tmp_path / "two.pth")
    with pytest.raises(StudyError, match=r"2 entries of 1 tensors each. Choose one with --key: student, teacher/backbone"):
        convert(tmp_path / "two.pth", tmp_path / "out.safetensors")
    assert "of entry teacher/backbone;" in convert(tmp_path / "two.pth", tmp_path / "out.safetensors", key="teacher")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["w"], teacher["w"])
    torch.save({"model": teacher, "again": {"model": teacher}}, tmp_path / "once.pth")
    assert "of entry model;" in convert(tmp_path / "once.pth", tmp_path / "out.safetensors")
    torch.save({"module.w": torch.zeros(2), "w": torch.ones(2)}, tmp_path / "both.pth")
    with pytest.raises(StudyError, match=r"'module.w' and 'w', which --strip module. gives one name"):
        convert(tmp_path / "both.pth", tmp_path / "out.safetensors", strip="module.")


def test_the_command_converts_as_its_error_says(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pth")
    words = ["convert", str(tmp_path / "w.pth"), "--out", str(tmp_path / "w.safetensors")]
    said = CliRunner().invoke(app, words, catch_exceptions=False)
    assert said.exit_code == 0 and said.output.startswith("1 tensors, 2 numbers")
    assert list(load_file(tmp_path / "w.safetensors")) == ["a"]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil-was-here",)


def test_a_file_that_would_run_code_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(2)}, "evil": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "junk.pth").write_bytes(b"not weights")
    for name in ("evil.pth", "junk.pth"):
        with pytest.raises(StudyError, match="was not converted"):
            convert(tmp_path / name, tmp_path / "out.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth", "junk.pth"]


def test_the_command_embeds_new_images_as_the_contract_says_and_prepared_ones_as_they_are(tmp_path: Path) -> None:
    ours = make_run(tmp_path / "run", "resnet18", width=0.125)
    contract = json.loads((tmp_path / "run" / "contract.json").read_text())
    contract |= {"modalities": ["CT"], "window": {"low": [-160.0], "high": [240.0], "differs_by_volume": False}}
    (tmp_path / "run" / "contract.json").write_text(json.dumps(contract))
    image = phantom(3, (32, 32, 5))
    (tmp_path / "new").mkdir()
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1, 1, 2.5, 1])), tmp_path / "new" / "scan.nii.gz")
    (tmp_path / "new" / "notes.txt").write_text("nothing")

    def embedded(source: Path) -> np.ndarray:
        words = ["embed", str(source), str(tmp_path / "run"), "--out", str(tmp_path / "out" / "f.parquet"), "--overwrite"]
        said = CliRunner().invoke(app, words, catch_exceptions=False)
        assert said.exit_code == 0, said.output
        table = tables.read_parquet(tmp_path / "out" / "f.parquet")
        assert table["sample_id"].is_monotonic_increasing
        return table.iloc[:, 1:].to_numpy(np.float32)

    x = torch.from_numpy(((image.astype(np.float32) + 160) / 400).clip(0, 1)).permute(2, 0, 1)[:, None]
    assert np.allclose(embedded(tmp_path / "new"), pooled(ours(x)).detach().numpy(), atol=1e-4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["f.files.tsv", "f.parquet", "f.rejected.tsv"]
    assert tables.read_tsv(tmp_path / "out" / "f.files.tsv")["file"].tolist() == ["scan.nii.gz"]
    assert tables.read_tsv(tmp_path / "out" / "f.rejected.tsv")["code"].tolist() == ["not_an_image"]
    inputs = write_prepared(tmp_path / "study", shape=(32, 32, 5))
    assert len(embedded(Path(inputs["samples"][0]).parent)) == 15


def test_embed_writes_a_row_of_features_per_image(tmp_path: Path) -> None:
    ours = make_run(tmp_path / "run", "resnet18", width=0.125)
    inputs = write_prepared(tmp_path / "study", shape=(32, 32, 5))
    prepared = Path(inputs["samples"][0]).parent
    assert embed(prepared, tmp_path / "run", tmp_path / "f.parquet", batch_size=4) == 15
    table = tables.read_parquet(tmp_path / "f.parquet")
    assert table["sample_id"].tolist() == tables.read_parquet(prepared / "samples.parquet")["sample_id"].tolist()
    image = np.load(next((prepared / "arrays").glob("*0000.npy")))[:, :, 2].astype(np.float32)
    x = torch.from_numpy(((image + 1000) / 2000).clip(0, 1))[None, None]
    assert np.allclose(table.iloc[2, 1:].to_numpy(np.float32), pooled(ours(x))[0].detach().numpy(), atol=1e-4)


# The rule of an MR encoder's windows, and what it was not trained on


def mr_encoder(folder: Path, **learnt: Any) -> Any:
    """An encoder of axial MR slices of 1 mm, each volume in its own window."""
    ours = make_run(folder, "resnet18", width=0.125)
    contract = json.loads((folder / "contract.json").read_text())
    contract["window"] = {
        "low": None,
        "high": None,
        "differs_by_volume": True,
        "rules": ["percentiles"],
        "percentiles": [5.0, 90.0],
    }
    usual = {"modalities": {"MR": 7}, "slice_axes": [2], "spacing_low_mm": [0.9, 0.9, 2.0], "spacing_high_mm": [1.1, 1.1, 3.0]}
    contract |= {"modalities": ["MR"], "learnt": usual | learnt}
    (folder / "contract.json").write_text(json.dumps(contract))
    return ours


def embed_new(tmp_path: Path, *words: str) -> Any:
    line = ["embed", str(tmp_path / "new"), str(tmp_path / "run"), "--out", str(tmp_path / "out" / "f.parquet"), *words]
    return CliRunner().invoke(app, line)


def put(tmp_path: Path, name: str, spacing: tuple[float, ...] = (1, 1, 2.5), seed: int = 3) -> np.ndarray:
    image = phantom(seed, (32, 32, 5))
    (tmp_path / "new").mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([*spacing, 1])), tmp_path / "new" / name)
    return image


def test_new_images_are_seen_through_the_percentiles_of_their_own_values(tmp_path: Path) -> None:
    ours = mr_encoder(tmp_path / "run")
    image = put(tmp_path, "scan.nii.gz").astype(np.float32)
    said = embed_new(tmp_path)
    assert said.exit_code == 0, said.output
    above = image[image > image.min()]
    low, high = np.percentile(above, [5.0, 90.0], method="inverted_cdf")
    x = torch.from_numpy(((image - low) / (high - low)).clip(0, 1)).permute(2, 0, 1)[:, None]
    found = tables.read_parquet(tmp_path / "out" / "f.parquet").iloc[:, 1:].to_numpy(np.float32)
    assert np.allclose(found, pooled(ours(x)).detach().numpy(), atol=1e-4)


def test_an_exported_contract_has_the_rule(tmp_path: Path) -> None:
    mr_encoder(tmp_path / "run")
    *_, path, _ = export(tmp_path / "run", "monai", tmp_path / "exported")
    window = json.loads(path.read_text())["window"]
    assert (window["low"], window["high"], window["percentiles"]) == (None, None, [5.0, 90.0])


@pytest.mark.parametrize(
    ("name", "spacing", "words"),
    [
        ("scan_ct.nii.gz", (1, 1, 2.5), ["holds no usable image", "CT, where MR is kept"]),
        ("scan_T1w.nii.gz", (3, 3, 3.5), ["spacing along i, j in mm 3 × 3", "0.9–1.1 × 0.9–1.1"]),
        ("scan_T1w.nii.gz", (2.5, 1, 1), ["slice axis (i: sagittal, j: coronal, k: axial) i", "the encoder was trained on k"]),
    ],
)
def test_images_unlike_the_training_images_are_refused_or_forced(
    tmp_path: Path, name: str, spacing: tuple[float, ...], words: list[str]
) -> None:
    mr_encoder(tmp_path / "run")
    put(tmp_path, name, spacing)
    said = embed_new(tmp_path)
    assert isinstance(said.exception, StudyError) and not (tmp_path / "out" / "f.parquet").exists()
    text = str(said.exception)
    assert all(word in text or word.capitalize() in text for word in words) and "--force" in text, text
    forced = embed_new(tmp_path, "--force")
    assert forced.exit_code == 0 and "medssl: warning:" in forced.stderr
    assert len(tables.read_parquet(tmp_path / "out" / "f.parquet"))


def test_among_others_an_image_of_another_modality_is_set_aside_and_said(tmp_path: Path) -> None:
    mr_encoder(tmp_path / "run")
    put(tmp_path, "a_T1w.nii.gz")
    put(tmp_path, "b_ct.nii.gz", seed=4)
    said = embed_new(tmp_path)
    assert said.exit_code == 0 and "1 files refused" in said.stderr
    assert tables.read_tsv(tmp_path / "out" / "f.files.tsv")["file"].tolist() == ["a_T1w.nii.gz"]
    assert tables.read_tsv(tmp_path / "out" / "f.rejected.tsv")["code"].tolist() == ["other_modality"]
    again = embed_new(tmp_path, "--force")
    assert isinstance(again.exception, StudyError) and "f.parquet, f.files.tsv, f.rejected.tsv already" in str(again.exception)
    forced = embed_new(tmp_path, "--force", "--overwrite")
    assert forced.exit_code == 0 and "modality CT" in forced.stderr
    assert set(tables.read_tsv(tmp_path / "out" / "f.files.tsv")["file"]) == {"a_T1w.nii.gz", "b_ct.nii.gz"}


def test_a_prepared_source_is_compared_with_the_contract_too(tmp_path: Path) -> None:
    mr_encoder(tmp_path / "run")
    prepared = Path(write_prepared(tmp_path / "study", shape=(32, 32, 5))["samples"][0]).parent
    with pytest.raises(StudyError, match=r"Modality CT of .* and 2 more, where the encoder was trained on MR"):
        embed(prepared, tmp_path / "run", tmp_path / "f.parquet")
    assert embed(prepared, tmp_path / "run", tmp_path / "f.parquet", force=True) == 15


def test_an_encoder_of_several_windows_of_ct_takes_no_raw_images(tmp_path: Path) -> None:
    mr_encoder(tmp_path / "run")
    contract = json.loads((tmp_path / "run" / "contract.json").read_text())
    contract["window"] |= {"rules": ["hu"], "percentiles": None}
    (tmp_path / "run" / "contract.json").write_text(json.dumps(contract))
    put(tmp_path, "scan.nii.gz")
    said = embed_new(tmp_path)
    assert isinstance(said.exception, StudyError) and "embed 2_prepare/<source>" in str(said.exception)
