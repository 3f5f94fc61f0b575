"""Pre-training speed: views against per-sample pipelines, full steps of every objective against a plain loop, processes, GPU.

All sides work on the same slices in one run. A peer that is not installed (lightly, torchvision) is left out and named so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from monai import transforms
from monai.losses import ContrastiveLoss

from medssl.core import plugins
from medssl.core.files import write_json
from medssl.core.progress import Bar
from medssl.core.rng import ids_to_keys
from medssl.core.study import PretrainSettings, ViewSettings
from medssl.nn.backbone import build, pooled
from medssl.nn.heads import perceptron
from medssl.nn.loading import Reader, Samples, Volume
from medssl.nn.state import StateFolder
from medssl.nn.views import Crop, Views
from medssl.pretrain.loop import Plan, _Run
from medssl.pretrain.run import _train_rank

RESULTS = Path(__file__).parent / "results"
SAME_OPERATIONS = ViewSettings(window_jitter=0, gamma=1, noise=0, rotation_deg=0, blur_prob=0.5)
H100_FLOPS = 989e12
"""Dense bf16, the maker's figure."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most a minute; results are not kept")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(min(2, os.cpu_count() or 1) if device == "cpu" else 8)
    size, batch = (64, 16) if options.quick and device == "cpu" else (224, 16 if device == "cpu" else 256)
    names = [n for n in plugins.names("objective") if n in ("byol", "deepcluster_v2", "gsimclr", "moco", "simclr", "swav")]
    with tempfile.TemporaryDirectory() as folder:
        samples = made_samples(Path(folder), 32 if options.quick else 64)
        found: dict[str, Any] = {
            "views_per_s_512_to_224": view_rates(samples, 8 if options.quick else 32, device),
            "step_images_per_s": {},
            "peers_left_out": [p for p in ("lightly", "torchvision") if importlib.util.find_spec(p) is None],
        }
        backbones = ["resnet18"] if options.quick else ["resnet18", "resnet50"]
        for backbone in backbones:
            for name in ["simclr"] if options.quick else names:
                for precision in ["fp32"] if options.quick else ["fp32", "bf16"]:
                    rate = step_rate(samples, name, backbone, size, batch, precision, device)
                    found["step_images_per_s"][f"{name} {backbone} {size} {precision}"] = rate
            plain = plain_rate(samples, backbone, size, batch, device)
            found[f"plain_loop_images_per_s {backbone}"] = plain
            found[f"ratio_step_alone {backbone}"] = round(plain_ratio(found, backbone, size), 2)
        if not options.quick:
            found["growth_with_batch"] = {
                str(b): step_rate(samples, "simclr", "resnet18", size, b, "fp32", device) for b in (batch // 2, batch, batch * 2)
            }
        worlds = (1, 2, 4) if device == "cpu" else tuple(n for n in (1, 2, 4, 8) if n <= torch.cuda.device_count())
        found["growth_with_processes_images_per_s"] = {
            str(n): process_rate(samples, n, 64 if options.quick else size, 16 if options.quick else 32, Path(folder), device)
            for n in (worlds[:2] if options.quick else worlds)
        }
    found |= {"size": size, "batch": batch, "device": device_name(device), "threads": torch.get_num_threads()}
    found |= {"torch": torch.__version__, "date": datetime.now(UTC).date().isoformat()}
    if not options.quick:
        write_json(RESULTS / "pretrain.json", found)
    print("RESULT " + json.dumps(found))


def made_samples(folder: Path, count: int) -> Samples:
    """`count` slices of 512² with the noise and edges of CT, in one array of the cache's form."""
    random = np.random.default_rng(0)
    i, j = np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512), indexing="ij")
    planes = []
    for _ in range(count):
        plane = np.where((i / 0.9) ** 2 + (j / 0.7) ** 2 < 1, 40.0, -1000.0)
        for _ in range(8):
            x, y, r = random.uniform(-0.6, 0.6), random.uniform(-0.5, 0.5), random.uniform(0.05, 0.3)
            plane[(i - x) ** 2 + (j - y) ** 2 < r**2] = random.uniform(-900, 900)
        planes.append((plane + random.normal(0, 25, plane.shape)).astype(np.int16))
    np.save(folder / "array.npy", np.asfortranarray(np.stack(planes, 2)))
    volume = Volume(
        "v-000000000000", None, folder / "array.npy", (512, 512, count), "CT", "volume", 1.0, 0.0, (-1000.0,), (1000.0,)
    )  # fmt: skip
    ids, index = [f"v-000000000000-{k:04d}" for k in range(count)], np.arange(count)
    zeros = np.zeros(count, dtype=np.int64)
    return Samples(
        tuple(ids), (volume,), zeros, zeros + 2, index, index.astype(np.float32), (None,) * count, ids_to_keys(ids)
    )  # fmt: skip


