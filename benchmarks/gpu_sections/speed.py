"""How fast pre-training is on this machine: the real loop, views, SparK, the small U-Net."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import peers
import torch
from noted_waits import waiting
from torch import Tensor
from torch.utils.data import DataLoader

from gpu_sections.made import COMPILE, NARROW, Found, Place, attempt, ct_volume, peak_mb, pretrain, write_pool
from medssl.core.errors import PreemptedError
from medssl.nn.backbone import build

WARM_STEPS = 10
"""Steps that are not counted: kernels are chosen, or compiled, and the host runs ahead; with `--small` one."""
LONG = 20_000
"""Steps of the run whose first ones are timed: a short run would write its curve, and so wait for the GPU, at every step."""
PAPER_UNET = {"unet": {"features": [16, 32, 64, 128, 128, 16], "norm": "batch"}}
"""That of arXiv 2006.10511."""
LIGHTLY_IMAGES = 512
"""How many images each worker of lightly's makes; all of the time is counted, as workers begin together and come in bursts."""
SAMPLE_MS = 100
"""Between two looks at the GPU's load."""


def real_loop(place: Place) -> Found:
    """SimCLR at 224² as a study runs it, ResNet-50 and ResNet-18, beside lightly's loop on the same card."""
    inputs = write_pool(place.folder, volumes=8, shape=place.either((32, 32, 2), (256, 256, 96)), copies=place.either(1, 13))
    missing = peers.find()
    for backbone, batch_size, steps in (("resnet50", 128, 50), ("resnet18", 256, 60)):
        batch_size, steps = place.either(4, batch_size), place.either(2, steps)
        options = {"backbone": place.either(NARROW, backbone), "size": [place.either(16, 224)], "batch_size": batch_size}
        for way, more in ways(place).items():
            yield f"{backbone}, {way}", attempt(lambda o=options | more, n=steps: rates(place, inputs, n, **o))
        if missing:
            yield f"{backbone}, lightly", {"left_out": f"{' and '.join(missing)} not importable here"}
        else:
            yield f"{backbone}, lightly", attempt(lambda b=backbone, n=batch_size: lightly_rates(place, b, batch_size=n))


def small_unet(place: Place) -> Found:
    """Steps a second of global and local contrast with the paper's small U-Net at 192², batch 12."""
    inputs = write_pool(place.folder, volumes=8, shape=place.either((32, 32, 4), (216, 216, 10)), copies=place.either(1, 6))
    options: dict[str, Any] = {"backbone": place.either(NARROW, PAPER_UNET), "size": [place.either(16, 192)], "batch_size": 12}
    steps = place.either(2, 150)
    for variant in ("gr", "gd"):
        contrast = {"objective": {"global_contrast": {"variant": variant}}}
        for way, more in ways(place).items():
            yield f"{variant}, {way}", attempt(lambda o=options | contrast | more: rates(place, inputs, steps, **o))
    contrast = {"objective": {"local_contrast": {"variant": "lr"}}}
    yield "lr, default", attempt(lambda: rates(place, inputs, steps, **options | contrast))


def ways(place: Place) -> dict[str, dict[str, Any]]:
    """Options by the name of a way to run."""
    found: dict[str, dict[str, Any]] = {"default": {}}
    if place.device == "cuda":
        found["compiled, not deterministic"] = {"compile": COMPILE, "deterministic": False}
    return found


def rates(place: Place, inputs: dict[str, Any], steps: int, **options: Any) -> dict[str, Any]:
    """Images and steps a second of a run after its first steps, the shares of that time in which it waits and the GPU works.

    The wait is the host's: the GPU may still have work meanwhile, which its own share says.
    """
    warm = place.either(1, WARM_STEPS)
    with stopped_after(warm + steps) as (waits, at), Busy.watched(place.device) as busy:
        with contextlib.suppress(PreemptedError):
            pretrain(place, inputs, "timed", **options, max_steps=LONG, precision=place.either("fp32", "bf16"))
        peak = peak_mb()
    begin_s, end_s = at[warm - 1], at[warm + steps - 1]
    rate = steps / (end_s - begin_s)
    return {
        "images_per_s": round(rate * options["batch_size"], 1),
        "steps_per_s": round(rate, 2),
        "waiting_frac": round(sum(waits[warm : warm + steps]) / (end_s - begin_s), 4),
        "busy_frac": busy.between(begin_s, end_s),
        "peak_mb": peak,
        "batch_size": options["batch_size"],
    }


