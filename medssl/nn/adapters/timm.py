"""An encoder for timm's ResNet, ConvNeXt and vision transformer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.core.errors import StudyError
from medssl.nn.adapters._common import python, require
from medssl.nn.backbone import Backbone, build, call
from medssl.nn.backbones.vit import ViT
from medssl.nn.weights import save_tensors

POOLS = {"mean": "avg", "class": "token", "class_and_mean": ""}
"""What timm calls the features of a whole image; it does not join two of them."""


def timm(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write weights for the network of `network`, names unchanged, except for the factors of a transformer with rotary positions.

    Raises:
        StudyError: the encoder is 3-D, or timm has no such network.
    """
    require(contract, "timm")
    target = out / f"{contract.backbone}.safetensors"
    backbone = _backbone(contract)
    if isinstance(backbone, ViT) and backbone.rotary:
        if not contract.backbone_options["layer_scale"]:
            raise StudyError(
                "timm's networks with rotary positions have factors of the branches, and this encoder has none (layer_scale 0). "
                "Pre-train with layer_scale: 1.0e-5, or use encoder.safetensors as it is."
            )
        tensors = {name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): t for name, t in tensors.items()}
    save_tensors(target, tensors)
    return [target]


def network(contract: Contract) -> str:
    """The expression that builds the network for the weights, whose output is the encoder's features."""
    backbone = _backbone(contract)
    if isinstance(backbone, ViT):
        return _transformer(backbone, contract)
    return call("timm.create_model", {"model_name": contract.backbone, "in_chans": contract.in_channels, "num_classes": 0})


def code(contract: Contract) -> str:
    """The lines that make the network and load the weights; its ConvNeXt has a norm after the last map, which encoders lack."""
    made, weights = f"model = {network(contract)}", f"{contract.backbone}.safetensors"
    backbone = _backbone(contract)
    if not isinstance(backbone, ViT):
        missing = "" if contract.backbone.startswith("resnet") else "the norm before the head"
        return python("import timm", made, weights, missing=missing)
    lines = python("import functools\n\nimport timm\nimport torch", made, weights)
    joined = "torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(1)], 1)"
    return lines + (f"# features of images: tokens = model(images); {joined}\n" if backbone.pool == "class_and_mean" else "")


def _backbone(contract: Contract) -> Backbone:
    with torch.device("meta"):
        return build(contract.backbone, contract.backbone_options, contract.spatial_dims, contract.in_channels)


def _transformer(backbone: ViT, contract: Contract) -> str:
    """Timm has one class of networks with learned positions alone, and another one with rotary ones."""
    first, width = backbone.blocks[0], backbone.channels[0]
    grid = backbone.learned_grid or tuple(side // backbone.patch for side in contract.input_size)
    registers = 0 if backbone.reg_token is None else backbone.reg_token.shape[1]
    scale = contract.backbone_options["layer_scale"] or None
    gate = getattr(first.mlp, "fc1", None) if contract.backbone_options["perceptron"] == "swiglu" else None
    common = {
        "in_chans": contract.in_channels, "num_classes": 0, "img_size": tuple(side * backbone.patch for side in grid),
        "dynamic_img_size": True, "patch_size": backbone.patch, "embed_dim": width, "depth": len(backbone.blocks),
        "num_heads": width // backbone.of_head, "init_values": scale, "global_pool": POOLS[backbone.pool],
        "no_embed_class": registers > 0,
    }  # fmt: skip
    norm = f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={backbone.norm.eps!r})"
    if not backbone.rotary:
        own = {"model_name": "vit_base_patch16_224", **common, "reg_tokens": registers, "fc_norm": False}
        gated = (
            ""
            if gate is None
            else f", {_ratio(gate.out_features, width)}, mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU"
        )
        return call("timm.create_model", own)[:-1] + f", {norm}{gated})"
    own = {
        "model_name": "vit_small_patch16_dinov3_qkvb", **common, "num_reg_tokens": registers, "attn_type": "rope",
        "use_abs_pos_emb": backbone.learned_grid is not None,
    }  # fmt: skip
    gated = "" if gate is None else f", {_ratio(gate.out_features // 2, width)}, swiglu_mlp=True"
    return call("timm.create_model", own)[:-1] + f", {norm}{gated})"


def _ratio(inside: int, width: int) -> str:
    """Timm rounds the product of ratio and width down."""
    return f"mlp_ratio={(inside + 0.5) / width!r}"
