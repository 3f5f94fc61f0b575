"""Features of the real library's network with exported weights: `real_features.py LIBRARY NAME WEIGHTS IMAGES OUT`.

LIBRARY `code`: NAME is a file with the lines that an exported contract states, run in the folder of the weights. With `called`
the network itself gives the features.

A separate process: with a CPU build of torch, torchvision imports only if two of its operators are declared by hand, which
the rest of the suite must not see.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

library, name, weights, images, out = sys.argv[1:]
declared = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
tensors, x = load_file(weights), load_file(images)["x"].double()
if library in ("code", "called"):
    place: dict[str, Any] = {}
    os.chdir(Path(weights).parent)
    exec(Path(name).read_text(), place)
    network = place["model"].eval()
    save_file(network.state_dict(), Path(out).with_name("saved.safetensors"))
    network = network.double()
    with torch.inference_mode():
        if library == "called":
            found = network(x)
            if found.ndim == 3:
                found = torch.cat([found[:, 0], found[:, network.num_prefix_tokens :].mean(1)], 1)
        elif hasattr(network, "num_prefix_tokens") and hasattr(network, "patch_embed"):  # timm's transformers
            found = network.forward_features(x)[:, network.num_prefix_tokens :].mean(1)
        elif hasattr(network, "forward_features"):  # timm's
            found = network.forward_features(x).flatten(2).mean(2)
        else:
            found = network(x.expand(-1, 3, -1, -1))
elif library == "primus":  # nnU-Net's transformers; NAME is {"class": …, "shape": [width, blocks, heads] or null}
    from dynamic_network_architectures.architectures import primus
    from timm.layers import RotaryEmbeddingCat

    class Rotary(RotaryEmbeddingCat):
        """With room for the angles of three axes: timm 1.0.31 has some for two, and fails on nnU-Net's network."""

        def _create_cache(self, num_pos: int, device: Any, dtype: Any) -> None:
            self.register_buffer("pos_embed", torch.empty(num_pos, 3 * self.dim, device=device, dtype=dtype), persistent=False)

    options = json.loads(name)
    seen = x.permute(0, 1, 4, 3, 2)  # as nnU-Net reads an image of axes (i, j, k)
    size, made = tuple(seen.shape[2:]), getattr(primus, options["class"])
    if options["shape"] is None:  # one of its own sizes
        network = made(1, 2, (8, 8, 8), size, rope_impl=Rotary)
    else:
        width, blocks, heads = options["shape"]
        network = made(
            1, width, (8, 8, 8), 2, blocks, heads, size, init_values=0.1, scale_attn_inner=True, rope_impl=Rotary
        )  # fmt: skip
    missing = network.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    assert all(n.startswith(("up_projection.", "mask_token")) or ".all_modules." in n for n in missing.missing_keys), missing
    save_file({n: t.clone() for n, t in network.state_dict().items()}, Path(out).with_name("saved.safetensors"))
    with torch.inference_mode():
        tokens, _ = network.double().eval().eva(network.down_projection(seen).flatten(2).transpose(1, 2))
        found = tokens.mean(1)
elif library == "dynamic_network_architectures":  # nnU-Net's networks; NAME is {"features": …, "blocks": …}
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    from torch import nn

    options = json.loads(name)
    levels = len(options["features"])
    network = ResidualEncoderUNet(
        1, levels, options["features"], nn.Conv3d, 3, (1, *[2] * (levels - 1)), options["blocks"], 2, [1] * (levels - 1),
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    missing = network.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys and not any(n.startswith("encoder.") for n in missing.missing_keys), missing
    with torch.inference_mode():
        seen = x.permute(0, 1, 4, 3, 2)  # as nnU-Net reads an image of axes (i, j, k)
        found = network.double().eval().encoder(seen)[-1].flatten(2).mean(2)
save_file({"features": found.contiguous()}, out)
