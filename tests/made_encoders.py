"""The folder of a pre-training run made in a test: weights that were drawn, and their contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medssl.artefacts.encoder import ENCODER_FORMAT, Contract, Data
from medssl.artefacts.training_images import Window
from medssl.core import plugins
from medssl.nn.backbone import build
from medssl.nn.weights import save_encoder


def make_run(folder: Path, name: str, dims: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    options = plugins.find("backbone", name).check(options)
    backbone = build(name, options, dims, 1).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, torch.nn.InstanceNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)  # the last of a residual branch begins at 0
    folder.mkdir(parents=True)
    save_encoder(folder / "encoder.safetensors", backbone)
    Contract(
        format=ENCODER_FORMAT, medssl="1", backbone=name, backbone_options=options, spatial_dims=dims, in_channels=1,
        input_size=[32] * dims, num_tensors=len(backbone.state_dict()), orientation="RAS+", axes=["i", "j", "k"], slice_axes=[2],
        spacing_mm=[1.0] * 3, window=Window(low=[-1000.0], high=[1000.0], differs_by_volume=False), normalisation="clip",
        modalities=[], objective="simclr", objective_options={}, init_weights=False, init_run=None, ema=None,
        data=Data(study="s", run="r", num_volumes=1, num_subjects=1, num_samples=1, volume_ids=[], licence="not given"),
        spec="0", seed=0,
    ).write(folder / "contract.json")  # fmt: skip
    return backbone
