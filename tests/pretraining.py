"""Training in this process, or in one that can be killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prepared import made_volume

NARROW: dict[str, Any] = {"width": 0.125, "stem": "small"}
TRANSFORMER: dict[str, Any] = {"width": 24, "blocks": 2, "heads": 2, "patch": 4}
TINY: dict[str, Any] = {
    "backbone": {"resnet18": NARROW},
    "size": [16],
    "batch_size": 8,
    "epochs": 3,
    "lr": 1e-3,
    "checkpoint_every_s": 1e-9,
}


def train_here(
    plan: Any, *, after: Callable[[Any], None] | None = None, precision: str = "", keep_picture: Any = None
) -> tuple[Any, Any]:
    """Train in this process; returns (error or None, what the newest state holds). `after` is called with each bar advance."""
    from lightning_fabric import Fabric

    from medssl.core.progress import Bar
    from medssl.nn.state import StateFolder
    from medssl.pretrain.loop import train

    class Watched(Bar):
        def advance(self, count: int = 1, note: str = "") -> None:
            super().advance(count, note)
            if after is not None and note:
                after(self)

    precision = precision or {"auto": "32-true", "fp32": "32-true", "bf16": "bf16-mixed", "fp16": "fp16"}[plan.options.precision]
    fabric = Fabric(accelerator="cpu", devices=1, **arithmetic(precision))
    error = train(fabric, plan, Watched("test", 1, "images", None, None), lambda line: None, keep_picture)
    return error, StateFolder(plan.state).load()


def train_forked(plan: Any, stop: Callable[[int, int], None], *, alone: bool = False) -> int:
    """Train in a fork of this process; `stop(pid, images done)` is called in it before each save. Returns its wait status.

    `alone` in a separate process group, with its workers.
    """
    pid = os.fork()
    if pid == 0:
        if alone:
            os.setpgid(0, 0)
        code = 1
        try:
            error, _ = train_here(plan, after=lambda bar: stop(os.getpid(), bar.done))
            code = 0 if error is None else error.exit_code
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def train_world(plan: Any, world: int, *, precision: Any = "32-true") -> tuple[Any, Any]:
    """Train in `world` processes under gloo; returns (error or None, what the newest state holds)."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    from medssl.nn.state import StateFolder

    if world == 1:
        return train_here(plan, precision=precision)
    strategy = DDPStrategy(start_method="fork", broadcast_buffers=False)
    error = Fabric(accelerator="cpu", devices=world, strategy=strategy, **arithmetic(precision)).launch(_rank, plan)
    return error, StateFolder(plan.state).load()


def _rank(fabric: Any, plan: Any) -> Any:
    from medssl.core.progress import Bar
    from medssl.pretrain.loop import train

    return train(fabric, plan, Bar("test", 1, "images", None, None), lambda line: None)


def arithmetic(precision: str) -> dict[str, Any]:
    """Fabric's arguments for a precision.

    `double` keeps the outputs in float64 as well, for laws that rounding would blur; `fp16` has its loss scale, which Fabric
    itself leaves out on a CPU.
    """
    from lightning_fabric.plugins.precision import DoublePrecision, MixedPrecision

    class Double(DoublePrecision):
        def convert_output(self, data: Any) -> Any:
            return data

    if precision == "fp16":
        return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}
    return {"plugins": [Double()]} if precision == "double" else {"precision": precision}


def made_samples(volumes: int = 8, slices: int = 4) -> Any:
    """Samples that lie nowhere: enough for objectives, which only look at numbers of samples and volumes."""
    from medssl.core.rng import ids_to_keys
    from medssl.nn.loading import Samples

    ids = [f"v-{v:012x}-{k:04d}" for v in range(volumes) for k in range(slices)]
    made = tuple(
        made_volume(f"v-{v:012x}", Path("nowhere"), (16, 16, slices), subject_id=f"p-{v:012x}", low=(0.0,), high=(1.0,))
        for v in range(volumes)
    )
    index = np.tile(np.arange(slices), volumes)
    label = tuple(("healthy", "diseased")[v % 2] for v in range(volumes) for _ in range(slices))
    return recorded(
        Samples(
            tuple(ids), made, np.repeat(np.arange(volumes), slices), np.full(len(ids), 2), index,
            index.astype(np.float32), label, ids_to_keys(ids),
        )
    )  # fmt: skip


def recorded(samples: Any) -> Any:
    """The samples with an age and a sex of each volume, some of them unknown."""
    from medssl.nn.records import Record

    age = [None if v % 4 == 1 else str(50 + 3 * v) for v in samples.volume]
    sex = [None if v % 4 == 2 else "fm"[v % 2] for v in samples.volume]
    return replace(samples, records={"age": Record.of("number", age), "sex": Record.of("category", sex)})


def made_batch(samples: Any, rows: list[int], dims: int, side: int = 16) -> Any:
    """A batch of random images of these samples."""
    from medssl.nn.loading import Batch

    n, random = len(rows), torch.Generator().manual_seed(sum(rows))
    return Batch(
        stored=torch.rand(n, 1, *[side] * dims, generator=random),
        extent=torch.full((n, dims), side),
        slope=torch.ones(n),
        intercept=torch.zeros(n),
        low=torch.zeros(n, 1),
        high=torch.ones(n, 1),
        rows=torch.tensor(rows),
        volume=torch.from_numpy(samples.volume[rows]),
        axis=samples.axis[rows],
        keys=samples.keys[rows],
        epoch=0,
    )


def backbone_of(objective: str, dims: int = 2) -> dict[str, dict[str, Any]]:
    """A narrow ResNet-18, or a transformer if the objective needs one."""
    from medssl.core import plugins

    if plugins.find("objective", objective).constant("NEEDS", default=None) is None:
        return {"resnet18": NARROW}
    return {"vit": TRANSFORMER | {"patch": 8 // dims}}


def made_objective(name: str, dims: int, *, samples: Any = None, seed: int = 0, **options: Any) -> Any:
    """An objective on a narrow network."""
    from medssl.core import plugins
    from medssl.nn.backbone import build

    torch.manual_seed(seed)
    plugin = plugins.find("objective", name)
    ((chosen, of_backbone),) = backbone_of(name, dims).items()
    backbone = build(chosen, plugins.find("backbone", chosen).check(of_backbone), dims, 1)
    return plugin.load()(backbone, samples or made_samples(), **plugin.check(options))


def step(objective: Any, batch: Any, size: tuple[int, ...], samples: Any) -> tuple[Any, dict[str, Any]]:
    """Views, forward, loss, backward; returns (loss, outputs)."""
    from medssl.nn.options import ViewOptions
    from medssl.nn.views import Views

    views = Views(ViewOptions(), objective.crops(size), samples, seed=0)(batch)
    outputs = objective(views, batch)
    loss = objective.loss(outputs, batch)
    loss.value.backward()
    return loss, outputs
