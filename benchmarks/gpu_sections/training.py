"""Whether pre-training is right on this machine: every objective runs, equal bits, compiled as eager."""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from gpu_sections.made import (
    COMPILE,
    NARROW,
    Found,
    Place,
    Trained,
    attempt,
    finetune,
    pretrain,
    write_hearts,
    write_pool,
    write_records,
)
from medssl.core import plugins
from medssl.core.errors import PreemptedError
from medssl.core.files import sha256_file

SHORT: dict[str, dict[str, Any]] = {
    "dino": {"small_crops": 2},
    "gsimclr": {"denoiser_epochs": 1},
    "joint_2d3d": {"slices": 4, "volume_prototypes": 2},
    "lejepa": {"small_crops": 2},
    "swav": {"small_crops": 2},
}
"""Options by objective without which a try would be long, or want more volumes."""
SMALL_ONLY: dict[str, dict[str, Any]] = {
    "beclr": {"projector": [32, 16], "predictor_hidden": 16, "memory": 64, "clusters": 4, "memory_start": 0.0},
    "byol": {"projector": [32, 16], "predictor_hidden": 32},
    "deepcluster_v2": {"projector": [32, 16], "prototypes": 8},
    "dino": {"hidden": 32, "bottleneck": 16, "prototypes": 8},
    "gsimclr": {"clusters": 8},
    "joint_2d3d": {"projector": [32, 16], "prototypes": 8, "width": 32, "layers": 1, "feed_forward": 32},
    "lejepa": {"projector": [32, 16], "directions": 16},
    "moco": {"projector": [32, 16], "queue": 64},
    "simclr": {"projector": [32, 16]},
    "spark": {"decoder_width": 32},
    "swav": {"projector": [32, 16], "prototypes": 8},
    "table_contrast": {"projector": [32, 16], "table_width": 16},
    "hydra": {"projector": [32, 16], "embedding": 8},
    "guided_contrast": {"projector": [32, 16]},
}
"""Further ones for `--small`."""
TRANSFORMER = {"width": 24, "blocks": 2, "heads": 2, "patch": 8}
"""A narrow transformer, for `--small` and objectives that need one."""
ROUNDING = {"fp32": 1e-3, "bf16": 3e-2}
"""How far loss and gradient norm of compiled steps may be from those of eager ones, as a share."""


def objectives_2d(place: Place) -> Found:
    """Every objective on slices: runs, the loss is finite, peak memory at ResNet-50, 224², batch 64."""
    inputs = write_pool(place.folder, volumes=8, shape=place.either((20, 20, 4), (256, 256, 16)), copies=place.either(1, 8))
    yield from _objectives(place, inputs, dims=2, size=place.either(16, 224), batch_size=place.either(8, 64), backbone="resnet50")


def objectives_3d(place: Place) -> Found:
    """Every objective on patches of volumes: the same at ResNet-18, 64³, batch 16."""
    inputs = write_pool(place.folder, volumes=8, shape=place.either((20, 20, 4), (112, 112, 48)), copies=place.either(1, 2))
    yield from _objectives(place, inputs, dims=3, size=place.either(16, 64), batch_size=place.either(8, 16), backbone="resnet18")


def _objectives(place: Place, inputs: dict[str, Any], *, dims: int, size: int, batch_size: int, backbone: str) -> Found:
    inputs = write_records(place.folder, inputs)
    for name in plugins.names("objective"):
        options = SHORT.get(name, {}) | (SMALL_ONLY.get(name, {}) if place.small else {})
        fitting = plugins.find("objective", name).constant("NEEDS", default=None)
        network = place.either(NARROW, backbone) if fitting is None else {"vit": place.either(TRANSFORMER, {"size": "small"})}
        yield (
            name,
            attempt(
                lambda name=name, options=options, network=network: _run_once(
                    place, inputs, name, objective={name: options}, backbone=network, spatial_dims=dims,
                    size=[size], batch_size=batch_size, max_steps=place.either(1, 6), precision=place.either("fp32", "bf16"),
                    patch_margin=place.either(1.25, 1.5),
                )
            ),
        )  # fmt: skip


def _run_once(place: Place, inputs: dict[str, Any], name: str, **options: Any) -> dict[str, Any]:
    trained = pretrain(place, inputs, name, **options)
    losses = trained.curve["loss"].tolist()
    return {
        "finite": all(map(math.isfinite, losses)),
        "loss": round(losses[-1], 4),
        "steps": options["max_steps"],
        "peak_mb": trained.peak_mb,
        "seconds": round(trained.seconds, 2),
    }


