"""SparK's speed: packed active patches compared with the authors' dense emulation, same weights, same images, equal outputs.

The emulation is the published way: dense layers, the mask multiplied after each, batch norm over gathered active positions;
once in torch's default memory layout as released, once with channels last. A step is forward, loss and backward.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pretrain import device_name
from torch import Tensor, nn

from medssl.core.files import write_json
from medssl.nn.backbone import build
from medssl.nn.light_decoder import LightDecoder
from medssl.nn.sparse import Patches, make_sparse, sparse_maps, split
from medssl.pretrain.masked import normalised_patches

RESULTS = Path(__file__).parent / "results"
MASK_RATIO = 0.6
PATCH = 32


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most a minute; results are not kept")
    parser.add_argument("--backbone", default="resnet50")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))
    size, batch = (96, 4) if options.quick else (224, 128 if device.type == "cuda" else 4)
    found = compare(options.backbone, size, batch, device, times=2)
    found |= difference(options.backbone)
    found |= {"backbone": options.backbone, "size": size, "batch": batch, "mask_ratio": MASK_RATIO}
    found |= {"device": device_name(device.type), "threads": torch.get_num_threads()}
    found |= {"torch": torch.__version__, "date": datetime.now(UTC).date().isoformat()}
    if not options.quick:
        write_json(RESULTS / "spark.json", found)
    print("RESULT " + json.dumps(found))


def compare(name: str, size: int, batch: int, device: torch.device, times: int) -> dict[str, Any]:
    """Seconds and ratios of encoder and whole step for the three ways."""
    torch.manual_seed(0)
    grid = (size // PATCH,) * 2
    count = math.prod(grid)
    images = torch.rand(batch, 1, size, size, device=device)
    chosen = torch.rand(batch, count).argsort(1)[:, : round(count * (1 - MASK_RATIO))].sort(1).values.to(device)
    patches = Patches(chosen, grid)
    backbone = build(name, {}, 2, 1).to(device)
    width = min(768, backbone.channels[-1])
    decoder = LightDecoder(2, backbone.channels, backbone.strides, width, 1, nn.BatchNorm2d).to(device)
    ways: dict[str, Way] = {
        "emulated": Emulated(copy.deepcopy(backbone), copy.deepcopy(decoder)),
        "emulated_channels_last": Emulated(copy.deepcopy(backbone), copy.deepcopy(decoder), torch.channels_last),
        "packed": Packed(copy.deepcopy(backbone), copy.deepcopy(decoder)),
    }
    seconds: dict[str, dict[str, float]] = {"encoder_forward": {}, "encoder_step": {}, "whole_step": {}}
    for _ in range(times):  # in turn, so that a busy machine slows all of them alike
        for way, network in ways.items():
            for what, work in network.work(images, patches).items():
                least(seconds[what], way, work, device)
    return {
        "seconds": {what: {way: round(s, 4) for way, s in each.items()} for what, each in seconds.items()},
        "ratio": {what: round(each["emulated"] / each["packed"], 2) for what, each in seconds.items()},
        "ratio_to_channels_last": {
            what: round(each["emulated_channels_last"] / each["packed"], 2) for what, each in seconds.items()
        },
    }


def difference(name: str) -> dict[str, float]:
    """How far loss and gradients of the two are apart in float64, where rounding does not hide a mistake."""
    torch.manual_seed(0)
    backbone = build(name, {"width": 0.25}, 2, 1).double()
    decoder = LightDecoder(2, backbone.channels, backbone.strides, 64, 1, nn.BatchNorm2d).double()
    images = torch.rand(4, 1, 3 * PATCH, 3 * PATCH, dtype=torch.float64)
    patches = Patches(torch.rand(4, 9).argsort(1)[:, :4].sort(1).values, (3, 3))
    losses, gradients = [], []
    for way in (Emulated(copy.deepcopy(backbone), copy.deepcopy(decoder)), Packed(backbone, decoder)):
        losses.append(float(way.loss(images, patches)))
        gradients.append(torch.cat([p.grad.flatten() for p in way.backbone.parameters()]))
    apart = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    return {"loss_difference": abs(losses[1] - losses[0]), "gradient_difference_frac": float(apart)}


def least(known: dict[str, float], way: str, work: Callable[[], Any], device: torch.device) -> None:
    """Keep the least seconds; the first call of a way only warms up."""
    if way not in known:
        work()
    start_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    known[way] = min(known.get(way, math.inf), time.perf_counter() - start_s)


class Way:
    """Encoder and decoder in one memory layout."""

    def __init__(self, backbone: Any, decoder: LightDecoder, layout: torch.memory_format = torch.contiguous_format) -> None:
        self.layout = layout
        self.backbone, self.decoder = backbone.to(memory_format=layout), decoder.to(memory_format=layout)

    def maps(self, images: Tensor, patches: Patches) -> list[Tensor]:
        """The encoder."""
        raise NotImplementedError

    def decode(self, maps: list[Tensor], patches: Patches) -> Tensor:
        """Densify and decoder."""
        raise NotImplementedError

    def zero(self) -> None:
        """Forget gradients."""
        self.backbone.zero_grad()
        self.decoder.zero_grad()

    def work(self, images: Tensor, patches: Patches) -> dict[str, Callable[[], Any]]:
        """What is timed."""
        images = images.contiguous(memory_format=self.layout)

        def forward() -> None:
            with torch.no_grad():
                self.maps(images, patches)

        def encoder() -> None:
            sum(m.sum() for m in self.maps(images, patches)).backward()  # type: ignore[union-attr]

        return {"encoder_forward": forward, "encoder_step": encoder, "whole_step": lambda: self.loss(images, patches)}

    def loss(self, images: Tensor, patches: Patches) -> Tensor:
        """Loss and gradients of a step."""
        prediction = self.decode(self.maps(images, patches), patches)
        target, told = (split(x, patches.grid).flatten(2) for x in (images, prediction))
        errors = (told - normalised_patches(target)).square().mean(2)
        hidden = ~patches.active.flatten(1)
        value = (errors * hidden).sum() / hidden.sum()
        value.backward()
        return value.detach()


class Packed(Way):
    """Ours."""

    def __init__(self, backbone: Any, decoder: LightDecoder) -> None:
        super().__init__(backbone, decoder, torch.channels_last)
        self.scope = make_sparse(self.backbone)

    def maps(self, images: Tensor, patches: Patches) -> list[Tensor]:
        return sparse_maps(self.backbone, self.scope, images, patches)

    def decode(self, maps: list[Tensor], patches: Patches) -> Tensor:
        return self.decoder(maps, patches)


class Emulated(Way):
    """Theirs: encoder.py and spark.py of the released code, with the mask as an attribute instead of a global."""

    active: Tensor

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        for module in self.backbone.modules():
            if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
                module.register_forward_hook(lambda module, inputs, out: out * self.mask(out))
            elif isinstance(module, nn.BatchNorm2d):
                module.forward = lambda x, norm=module: self.normed(norm, x)  # type: ignore[assignment,misc]

    def mask(self, x: Tensor) -> Tensor:
        """The mask `(n, 1, h, w)` at the size of a map."""
        factor = x.shape[-1] // self.active.shape[-1]
        return self.active.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    def normed(self, norm: Any, x: Tensor) -> Tensor:
        """Batch norm over gathered active positions."""
        places = self.mask(x)[:, 0].nonzero(as_tuple=True)
        last = x.permute(0, 2, 3, 1)
        gathered = F.batch_norm(last[places], norm.running_mean, norm.running_var, norm.weight, norm.bias, True, 0.1, norm.eps)
        out = torch.zeros_like(last)
        out[places] = gathered
        return out.permute(0, 3, 1, 2)

    def maps(self, images: Tensor, patches: Patches) -> list[Tensor]:
        self.active = patches.active[:, None].to(images.dtype)
        return self.backbone(images * self.mask(images))

    def decode(self, maps: list[Tensor], patches: Patches) -> Tensor:
        whole = [
            densify.project(torch.where(self.mask(m).bool(), self.normed(densify.norm, m), densify.token.view(1, -1, 1, 1)))
            for densify, m in zip(self.decoder.densify, maps, strict=True)
        ]
        return self.decoder.raised(whole)


if __name__ == "__main__":
    main()
