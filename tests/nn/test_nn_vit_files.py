"""Transformers to and from others: timm and nnU-Net's Primus compute the same features from the exported weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_encoders import make_run
from safetensors.torch import save_file
from test_nn_transfer import PEERS, check_features, compare_features, run_peer

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.nn.adapters.nnunet import PRIMUS as shapes_of_primus
from medssl.nn.backbone import build, pooled
from medssl.nn.transfer import export, open_encoder
from medssl.nn.transformer import gated_width
from medssl.nn.vit_files import of_primus, to_primus
from medssl.nn.weights import load_encoder

SHAPE = {"width": 36, "blocks": 2, "heads": 3}
PRIMUS: dict[str, Any] = {"form": "primus", "layer_scale": 0.1, **SHAPE}


def made(dims: int, **options: Any) -> Any:
    """With drawn weights everywhere, also in what begins at 0."""
    torch.manual_seed(0)
    return drawn(build("vit", plugins.find("backbone", "vit").check(options), dims, 1))


def drawn(network: Any) -> Any:
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def require_primus() -> None:
    """Skip where nnU-Net's networks, or einops, which the transformers among them need, are not beside the environment."""
    if not all((PEERS / package).is_dir() for package in ("dynamic_network_architectures", "einops")):
        pytest.skip("dynamic_network_architectures and einops are not there: make test installs them beside the environment")


