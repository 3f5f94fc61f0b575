"""An encoder for nnU-Net's fine-tuning from nnssl checkpoints: ResEncL, or Primus-S, -M and -B.

This file writes that tool's format and never reads one. nnU-Net reads images with their axes reversed, (k, j, i) instead of
(i, j, k): kernels, positions, spacing and patch are reversed for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.core.errors import StudyError
from medssl.core.files import write_json, writing
from medssl.nn.adapters._common import require
from medssl.nn.backbone import build
from medssl.nn.backbones.resenc import Convolution
from medssl.nn.backbones.vit import ViT
from medssl.nn.vit_files import to_primus

CONFIGURATION = "medssl"
KEY = "network_weights"
"""The entry of the checkpoint that holds the weights."""
KEYS_OF_RESENC: dict[str, Any] = {
    "key_to_encoder": "encoder.stages",
    "key_to_stem": "encoder.stem",
    "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
    "key_to_lpe": None,
}
KEYS_OF_PRIMUS: dict[str, Any] = {
    "key_to_encoder": "eva",
    "key_to_stem": "down_projection",
    "keys_to_in_proj": ["down_projection.proj"],
    "key_to_lpe": "eva.pos_embed",
}
PRIMUS = {(396, 12, 6): "PrimusS", (864, 16, 12): "PrimusM", (792, 12, 12): "PrimusB"}
"""By width, blocks and heads; nnU-Net builds them with patches of 8³."""
TRAINER_OF_PRIMUS = "PretrainedTrainer_Primusx"


def nnunet(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write `checkpoint_final.pth` with its `nnssl_adaptation_plan`, and the plan beside it as `adaptation_plan.json`.

    Raises:
        StudyError: the encoder is neither the 3-D `resenc` at the size of ResEncL, nor a `vit` in the form of these Primus.
    """
    require(contract, "nnunet")
    patch, spacing = contract.input_size[::-1], contract.spacing_mm and contract.spacing_mm[::-1]
    with torch.device("meta"):
        backbone = build(contract.backbone, contract.backbone_options, contract.spatial_dims, contract.in_channels)
    if isinstance(backbone, ViT):
        architecture, keys = _primus(backbone, contract), KEYS_OF_PRIMUS
        backbone.load_state_dict(tensors, assign=True)
        weights = to_primus(backbone, tuple(contract.input_size))
    else:
        architecture, keys, weights = "ResEncL", KEYS_OF_RESENC, twice(reversed_axes(tensors))
    plan = {
        "architecture_plans": {"arch_class_name": architecture, "arch_kwargs": None, "arch_kwargs_requiring_import": None},
        "pretrain_plan": {
            "configurations": {
                CONFIGURATION: {
                    "name": CONFIGURATION,
                    "spacing": spacing,
                    "spacing_style": "noresample",
                    "patch_size": patch,
                    "normalization_schemes": ["NoNormalization"],
                }
            }
        },
        "pretrain_num_input_channels": contract.in_channels,
        "recommended_downstream_patchsize": patch,
        **keys,
    }
    target = out / "checkpoint_final.pth"
    with writing(target) as temporary:
        torch.save({KEY: weights, "nnssl_adaptation_plan": plan, "citations": [], "trainer_name": "medssl"}, temporary)
    write_json(out / "adaptation_plan.json", plan)
    return [target, out / "adaptation_plan.json"]


def reversed_axes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with kernels `(out, in, i, j, k)` as `(out, in, k, j, i)`, or the other way round."""
    return {name: (t.permute(0, 1, 4, 3, 2) if t.ndim == 5 else t).contiguous() for name, t in tensors.items()}


def _primus(backbone: ViT, contract: Contract) -> str:
    """nnU-Net's name of the network.

    Raises:
        StudyError: it has none of this shape.
    """
    shape = backbone.channels[0], len(backbone.blocks), backbone.channels[0] // backbone.of_head
    options = contract.backbone_options
    fits = backbone.patch == 8 and backbone.rotary and backbone.reg_token is None and options["layer_scale"]
    if shape not in PRIMUS or not fits or backbone.norm.eps != 1e-5:
        raise StudyError(
            f"nnU-Net builds {', '.join(PRIMUS.values())} with patches of 8, rotary positions, factors of the branches, epsilon "
            f"1e-5 and no registers. Got width, blocks and heads {list(shape)}, patch {backbone.patch}, positions "
            f"{options['positions']}, layer_scale {options['layer_scale']}, epsilon {backbone.norm.eps}, registers "
            f"{options['registers'] or 0}. Pre-train with vit: {{form: primus, size: small, layer_scale: 0.1}}, or use "
            "encoder.safetensors as it is."
        )
    return PRIMUS[shape]


def twice(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under both names that nnU-Net's network has for them; the file holds the numbers once."""
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor
        for second, first in Convolution.second_names.items():
            if name.endswith(f".{first}"):
                found[name.removesuffix(first) + second] = tensor
    return found


def network(contract: Contract) -> str:
    """nnU-Net builds its own from the adaptation plan."""
    return "nnUNetv2_train_pretrained"


def code(contract: Contract) -> str:
    """The commands of nnU-Net for nnssl checkpoints; a plan of the data set is made before, and the plan is edited between."""
    trainer = f" -tr {TRAINER_OF_PRIMUS}" if contract.backbone_options.get("form") == "primus" else ""
    return (
        "nnUNetv2_preprocess_like_nnssl -d DATASET_ID -n medssl -pc checkpoint_final.pth -am like_pretrained\n"
        "# see below: the plan that this wrote, without its normalisation, as medssl.json\n"
        "nnUNetv2_preprocess -d DATASET_ID -plans_name medssl -c 3d_fullres\n"
        f"nnUNetv2_train_pretrained DATASET_ID 3d_fullres FOLD -p medssl{trainer}\n"
    )