def stopped_after(steps: int) -> AbstractContextManager[tuple[list[float], list[float]]]:
    """`waiting`, and the run is asked to stop after some steps."""
    return waiting(lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == steps else None)


class Busy:
    """The GPU's load, as `nvidia-smi` says it: the share of the time in which any kernel runs, of whatever process."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        """when, and the share"""

    @classmethod
    @contextlib.contextmanager
    def watched(cls, device: str) -> Iterator[Busy]:
        """Inside it is looked at; on a processor, or where there is no `nvidia-smi`, nothing is seen."""
        busy, command = cls(), shutil.which("nvidia-smi")
        if device != "cuda" or command is None:
            yield busy
            return
        number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
        asked = [command, "-i", number, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", str(SAMPLE_MS)]
        with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            reader = threading.Thread(target=busy._read, args=(process,))
            reader.start()
            try:
                yield busy
            finally:
                process.kill()
                reader.join()

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            with contextlib.suppress(ValueError):  # "[N/A]"
                self._seen.append((time.perf_counter(), float(line) / 100))

    def between(self, begin_s: float, end_s: float) -> float | None:
        """Its mean; None where nothing was seen."""
        shares = [share for at_s, share in self._seen if begin_s <= at_s <= end_s]
        return round(sum(shares) / len(shares), 3) if shares else None


def lightly_rates(place: Place, backbone: str, *, batch_size: int) -> dict[str, Any]:
    """Lightly's documented loop in bf16: its transforms on 8-bit images in workers, its head and loss on our backbone, AdamW."""
    from PIL import Image
    from plain_loops import LOOPS
    from view_pipelines import Pairs, lightly_chain

    batches = place.either(2, place.threads * max(1, LIGHTLY_IMAGES // batch_size))
    planes = ct_volume(0, (256, 256, 64))
    grey = ((planes.clip(-1000, 1000) + 1000) / 2000 * 255).astype("uint8")
    images = [Image.fromarray(grey[..., k]) for k in range(64)]
    pairs = Pairs([images[n % 64] for n in range(batch_size * batches)], lightly_chain())
    loader = DataLoader(
        pairs, batch_size=batch_size, num_workers=place.threads, pin_memory=place.device == "cuda", multiprocessing_context="fork"
    )
    network = build("resnet18", NARROW["resnet18"], 2, 1) if place.small else build(backbone, {}, 2, 1)
    model = LOOPS["simclr"](network).to(place.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    total = torch.zeros((), device=place.device)

    def step(views: list[Tensor]) -> None:
        ready = [view.to(place.device, non_blocking=True, memory_format=torch.channels_last) for view in views]
        with torch.autocast(place.device, torch.bfloat16):
            loss = model(ready)
        total.add_(loss.detach())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    size = place.either(32, 224)
    for _ in range(place.either(1, 3)):  # kernels are chosen
        step([torch.rand(batch_size, 1, size, size) for _ in range(2)])
    start_s = at_rest(place.device)
    for views in loader:
        step(views)
    rate = batches / (at_rest(place.device) - start_s)
    return {"images_per_s": round(rate * batch_size, 1), "workers": place.threads, "batch_size": batch_size}


def at_rest(device: str) -> float:
    """The time at which the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def views(place: Place) -> Found:
    """Views a second, 512² to 224², in batches on the device, beside kornia's there and others' one by one on the processor."""
    from pretrain import made_samples
    from view_pipelines import batched_rates, view_rates

    missing = peers.find()
    torch.set_num_threads(min(8, place.threads))
    samples = made_samples(place.folder, place.either(4, 64))
    yield (
        "in batches on the device",
        batched_rates(samples, place.device, batch_size=place.either(4, 256), repeats=place.either(1, 10)),
    )
    if missing:
        yield "left out", {name: "not importable here" for name in missing}
    peer = view_rates(samples, place.device, missing, batch_size=place.either(4, 64), repeats=1)
    yield "beside views one by one", peer


def spark(place: Place) -> Found:
    """SparK's packed step beside the authors' dense emulation, same weights and images; how far apart they are in float64."""
    from spark import compare, difference

    backbone, size, batch_size = place.either(("resnet18", 64, 2), ("resnet50", 224, 64))
    yield "apart in float64", difference("resnet18")
    yield f"{backbone}, {size}²", compare(backbone, size, batch_size, torch.device(place.device), times=place.either(1, 3))
