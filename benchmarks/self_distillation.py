"""Self-distillation's speed: steps of LeJEPA and DINO over SimCLR's at equal views; MAE's encoder by the patches it sees.

All sides work on the same images in one run and take turns; ratios are of the least seconds. A step is forward, backward, finite
check, optimiser and what the objective moves, on ready views: two of each image.
"""

from __future__ import annotations

import json
import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretrain import ByHand, asked, device_name, fabric_of, made_samples, repeated, seconds, versions

from medssl.core.files import write_json
from medssl.nn.backbone import build
from medssl.nn.loading import Batch, Samples
from medssl.pretrain.options import TrainingOptions
from medssl.pretrain.plan import Plan

RESULTS = Path(__file__).parent / "results"
OBJECTIVES: dict[str, dict[str, Any]] = {"simclr": {}, "lejepa": {"small_crops": 0}, "dino": {"small_crops": 0}}
"""With two views each."""
BACKBONES: dict[str, dict[str, Any]] = {"resnet18": {}, "vit": {"size": "tiny"}}
SEEN = (1.0, 0.5, 0.25)
"""Shares of the patches that MAE's encoder sees."""


def main() -> None:
    """Command line."""
    quick, device, threads = asked(__doc__)
    size, batch_size = (32, 4) if quick else (224, 32 if device == "cpu" else 256)
    repeats = 1 if quick else 4
    with tempfile.TemporaryDirectory() as folder:
        samples = made_samples(Path(folder), batch_size)
        found: dict[str, Any] = {
            "step_over_simclr": {name: steps(samples, name, size, batch_size, device, repeats) for name in BACKBONES},
            "mae_encoder_over_all_patches": encoder_shares(size, batch_size, device, repeats),
        }
    found |= {"size": size, "batch": batch_size, "device": device_name(device), "threads": threads}
    found |= {"versions": versions(["monai", "lightly", "torchvision"]), "date": datetime.now(UTC).date().isoformat()}
    if not quick:
        write_json(RESULTS / "self_distillation.json", found)
    print("RESULT " + json.dumps(found))


def steps(samples: Samples, backbone: str, size: int, batch_size: int, device: str, repeats: int) -> dict[str, float]:
    """Seconds of a step of each objective over SimCLR's."""
    with tempfile.TemporaryDirectory() as folder:
        learners: dict[str, tuple[ByHand, Batch]] = {}
        for name, chosen in OBJECTIVES.items():
            options = TrainingOptions(
                objective={name: chosen}, backbone={backbone: BACKBONES[backbone]}, size=[size], batch_size=batch_size,
                precision="bf16" if device == "cuda" else "fp32", device=device, deterministic=False,
            )  # type: ignore[arg-type]  # fmt: skip
            plan = Plan(options, 0, repeated(samples, batch_size), Path(folder) / name)
            learner = ByHand(fabric_of(plan, device), plan)
            batch = plan.reader()[(0, np.arange(batch_size))].to(learner.device)
            learner.ready = learner.make_views(batch)
            learners[name] = learner, batch
        least = dict.fromkeys(learners, math.inf)
        for turn in range(repeats + 1):  # the first warms up
            for name, (learner, batch) in learners.items():
                spent_s = seconds(lambda step=learner.learn, images=batch: step(images), device)
                least[name] = min(least[name], spent_s) if turn else math.inf
    return {name: round(spent_s / least["simclr"], 3) for name, spent_s in least.items()}


def encoder_shares(size: int, batch_size: int, device: str, repeats: int) -> dict[str, float]:
    """Seconds of MAE's encoder (ViT-tiny, forward and backward) by the percentage of patches that it sees, over all."""
    torch.manual_seed(0)
    network: Any = build("vit", BACKBONES["vit"], 2, 1).to(device)
    images = torch.rand(batch_size, 1, size, size, device=device)
    places = (size // network.patch) ** 2
    order = torch.rand(batch_size, places, device=device).argsort(1)

    def once(share: float) -> None:
        network.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            network.visible_tokens(images, order[:, : round(share * places)]).float().square().mean().backward()

    least = dict.fromkeys(SEEN, math.inf)
    for turn in range(repeats + 1):
        for share in SEEN:
            spent_s = seconds(lambda seen=share: once(seen), device)
            least[share] = min(least[share], spent_s) if turn else math.inf
    return {f"{share:.0%}".rstrip("%"): round(spent_s / least[1.0], 3) for share, spent_s in least.items()}


if __name__ == "__main__":
    main()
