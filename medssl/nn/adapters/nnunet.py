"""An encoder for nnU-Net's fine-tuning from nnssl checkpoints. This file writes that tool's format and never reads one.

nnU-Net reads images with their axes reversed, (k, j, i) instead of (i, j, k): kernels, spacing and patch are reversed for it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.core.files import write_json, writing
from medssl.nn.adapters._common import require
from medssl.nn.backbones.resenc import Convolution

CONFIGURATION = "medssl"
KEY = "network_weights"
"""The entry of the checkpoint that holds the weights."""


def nnunet(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write `checkpoint_final.pth` with its `nnssl_adaptation_plan`, and the plan beside it as `adaptation_plan.json`.

    Raises:
        StudyError: the encoder is not the 3-D `resenc` at the size of ResEncL.
    """
    require(contract, "nnunet")
    patch, spacing = contract.input_size[::-1], contract.spacing_mm and contract.spacing_mm[::-1]
    plan = {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None},
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
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }
    target = out / "checkpoint_final.pth"
    weights = twice(reversed_axes(tensors))
    with writing(target) as temporary:
        torch.save({KEY: weights, "nnssl_adaptation_plan": plan, "citations": [], "trainer_name": "medssl"}, temporary)
    write_json(out / "adaptation_plan.json", plan)
    return [target, out / "adaptation_plan.json"]


def reversed_axes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with kernels `(out, in, i, j, k)` as `(out, in, k, j, i)`, or the other way round."""
    return {name: (t.permute(0, 1, 4, 3, 2) if t.ndim == 5 else t).contiguous() for name, t in tensors.items()}


restored = reversed_axes
"""The encoder's own tensors of those that were written."""


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
    return (
        "nnUNetv2_preprocess_like_nnssl -d DATASET_ID -n medssl -pc checkpoint_final.pth -am like_pretrained\n"
        "# see below: the plan that this wrote, without its normalisation, as medssl.json\n"
        "nnUNetv2_preprocess -d DATASET_ID -plans_name medssl -c 3d_fullres\n"
        "nnUNetv2_train_pretrained DATASET_ID 3d_fullres FOLD -p medssl\n"
    )
