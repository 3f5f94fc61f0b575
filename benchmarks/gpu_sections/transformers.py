"""How fast and how large vision transformers are on this machine: the real loop, volumes of 128³, what MAE's encoder costs."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_sections.made import Found, Place, attempt, free_memory, peak_mb, pretrain, write_pool
from gpu_sections.speed import rates, ways
from gpu_sections.training import TRANSFORMER
from medssl.nn.backbone import build

KEPT = (1.0, 0.5, 0.25)
"""Shares of the patches that MAE's encoder sees."""
REPEATS = 5


def vit_loop(place: Place) -> Found:
    """SimCLR with ViT-S/16 at 224², two views, batch 256, as a study runs it."""
    inputs = write_pool(place.folder, volumes=8, shape=place.either((32, 32, 2), (256, 256, 96)), copies=place.either(1, 13))
    options: dict[str, Any] = {"backbone": {"vit": place.either(TRANSFORMER, {"size": "small"})}, "size": [place.either(16, 224)]}
    options["batch_size"] = place.either(4, 256)
    for way, more in ways(place).items():
        yield way, attempt(lambda o=options | more: rates(place, inputs, place.either(2, 40), **o))


def vit_volumes(place: Place) -> Found:
    """SimCLR with a ViT-S of patches of 8³ on two volumes of 128³, with and without checkpoints: seconds a step, peak memory."""
    inputs = write_pool(place.folder, volumes=4, shape=place.either((20, 20, 4), (160, 160, 160)))
    steps = place.either(1, 6)
    for checkpoints in (True, False):
        yield (
            f"{'with' if checkpoints else 'without'} checkpoints",
            attempt(lambda c=checkpoints: _volumes(place, inputs, steps, activation_checkpointing=c)),
        )


def _volumes(place: Place, inputs: dict[str, Any], steps: int, **options: Any) -> dict[str, Any]:
    trained = pretrain(
        place, inputs, "volumes", objective="simclr", spatial_dims=3, batch_size=2, max_steps=steps, patch_margin=1.25,
        backbone={"vit": place.either({"width": 24, "blocks": 2, "heads": 2}, {"size": "small"})}, size=[place.either(16, 128)],
        precision=place.either("fp32", "bf16"), **options,
    )  # fmt: skip
    return {"steps": steps, "seconds_with_start": round(trained.seconds, 2), "peak_mb": trained.peak_mb}


def mae_tokens(place: Place) -> Found:
    """MAE's encoder, ViT-S/16 at 224², forward and backward, by the share of patches that it sees: seconds and operations."""
    side, batch_size = place.either((64, 2), (224, 256))
    torch.manual_seed(0)
    network: Any = build("vit", place.either(TRANSFORMER, {"size": "small"}), 2, 1).to(place.device)
    images = torch.rand(batch_size, 1, side, side, device=place.device)
    places = (side // network.patch) ** 2
    whole: dict[str, float] = {}
    for share in KEPT:
        visible = torch.rand(batch_size, places, device=place.device).argsort(1)[:, : round(share * places)]
        figures = attempt(lambda v=visible: _encoded(place, network, images, v))
        whole = whole or figures
        if "failed" not in figures | whole:
            figures |= {f"{name}_share": round(figures[name] / whole[name], 3) for name in ("seconds", "gflop")}
        yield f"{share:.0%} of the patches", figures


def _encoded(place: Place, network: Any, images: torch.Tensor, visible: torch.Tensor) -> dict[str, Any]:
    """The least seconds of some passes, their operations, and the peak of the memory."""

    def once() -> None:
        network.zero_grad()
        with torch.autocast(place.device, dtype=torch.bfloat16, enabled=place.device == "cuda"):
            network.visible_tokens(images, visible).float().square().mean().backward()
        if place.device == "cuda":
            torch.cuda.synchronize()

    free_memory()
    with FlopCounterMode(display=False) as counted:
        once()
    spent = []
    for _ in range(place.either(1, REPEATS)):
        start_s = time.perf_counter()
        once()
        spent.append(time.perf_counter() - start_s)
    return {"seconds": round(min(spent), 5), "gflop": round(counted.get_total_flops() / 1e9, 3), "peak_mb": peak_mb()}
