"""The heart with few labelled patients as a user of MONAI writes it, beside the study `acdc`: none of medssl's code.

The encoder of MONAI's own U-Net with the study's widths and batch norm, from random weights, in slices. Way up, reading, patches,
changes of the images, learning and scoring are those of `segmentation.py`, with the study's numbers. Labelled are the first
patients of the field's few-label protocol. Scored is the Dice of the 12 test patients on the grid of their files, where the
study scores too. Order, weights and changes are drawn by other generators than the study's: scores agree within the spread over
seeds, not to the digit.

`python benchmarks/baselines/acdc.py [--counts 3 7 14] [--seeds 3] [--steps 2100]`; the last line is RESULT {json}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "baselines"))
from recipe import mean_and_deviation  # noqa: E402
from segmentation import (  # noqa: E402
    HEART,
    PROTOCOL,
    SHARED,
    OfSlices,
    Setting,
    dice,
    fitted,
    hearts,
    score_of,
)

WIDTHS = (8, 16, 32, 64, 64)
SETTING = replace(
    HEART, size=(48, 48), spacing=(3.0, 3.0, -1.0), overlap=0.25, weight_decay=0.0, percentiles=(1.0, 99.0), steps=2100
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 7, 14], help="of labelled patients")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=SETTING.steps)
    parser.add_argument("--images", type=Path, default=SHARED / "seg" / "acdc")
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = replace(SETTING, steps=options.steps)
    started_s, patients = time.monotonic(), hearts(options.images, options.protocol)
    test = [volume for patient in patients["test"] for volume in patient]
    scores: dict[int, list[np.ndarray]] = {count: [] for count in options.counts}
    for seed in range(options.seeds):
        for count in options.counts:
            train = [volume for patient in patients["train"][:count] for volume in patient]
            fit_s = time.monotonic()
            network = fitted(train, setting, seed, network_of)
            rate = setting.steps / (time.monotonic() - fit_s)
            scores[count].append(dice(network, test, setting))
            row = {"count": count, "seed": seed, "steps_per_s": round(rate, 2)}
            print(json.dumps(row | score_of(scores[count][-1])), flush=True)
    found = {
        "dice_mean_sd": {count: mean_and_deviation([float(found.mean()) for found in each]) for count, each in scores.items()},
        "dice_by_class": {count: np.mean(each, axis=0).round(4).tolist() for count, each in scores.items()},
        "seeds": options.seeds,
        "steps": options.steps,
        "minutes": round((time.monotonic() - started_s) / 60, 1),
    }
    print("RESULT " + json.dumps(found))


class Levels(nn.Module):
    """The way down of MONAI's U-Net with batch norm, as its five maps."""

    def __init__(self) -> None:
        super().__init__()
        whole = BasicUNet(2, 1, 1, (*WIDTHS, WIDTHS[0]), norm=("batch", {"affine": True}))
        self.levels = nn.ModuleList([whole.conv_0, whole.down_1, whole.down_2, whole.down_3, whole.down_4])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Slices `(n, 1, i, j)` to maps of their sides, half of them, a quarter, …"""
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


def network_of(setting: Setting) -> nn.Module:
    """With random weights."""
    return OfSlices(setting.classes, Levels(), WIDTHS)


if __name__ == "__main__":
    main()
