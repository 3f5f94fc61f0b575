"""The same study by hand, with PyTorch, MONAI and scikit-learn, gives the same Dice and AUC as finetune and evaluate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finetuning import SMALL, scan, write_scans
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.core import tables
from medssl.core.job import Spec, job
from medssl.core.rng import rng
from medssl.evaluate.options import EvaluationOptions
from medssl.evaluate.run import run as evaluate
from medssl.finetune.patches import Patches
from medssl.finetune.scans import places_of
from medssl.finetune.segmenter import Segmenter
from medssl.finetune.training import seeded
from medssl.nn.backbone import build
from medssl.nn.weights import load_encoder

NARROW = {"stem": "small", "width": 0.125}
STEPS, BATCH, LR = 24, 8, 3e-3
CLASSES = ["bladder", "femur", "liver"]


def scores(root: Path, task: str) -> pd.DataFrame:
    """What stage evaluate says of the fits of stage finetune."""
    folder = root / "5_finetune" / "organs"
    values = EvaluationOptions(bootstrap=100, task=task).model_dump(mode="json")
    inputs = {
        "predictions": str(folder / "predictions.parquet"),
        "fits": str(folder / "fits.tsv"),
        "masks": str(folder / "masks"),
    }
    spec = Spec("evaluate", "organs", "study", str(root), 0, "c", values, inputs, str(root / "6_evaluate" / "organs"))
    with job(spec) as work:
        evaluate(work)
    return tables.read_tsv(Path(spec.out) / "scores.tsv", text=("class",))


def trained_by_hand(network: torch.nn.Module, batches: Any, loss: Any) -> None:
    """AdamW without decay of biases and norms, linear warm-up over a tenth, half a cosine to zero."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    other = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    warmup = round(0.1 * STEPS)
    rates = [(n + 1) / (warmup + 1) for n in range(warmup)]
    rates += [0.5 * (1 + math.cos(math.pi * n / (STEPS - warmup))) for n in range(STEPS - warmup)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: rates[min(n, STEPS - 1)])
    network.train()
    for step in range(STEPS):
        images, target = batches(step)
        optimizer.zero_grad()
        loss(network(images), target).backward()
        optimizer.step()
        schedule.step()
    network.eval()


def test_segmentation_by_hand_with_monai_has_the_same_dice(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    settings = {"fractions": [1.0], "max_steps": STEPS, "batch_size": BATCH, "lr": LR, "augment": False, "calibration_batches": 0}
    finetune(spec_of(write_scans(tmp_path / "study"), **SMALL | settings))
    table = scores(tmp_path / "study", "segmentation")
    found = table[table["metric"] == "dice"].set_index("class")["estimate"]

    scans = [scan(n) for n in range(4)]  # the volumes of the training patients
    places = [places_of(one, [1, 3], 0) for one in scans]
    patches = Patches(scans, places, [0, 1, 3], (16, 16, 1), (0, 0, 0), count=BATCH, foreground_frac=0.5, seed=0)
    with seeded(0, "scratch"):
        backbone = build("resnet18", NARROW, 2, 1)
    with seeded(0, "decoder"):
        network = Segmenter(backbone, 3)
    backbone.to(memory_format=torch.channels_last)  # as in finetune: 24 steps make rounding visible
    index = torch.tensor([0, 1, 0, 2])

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = patches[step, np.zeros(0, np.int64)]
        return batch.seen, batch.mask.long()

    trained_by_hand(network, batches, DiceCELoss(softmax=True, batch=True, to_onehot_y=True))
    dice = DiceMetric(include_background=False, reduction="none")
    for n in (4, 5):
        whole = scan(n)
        slices = torch.from_numpy(np.clip(whole.image / 200, 0, 1).astype(np.float32)).permute(2, 0, 1)[:, None]
        with torch.inference_mode():
            logits = sliding_window_inference(slices, (16, 16), 16, network, overlap=0.5, mode="gaussian")
        predicted = logits.argmax(dim=1).permute(1, 2, 0)
        truth = index[torch.from_numpy(whole.mask.astype(np.int64))]
        dice(*(one_hot(mask[None, None], 3) for mask in (predicted, truth)))
    by_hand = dice.aggregate().mean(dim=0).tolist()
    assert min(by_hand) > 0.5
    assert [found["1"], found["3"]] == pytest.approx(by_hand, abs=2e-3)


def test_classification_by_hand_with_scikit_learn_has_the_same_auc(
    tmp_path: Path, image_source: Path, encoder: Path, finetune: Any, spec_of: Any
) -> None:
    settings = {"fractions": [1.0], "max_steps": STEPS, "batch_size": BATCH, "lr": LR, "augment": False, "calibration_batches": 0}
    finetune(spec_of(image_source, encoder, modes=["linear", "full"], evaluations=1, scratch=False, **settings))
    table = scores(tmp_path / "study", "classification")
    found = table[(table["metric"] == "auc") & (table["class"] == "macro")].set_index("mode")["estimate"]

    samples = tables.read_parquet(image_source / "samples.parquet")
    images = torch.from_numpy(np.load(image_source / "arrays" / "v-00.npy").transpose(2, 0, 1)[:, None].astype(np.float32) / 255)
    labels = samples["label"].map(CLASSES.index).to_numpy()
    train, val, test = (np.flatnonzero(samples["split"] == part) for part in ("train", "val", "test"))
    backbone = build("resnet18", NARROW, 2, 1)
    load_encoder(encoder / "encoder.safetensors", backbone)

    with torch.inference_mode():
        features = backbone.eval()(images)[-1].mean(dim=(2, 3)).double().numpy()
    probes = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(features[train], labels[train])
        for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ]
    on_val = [roc_auc_score(labels[val], probe.predict_proba(features[val]), multi_class="ovr") for probe in probes]
    best = probes[int(np.argmax(on_val))]
    by_hand = roc_auc_score(labels[test], best.predict_proba(features[test]), multi_class="ovr")
    assert by_hand > 0.6
    assert found["linear"] == pytest.approx(by_hand, abs=2e-3)

    with seeded(0, "head"):
        head = torch.nn.Linear(backbone.channels[-1], 3)
    network = torch.nn.Sequential(_Deepest(backbone), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
    epochs = STEPS * BATCH // len(train) + 1
    row = np.concatenate([rng(0, "order", epoch).permutation(len(train)) for epoch in range(epochs)])

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = train[row[step * BATCH : (step + 1) * BATCH]]
        return images[chosen], torch.from_numpy(labels[chosen])

    trained_by_hand(network, batches, torch.nn.CrossEntropyLoss())
    with torch.inference_mode():
        probabilities = network(images[test]).double().softmax(dim=1).numpy()
    by_hand = roc_auc_score(labels[test], probabilities, multi_class="ovr")
    assert by_hand > 0.6
    assert found["full"] == pytest.approx(by_hand, abs=5e-3)


class _Deepest(torch.nn.Module):
    """The last map of a backbone."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images)[-1]