def equal_bits(place: Place) -> Found:
    """The same bits twice, with workers 0 and 4, with the samples on the device and with a loader, and resumed after SIGTERM."""
    inputs = write_pool(place.folder, volumes=8, shape=place.either((20, 20, 4), (224, 224, 16)))
    shared = {"size": [place.either(16, 160)], "batch_size": place.either(8, 32), "max_steps": place.either(5, 10)}
    shared |= {"backbone": place.either(NARROW, "resnet18"), "precision": place.either("fp32", "bf16")}
    for objective in place.either(("simclr",), ("simclr", "deepcluster_v2", "spark")):
        options = shared | {"objective": objective}
        first = pretrain(place, inputs, "first", **options)
        runs: dict[str, Callable[[], Trained]] = {
            "twice": lambda o=options: pretrain(place, inputs, "twice", **o),
            "resumed after SIGTERM": lambda o=options: resumed(place, inputs, "resumed", **o),
        }
        if objective == "simclr":
            runs["data on the device"] = lambda o=options: pretrain(place, inputs, "device", **o, data="device")
            for workers in (0, 4):
                runs[f"loader, {workers} workers"] = lambda o=options | {"workers": workers}: pretrain(
                    place, inputs, "loader", **o, data="loader"
                )
        for way, run in runs.items():
            yield f"{objective}, {way}", attempt(lambda run=run, first=_left(first): {"equal": first == _left(run())})
    yield "segmentation, side by side", attempt(lambda: _side_by_side(place))


def _left(trained: Trained) -> tuple[str, str]:
    """The weights of a run, and its curve but for the clock."""
    return trained.digest, trained.curve.to_csv()


def resumed(place: Place, inputs: dict[str, Any], name: str, **options: Any) -> Trained:
    """A run that gets SIGTERM once a state of it is saved, and then goes on.

    Raises:
        RuntimeError: it ended without being stopped.
    """
    states = place.folder / "results" / "state" / "pretrain"
    before = set(states.glob("*/*.json"))
    ended = threading.Event()

    def stop() -> None:
        while not ended.is_set():
            if set(states.glob("*/*.json")) - before:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.001)

    watch = threading.Thread(target=stop)
    watch.start()
    try:
        pretrain(place, inputs, name, **options, checkpoint_every_s=1e-9)
    except PreemptedError:
        return pretrain(place, inputs, name, **options, checkpoint_every_s=1e-9)
    finally:
        ended.set()
        watch.join()
    raise RuntimeError("the run ended before the signal reached it")


def _side_by_side(place: Place) -> dict[str, Any]:
    """Fits one after another and two at a time: the same tables, masks and weights."""
    side = place.either(32, 128)
    found = []
    for parallel in (1, 2):
        root = place.folder / f"parallel-{parallel}"
        source = write_hearts(root, patients={"train": 4, "val": 1, "test": 1}, shape=(side, side, 4))
        out, _ = finetune(
            place, source, "hearts", task="segmentation", size=[side // 2], batch_size=4, max_steps=place.either(2, 20),
            seeds=[0, 1], evaluations=1, backbone=place.either(NARROW, "resnet18"), parallel=parallel,
        )  # fmt: skip
        written = [path for path in sorted(out.rglob("*")) if path.suffix in (".gz", ".safetensors", ".parquet")]
        found.append({str(path.relative_to(out)): sha256_file(path) for path in written})
    return {"equal": found[0] == found[1] and len(found[0]) > 0, "files": len(found[0])}


def compiled(place: Place) -> Found:
    """Loss and gradient norm of three compiled steps beside those of eager ones, and the seconds that compiling takes."""
    inputs = write_pool(place.folder, volumes=4, shape=place.either((40, 40, 4), (128, 128, 16)))
    if place.small and place.device == "cpu":  # the processor's compiler takes minutes: its graphs alone
        torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")  # type: ignore[method-assign,assignment]
    torch.backends.cudnn.allow_tf32 = False  # rounding is to be that of float32
    tries = [("simclr", "resnet18", "fp32")]
    if not place.small:
        tries += [("global_contrast", "unet", "fp32"), ("simclr", "resnet18", "bf16")]
    for objective, backbone, precision in tries:
        options = {
            "objective": objective, "backbone": place.either(NARROW, backbone), "size": [place.either(16, 96)],
            "batch_size": place.either(8, 16), "max_steps": 3, "optimizer": "sgd", "lr": 1e-2, "warmup_frac": 0.0,
            "precision": precision,
        }  # fmt: skip
        yield (
            f"{objective}, {backbone}, {precision}",
            attempt(lambda o=options, p=precision: _as_eager(place, inputs, p, o)),
        )


def _as_eager(place: Place, inputs: dict[str, Any], precision: str, options: dict[str, Any]) -> dict[str, Any]:
    torch.compiler.reset()
    eager = pretrain(place, inputs, f"eager-{precision}", **options)
    other = pretrain(place, inputs, f"compiled-{precision}", **options, compile=COMPILE)
    apart = {
        name: float(((other.curve[name] - eager.curve[name]).abs() / eager.curve[name].abs()).max())
        for name in ("loss", "grad_norm")
    }
    return {
        "as_eager": max(apart.values()) <= ROUNDING[precision],
        **{f"{name}_apart_frac": float(f"{value:.3g}") for name, value in apart.items()},
        "compile_s": round(other.seconds - eager.seconds, 1),
    }