def view_rates(samples: Samples, count: int, device: str) -> dict[str, float]:
    """Views per second, crop + blur at 224², from 512² in memory: ours for the batch, MONAI's (and torchvision's) one by one."""
    batch = Reader(samples)[(0, np.arange(count))].to(device)
    views = Views(SAME_OPERATIONS, [Crop(2, (224, 224))], samples, seed=0)
    rates = {"medssl": 2 * count / seconds(lambda: views(batch), device)}
    plane = ((batch.values.cpu() + 1000) / 2000).clamp(0, 1)
    chain = transforms.Compose(
        [
            transforms.RandSpatialCrop((229, 229), max_roi_size=(512, 512), random_size=True),
            transforms.Resize((224, 224), mode="bilinear"),
            transforms.RandGaussianSmooth((0.1, 2.2), (0.1, 2.2), prob=0.5),
        ]
    )
    few = plane[: max(4, count // 4)]
    rates["monai per sample"] = 2 * len(few) / seconds(lambda: [chain(image) for image in few for _ in range(2)], "cpu")
    if importlib.util.find_spec("torchvision"):
        from torchvision.transforms import v2

        theirs = v2.Compose([v2.RandomResizedCrop(224, (0.2, 1)), v2.RandomApply([v2.GaussianBlur(15, (0.1, 2.2))], 0.5)])
        rates["torchvision per sample"] = 2 * len(few) / seconds(lambda: [theirs(x) for x in few for _ in range(2)], "cpu")
    rates["ratio to monai"] = rates["medssl"] / rates["monai per sample"]
    return {name: round(rate, 1) for name, rate in rates.items()}


def step_rate(
    samples: Samples, objective: str, backbone: str, size: int, batch: int, precision: str, device: str
) -> dict[str, float]:
    """A full step of the real loop: load, views, forward, backward, optimiser. Images per second, and shares of the time."""
    settings = PretrainSettings(
        objective=objective, backbone=backbone, size=[size], batch_size=batch, precision=precision, device=device
    )  # type: ignore[arg-type]
    rows = np.arange(batch) % len(samples)
    kind = {"fp32": "32-true", "bf16": "bf16-mixed"}[precision]
    with tempfile.TemporaryDirectory() as folder:
        wide = samples.rows(np.arange(max(batch, len(samples))) % len(samples))
        run = _Run(
            Fabric(accelerator=device, devices=1, precision=kind), Plan(settings, 0, wide, Path(folder)),
            Bar("", 1, "images", None, None), lambda line: None, lambda: False,
        )  # fmt: skip
        run.total = 1000

        def step() -> None:
            made = run.reader[(0, rows)].to(run.device)
            outputs = run.forward_backward(made)
            run.update(1.0)
            with torch.no_grad():
                run.objective.after_step(outputs[1], made, 0.0)

        whole = seconds(step, device)
        loading = seconds(lambda: run.make_views(run.reader[(0, rows)].to(run.device)), device)
        found = {"images_per_s": batch / whole, "load_and_views_frac": loading / whole}
        if device == "cuda":
            found["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
            found["model_flop_utilisation"] = step_flops(run, rows) / whole / H100_FLOPS
    return {name: round(value, 3) for name, value in found.items()}


def process_rate(samples: Samples, world: int, size: int, batch: int, folder: Path, device: str) -> float:
    """Images per second of SimCLR in `world` processes of one thread (or one GPU each), the whole batch being `batch`."""
    settings = PretrainSettings(
        backbone="resnet18", size=[size], batch_size=batch, epochs=3, device="cpu" if device == "cpu" else "cuda",
        devices=world, checkpoint_every_s=1e6, tensorboard=False,
    )  # type: ignore[arg-type]  # fmt: skip
    plan = Plan(settings, 0, samples, folder / f"state-{world}")
    strategy: Any = DDPStrategy(broadcast_buffers=False, start_method="spawn") if world > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=world, strategy=strategy, plugins=[LightningEnvironment()])
    work = partial(_train_rank, plan=plan, title="", threads=1, keep_picture=_no_picture)
    error = fabric.launch(work) if world > 1 else work(fabric)
    if error is not None:
        raise error
    loaded = StateFolder(plan.state).load()
    assert loaded is not None
    return round(max(row["images_per_s"] for row in loaded[2]["rows"][1:]), 2)


def _no_picture(epoch: int, pixels: np.ndarray) -> None:
    """Pictures are not what is timed."""


def step_flops(run: Any, rows: np.ndarray) -> float:
    """Floating-point operations of forward and backward, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run.forward_backward(run.reader[(0, rows)].to(run.device))
    return float(counter.get_total_flops())


def plain_rate(samples: Samples, backbone: str, size: int, batch: int, device: str) -> float:
    """SimCLR as a plain loop writes it, with the same backbone: ready views, MONAI's loss, AdamW; the step alone."""
    torch.manual_seed(0)
    network = build(backbone, {}, 2, 1).to(device)
    head = perceptron([network.channels[-1], 2048, 128]).to(device)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    if importlib.util.find_spec("lightly"):
        from lightly.loss import NTXentLoss

        criterion: Any = NTXentLoss(temperature=0.1)
    else:
        criterion = ContrastiveLoss(temperature=0.1)
    a, b = torch.rand(2, batch, 1, size, size, device=device)

    def step() -> None:
        loss = criterion(head(pooled(network(a))), head(pooled(network(b))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return round(batch / seconds(step, device), 2)


def plain_ratio(found: dict[str, Any], backbone: str, size: int) -> float:
    """Ours without loading and views, as a multiple of the plain loop."""
    ours = found["step_images_per_s"][f"simclr {backbone} {size} fp32"]
    return float(ours["images_per_s"] / (1 - ours["load_and_views_frac"]) / found[f"plain_loop_images_per_s {backbone}"])


def seconds(work: Callable[[], Any], device: str, times: int = 3) -> float:
    """The least seconds of a few tries after one to warm up."""
    best = math.inf
    for _ in range(times + 1):
        start_s = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start_s)
    return best


def device_name(device: str) -> str:
    """The GPU, or the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