def made_run(folder: Path, dims: int, **options: Any) -> Any:
    ours = drawn(make_run(folder, "vit", dims, **options))
    save_file(ours.state_dict(), folder / "encoder.safetensors")
    return ours


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "learned", "learned_grid": (2, 3), "perceptron": "swiglu", "pool": "class", "epsilon": 1e-3},
        {"positions": "rotary", "perceptron": "swiglu", "registers": 2, "pool": "class_and_mean", "layer_scale": 0.5},
        {"positions": "both", "learned_grid": (4, 4), "patch": 8, "registers": 0, "pool": "mean"},
    ],
)
def test_timms_network_of_the_exported_folder_gives_the_pooled_features(tmp_path: Path, options: dict[str, Any]) -> None:
    if not (PEERS / "timm").is_dir():
        pytest.skip("timm is not there: make test installs it beside the environment")
    ours = made_run(tmp_path / "run", 2, **SHAPE, **options)
    weights, contract, readme = export(tmp_path / "run", "timm", tmp_path / "out")
    code = json.loads(contract.read_text())["code"]
    assert f"```python\n{code}```" in readme.read_text(encoding="utf-8")
    (tmp_path / "code.py").write_text(code)
    x = torch.rand(2, 1, 32, 32)
    before = pooled(ours(x))
    check_features(ours, "called", str(tmp_path / "code.py"), weights, x, tmp_path)
    assert torch.allclose(pooled(open_encoder(tmp_path / "out")[1].eval()(x)), before, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Primus", {"positions": "both", "learned_grid": (2, 3, 4)}),
        ("PrimusV2", {"stem": "residual"}),
    ],
)
def test_nnunets_primus_gives_the_same_features_and_its_file_comes_back(
    tmp_path: Path, name: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """On an image with three different numbers of patches, so that no axis is taken for another."""
    require_primus()
    ours, x = made(3, **PRIMUS, **options), torch.rand(1, 1, 16, 24, 32)
    save_file(to_primus(ours, (16, 24, 32)), tmp_path / "primus.safetensors")
    before = pooled(ours(x))
    check_features(
        ours, "primus", json.dumps({"class": name, "shape": list(SHAPE.values())}), tmp_path / "primus.safetensors", x, tmp_path
    )
    again = build("vit", plugins.find("backbone", "vit").check(PRIMUS | options), 3, 1).eval()
    match = load_encoder(tmp_path / "saved.safetensors", again, foreign=True)  # as nnU-Net saves it, with decoder and mask token
    assert match.matched == match.total == len(again.state_dict())
    said = capsys.readouterr().out
    assert "mask_token is dropped" in said and "up_projection is dropped" in said
    assert f"{match.total}/{match.total} tensors" in said
    assert torch.allclose(pooled(again(x)), before, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(("size", "name"), [("small", "PrimusS"), ("medium", "PrimusM"), ("base", "PrimusB")])
def test_every_tensor_of_nnunets_own_sizes_finds_its_place(tmp_path: Path, size: str, name: str) -> None:
    require_primus()
    given = {"form": "primus", "size": size, "layer_scale": 0.1, "positions": "both", "learned_grid": (2, 2, 2)}
    ours = drawn(build("vit", plugins.find("backbone", "vit").check(given), 3, 1))
    assert shapes_of_primus[(ours.channels[0], len(ours.blocks), ours.channels[0] // ours.of_head)] == name
    save_file(to_primus(ours, (16,) * 3), tmp_path / "primus.safetensors")
    x = torch.rand(1, 1, 16, 16, 16)
    check_features(ours, "primus", json.dumps({"class": name, "shape": None}), tmp_path / "primus.safetensors", x, tmp_path)
    again = build("vit", plugins.find("backbone", "vit").check(given), 3, 1)
    assert load_encoder(tmp_path / "saved.safetensors", again, foreign=True).matched == len(again.state_dict())


def test_learned_positions_of_another_cube_are_resampled_along_their_own_axes() -> None:
    ours = made(3, **PRIMUS, positions="both", learned_grid=(2, 4, 6))
    theirs = torch.zeros(1, 4, 4, 4, 36)
    theirs += torch.arange(4.0).view(1, 4, 1, 1, 1)  # grows along nnU-Net's first axis, which is k
    found, changes = of_primus(ours, {"eva.pos_embed": theirs.flatten(1, 3)})
    places = found["pos_embed"].view(2, 4, 6, 36)
    assert torch.allclose(places[0, 0], places[1, 3]) and bool((places[0, 0].diff(dim=0) > 0).any())
    assert "positions resampled from [4, 4, 4] patches to [2, 4, 6], equal sides assumed" in changes


def test_positions_of_as_many_places_on_another_grid_are_resampled_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file cannot state its grid, and those of the public have equal sides."""
    ours = made(2, **SHAPE, positions="learned", learned_grid=(2, 8), registers=0)
    file = ours.state_dict() | {"pos_embed": torch.zeros(1, 17, 36)}
    file["pos_embed"][:, 1:] = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 4, 36).flatten(1, 2)  # grows along the first axis
    save_file(file, tmp_path / "square.safetensors")
    load_encoder(tmp_path / "square.safetensors", ours, foreign=True)
    places = ours.state_dict()["pos_embed"][:, 1:].view(2, 8, 36)
    assert torch.allclose(places, places[:, :1], atol=1e-5) and bool((places[1] > places[0] + 1).all())
    assert "positions resampled from [4, 4] patches to [2, 8], equal sides assumed" in capsys.readouterr().out
    solid = made(3, **PRIMUS, positions="both", learned_grid=(2, 4, 8))
    theirs = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(1, 4, 4, 4, 36)  # grows along nnU-Net's first axis, which is k
    found, changes = of_primus(solid, {"eva.pos_embed": theirs.flatten(1, 3)})
    places = found["pos_embed"].view(2, 4, 8, 36)
    assert torch.allclose(places[0, 0], places[1, 3]) and bool((places[0, 0, 1:-1].diff(dim=0) > 0).all())
    assert "positions resampled from [4, 4, 4] patches to [2, 4, 8], equal sides assumed" in changes


@pytest.mark.parametrize(
    ("library", "options"),
    [
        ("timm", {"positions": "learned", "learned_grid": (2, 8), "registers": 0}),
        ("timm", {"positions": "learned", "learned_grid": (3, 5), "registers": 1}),
        ("hf", {"positions": "both", "learned_grid": (1, 16)}),
        ("nnunet", {**PRIMUS, "positions": "both", "learned_grid": (2, 4, 8)}),
    ],
)
def test_an_exported_encoder_of_an_unequal_grid_comes_back_as_it_was(
    tmp_path: Path, library: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shapes_of_primus, (36, 2, 3), "PrimusS")
    ours = made_run(tmp_path / "run", 3 if library == "nnunet" else 2, **SHAPE | options)
    stated = tmp_path / "run" / "contract.json"
    size = [side * ours.patch for side in options["learned_grid"]]
    stated.write_text(json.dumps(json.loads(stated.read_text()) | {"input_size": size}))
    export(tmp_path / "run", library, tmp_path / "out")
    again = open_encoder(tmp_path / "out")[1].state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.state_dict().items())


def broken(name: str, **changes: Any) -> Any:
    """A file's tensors with one left out, or replaced by one of a shape."""

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {key: tensor for key, tensor in tensors.items() if key != name}
        return kept | ({name: torch.zeros(changes["shape"])} if "shape" in changes else {})

    return change


@pytest.mark.parametrize(
    ("dims", "change"),
    [
        (2, broken("cls_token")),
        (2, broken("cls_token", shape=(36,))),
        (2, broken("pos_embed", shape=(36,))),
        (2, broken("pos_embed", shape=(1, 0, 36))),
        (2, broken("pos_embed", shape=(1, 2, 8, 36))),
        (2, broken("pos_embed", shape=(1, 26, 40))),
        (2, broken("blocks.0.attn.qkv.bias_mask", shape=(7,))),
        (2, lambda tensors: broken("blocks.0.attn.qkv.bias")(broken("blocks.0.attn.qkv.bias_mask", shape=(108,))(tensors))),
        (2, broken("blocks.0.attn.qkv.bias")),
        (3, broken("eva.pos_embed", shape=(36,))),
        (3, broken("eva.pos_embed", shape=(1, 0, 36))),
        (3, broken("eva.blocks.0.attn.q_proj.weight", shape=(35, 36))),
        (3, broken("eva.blocks.0.attn.k_proj.weight")),
        (3, broken("eva.blocks.0.attn.q_proj.bias", shape=(5,))),
    ],
)
def test_a_file_that_lacks_a_tensor_or_has_one_of_another_shape_is_refused_with_the_count(
    tmp_path: Path, dims: int, change: Any
) -> None:
    grid = {"positions": "both", "learned_grid": (4, 4, 2)[:dims]}
    ours = made(dims, **(PRIMUS if dims == 3 else SHAPE | {"registers": 0}), **grid)
    file = to_primus(ours, (32, 32, 16)) if dims == 3 else ours.state_dict() | {"pos_embed": torch.zeros(1, 26, 36)}
    save_file(change(file), tmp_path / "vit.safetensors")
    with pytest.raises(StudyError, match=r"vit.safetensors: only \d+/\d+ tensors matched"):
        load_encoder(tmp_path / "vit.safetensors", ours, foreign=True)


@pytest.mark.parametrize("biases", [True, False])
def test_biases_of_timms_dinov3_are_those_of_queries_and_values_or_none(tmp_path: Path, biases: bool) -> None:
    ours, again = made(2, **SHAPE), build("vit", plugins.find("backbone", "vit").check(SHAPE), 2, 1)
    file = {}
    for name, tensor in ours.state_dict().items():
        if not name.endswith("qkv.bias"):
            file[name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")] = tensor
            continue
        tensor[36:72] = 0
        if not biases:
            tensor.zero_()
            continue
        file |= {
            name.replace("qkv.bias", f"{part}_bias"): share.clone() for part, share in zip("qkv", tensor.chunk(3), strict=True)
        }
        del file[name.replace("qkv.bias", "k_bias")]
    save_file(file, tmp_path / "timm.safetensors")
    load_encoder(tmp_path / "timm.safetensors", again, foreign=True)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("timms", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
def test_what_timm_saves_of_its_dinov3_gives_the_same_features(tmp_path: Path, timms: str) -> None:
    if not (PEERS / "timm").is_dir():
        pytest.skip("timm is not there: make test installs it beside the environment")
    (tmp_path / "code.py").write_text(
        f"import timm, torch\ntorch.manual_seed(0)\nmodel = timm.create_model('{timms}', in_chans=1, num_classes=0)\n"
        "for one in model.parameters():\n    torch.nn.init.normal_(one, std=0.05)\n"
    )
    save_file({"none": torch.zeros(1)}, tmp_path / "none.safetensors")
    x = torch.rand(2, 1, 64, 64)
    ours = build("vit", {"size": "small", "registers": 4, "epsilon": 1e-5, "layer_scale": 1.0}, 2, 1).eval()
    run_peer("code", str(tmp_path / "code.py"), tmp_path / "none.safetensors", x, tmp_path)
    load_encoder(tmp_path / "saved.safetensors", ours, foreign=True)
    compare_features(ours, x, tmp_path)


def test_the_checkpoint_for_nnunet_names_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes_of_primus, (36, 2, 3), "PrimusS")
    ours = made_run(tmp_path / "run", 3, **PRIMUS)
    x = torch.rand(1, 1, 32, 32, 32)
    _, plan, contract, _ = export(tmp_path / "run", "nnunet", tmp_path / "out")
    written = json.loads(plan.read_text())
    assert written["architecture_plans"]["arch_class_name"] == "PrimusS" and written["key_to_lpe"] == "eva.pos_embed"
    assert "PretrainedTrainer_Primusx" in json.loads(contract.read_text())["code"]
    assert to_primus(ours, (32, 32, 32))["eva.pos_embed"].shape == (1, 64, 36)
    assert torch.allclose(pooled(open_encoder(tmp_path / "out")[1].eval()(x)), pooled(ours(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("dims", "options", "library", "words"),
    [
        (3, {**SHAPE}, "nnunet", r"form 'timm'.*form 'primus'"),
        (3, {**PRIMUS}, "nnunet", r"Got width, blocks and heads \[36, 2, 3\]"),
        (3, {**PRIMUS, "stem": "residual"}, "nnunet", "stem 'residual'"),
        (3, {**PRIMUS}, "timm", "spatial_dims 3"),
        (2, {**SHAPE, "layer_scale": 0.0}, "timm", r"have factors of the branches"),
    ],
)
def test_what_a_library_cannot_build_is_refused(
    tmp_path: Path, dims: int, options: dict[str, Any], library: str, words: str
) -> None:
    made_run(tmp_path / "run", dims, **options)
    with pytest.raises(StudyError, match=words):
        export(tmp_path / "run", library, tmp_path / "out")


def test_a_file_of_primus_for_another_form_is_refused_with_the_options_it_needs(tmp_path: Path) -> None:
    save_file(to_primus(made(3, **PRIMUS), (16, 16, 16)), tmp_path / "primus.safetensors")
    with pytest.raises(StudyError, match=r"set vit: \{form: primus, size: medium"):
        load_encoder(tmp_path / "primus.safetensors", made(3, **SHAPE), foreign=True)


def test_a_gate_has_the_width_of_dinov2s_released_networks() -> None:
    assert [gated_width(width) for width in (384, 768, 1536)] == [1024, 2048, 4096]
