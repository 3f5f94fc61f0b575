"""The pictures of docs/gallery/, drawn by the library from the bundled CT: `make gallery`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "gallery"
WINDOW_HU = [[-1000, 400]]
SIZE = 128
"""Pixels of a slice in a picture."""
VIEW = 192
"""Pixels of a view, which is drawn smaller."""
COLUMNS = 4
NARROW = {"resnet18": {"width": 0.25, "stem": "small"}}
SMALL = {
    "volume_weight": 0,
    "mask_weight": 0,
    "prototypes": 8,
    "volume_prototypes": 2,
    "slices": COLUMNS,
    "clusters": COLUMNS,
    "denoiser_epochs": 1,
    "decoder_width": None,
    "decoder_blocks": 1,
    "near_records": {},
}
"""What makes a method fit a hundred slices; the views of its recipe stay."""
ROWS = {
    "spark": ["one view"],
    "mae": ["one view"],
    "table_contrast": ["one view"],
    "global_contrast": ["as given", "view"],
    **{name: ["view 1", "view 2", *(f"small {number + 1}" for number in range(6))] for name in ("swav", "lejepa", "dino")},
}
DEALT = ("global_contrast", "joint_2d3d", "sepclr")
"""Methods for which it matters which slices are together in a batch."""
REDUCERS = {
    "hash": {"reducer": "hash", "threshold": 6},
    "ssim": {"reducer": "ssim"},
    "mutual_information": {"reducer": "mutual_information", "keep_frac": 0.4},
    "entropy": {"reducer": {"entropy": {"form": "change"}}, "keep_frac": 0.3},
    "every_n": {"reducer": "every_n", "keep_frac": 0.3},
    "random_n": {"reducer": "random_n", "keep_frac": 0.3},
}
SPARK_STEPS = 200
SPARK_SIZE = 64


def main() -> None:
    """Prepare the bundled CT, then draw what is named, or everything: `views`, `hidden`, `spark`, `reductions`."""
    from medssl.core import plugins

    wanted = set(sys.argv[1:]) or {"views", "hidden", "spark", "reductions"}
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder))
        if "reductions" in wanted:
            for name, arm in REDUCERS.items():
                reduction(prepared, name, arm)
        samples = read(prepared)
        if "views" in wanted:
            for path in sorted((ROOT / "configs" / "examples").glob("*.yaml")):
                if path.stem not in plugins.names("objective"):  # an example of a backbone
                    continue
                views(path.stem, yaml.safe_load(path.read_text(encoding="utf-8")), samples, Path(folder))
        if "hidden" in wanted:
            hidden_patches(samples, Path(folder))
            hidden_blocks(samples, Path(folder))
        if "spark" in wanted:
            spark(samples, Path(folder))


def prepare(folder: Path) -> Any:
    """The bundled CT ingested and prepared; the spec of prepare."""
    from medssl.core.job import job
    from medssl.ingest import run as ingesting
    from medssl.prepare import run as preparing
    from medssl.study.one_source import specs_of

    ingest, prepare = specs_of(ROOT / "demo" / "ct", folder, {}, {"window_hu": WINDOW_HU})
    for step in (ingesting.scan, partial(ingesting.convert, shard=0), ingesting.merge):
        with job(ingest) as work:
            step(work)
    with job(prepare) as work:
        preparing.run(work)
    return prepare


def reduction(prepared: Any, name: str, arm: dict[str, Any]) -> None:
    """Every slice of the first volume in order, and which of them a reducer keeps."""
    from medssl.artefacts.keep import KEEP
    from medssl.core.job import job
    from medssl.reduce import run as reducing
    from medssl.study.one_source import reduce_specs_of

    describe, decide = reduce_specs_of(prepared, arm)
    for step, spec in ((reducing.describe, describe), (reducing.run, decide)):
        with job(spec) as work:
            step(work)
    table = KEEP.read(Path(decide.out) / "keep.parquet")
    kept = dict(zip(table["sample_id"], table["keep"], strict=True))
    save(strip(read(prepared), kept), OUT / f"reduce_{name}.png")
    if name == "hash":
        contact = Image.open(Path(decide.out) / "contact.png").convert("RGB")
        save(contact.resize((contact.width * 3 // 4, contact.height * 3 // 4)).quantize(64), OUT / "reduce_hash_contact.png")
        for picture in ("similarity.png", "curve.svg"):
            (OUT / f"reduce_hash_{picture}").write_bytes((Path(decide.out) / picture).read_bytes())


def read(prepared: Any) -> Any:
    """The slices of the prepared CT."""
    from medssl.nn.loading import read_samples

    return read_samples([Path(prepared.out) / "samples.parquet"], [Path(prepared.out) / "volumes.tsv"])


def strip(samples: Any, kept: dict[str, bool], *, side: int = 60, columns: int = 12) -> Image.Image:
    """The slices of the first volume from feet to head: kept ones are framed, dropped ones are struck out."""
    rows = [row for row in range(len(samples)) if samples.volume[row] == 0]
    sheet = Image.new("RGB", (columns * (side + 6), -(-len(rows) // columns) * (side + 6)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        x, y = (place % columns) * (side + 6) + 3, (place // columns) * (side + 6) + 3
        sheet.paste(Image.fromarray(plane(samples, row)).resize((side, side)), (x, y))
        if kept[samples.ids[row]]:
            draw.rectangle((x - 2, y - 2, x + side + 1, y + side + 1), outline="#1a7f37", width=3)
        else:
            draw.line((x, y, x + side, y + side), fill="#d1242f", width=2)
    return sheet.quantize(64)


def plane(samples: Any, row: int) -> np.ndarray:
    """A slice [row, col] in 8 bits of the window."""
    from medssl.nn.loading import Reader

    batch = Reader(samples, seed=0)[(0, np.array([row]))]
    values = batch.stored[0, 0].float() * batch.slope[0] + batch.intercept[0]
    low, high = batch.low[0, 0], batch.high[0, 0]
    return np.uint8(255 * ((values - low) / (high - low)).clip(0, 1).numpy()).T[::-1]


def views(name: str, study: dict[str, Any], samples: Any, folder: Path) -> None:
    """The slices as they are (top), and the views that the method's recipe makes of them."""
    from medssl.nn.views import Views

    run = next(run for run in study["pretrain"].values() if name in run["objective"])
    plan = planned(name, run, samples, folder)
    objective = plan.objective()
    rows = np.linspace(8, len(samples) - 8, COLUMNS).astype(int)
    if name in DEALT:
        dealt = objective.batches(0, 0, 2 * COLUMNS)[0]
        rows = dealt[:COLUMNS] if objective.together > 1 else dealt[::2]
    batch = plan.reader()[(0, rows)]
    batch.keys = objective.view_keys(batch)
    made = Views(plan.options.views, objective.crops(plan.size), plan.samples, seed=0)(batch)
    originals = [np.asarray(Image.fromarray(plane(samples, row)).resize((SIZE, SIZE))) for row in rows]
    titles = ["slice", *ROWS.get(name, [f"view {number + 1}" for number in range(len(made))])]
    save(sheet([originals, *(tiles(view) for view in made)], titles), OUT / f"views_{name}.png")


def hidden_patches(samples: Any, folder: Path) -> None:
    """The large crops of DINO's recipe that hide patches: as the teacher sees them, and as the student does."""
    import torch

    from medssl.nn.views import Views

    study = yaml.safe_load((ROOT / "configs" / "examples" / "dino.yaml").read_text(encoding="utf-8"))
    run = study["pretrain"]["dino"]
    run["objective"]["dino"] |= {"patch_weight": 1.0, "small_crops": 0}
    plan = planned("dino", run, samples, folder, backbone={"vit": {"size": "tiny", "patch": 16}})
    objective = plan.objective()
    batch = plan.reader()[(0, np.linspace(8, len(samples) - 8, COLUMNS).astype(int))]
    crops = Views(plan.options.views, objective.crops(plan.size), plan.samples, seed=0)(batch)
    hidden = objective.hidden(crops[0], batch)
    chosen = torch.stack(crops)[hidden.crop, torch.arange(COLUMNS)]
    side = VIEW // 16
    mask = hidden.mask.view(-1, 1, side, side).repeat_interleave(16, 2).repeat_interleave(16, 3)
    save(sheet([tiles(chosen), tiles(chosen.masked_fill(mask, 0.5))], ["teacher", "student"]), OUT / "hidden_dino.png")


def hidden_blocks(samples: Any, folder: Path) -> None:
    """The views of BECLR's recipe: as the teacher sees them, and as the student does."""
    from medssl.nn.views import Views

    run = yaml.safe_load((ROOT / "configs" / "examples" / "beclr.yaml").read_text(encoding="utf-8"))["pretrain"]["beclr"]
    plan = planned("beclr", run, samples, folder)
    objective = plan.objective()
    batch = plan.reader()[(0, np.linspace(8, len(samples) - 8, COLUMNS).astype(int))]
    made = Views(plan.options.views, objective.crops(plan.size), plan.samples, seed=0)(batch)
    hidden = objective.student_views(made, batch)
    save(sheet([tiles(made[0]), tiles(hidden[0])], ["teacher", "student"]), OUT / "hidden_beclr.png")


def planned(name: str, run: dict[str, Any], samples: Any, folder: Path, **changed: Any) -> Any:
    """A plan of the recipe on the bundled slices, small enough for them."""
    from medssl.core import plugins
    from medssl.nn.records import Record
    from medssl.pretrain.options import TrainingOptions
    from medssl.pretrain.plan import Plan

    known = plugins.find("objective", name).options.model_fields
    options = run["objective"][name] | {key: value for key, value in SMALL.items() if key in known}
    if name == "sepclr":  # which volume is whose does not matter for the views
        samples = replace(samples, label=tuple("healthy" if number else "ill" for number in samples.volume))
    columns = [
        column for option in plugins.find("objective", name).constant("RECORD_OPTIONS", default={}) for column in options[option]
    ]
    samples = replace(samples, records={column: Record("number", np.arange(len(samples)) * 1.0) for column in columns})
    backbone = {"local_contrast": "unet", "mae": {"vit": {"size": "tiny", "patch": 16}}}.get(name, NARROW)
    given = {"objective": {name: options}, "backbone": backbone, "views": run.get("views", {})}
    return Plan(TrainingOptions(**(given | {"size": [VIEW], "batch_size": COLUMNS} | changed)), 0, samples, folder / name)


def spark(samples: Any, folder: Path) -> None:
    """What SparK sees and predicts, early and late in a short run on the bundled slices."""
    import torch
    from lightning_fabric import Fabric

    from medssl.core.progress import Bar
    from medssl.pretrain.loop import train

    run = {"objective": {"spark": {"mask_ratio": 0.6, "patch": [8], "masking": "foreground", "constant_patches": "exclude"}}}
    run["views"] = {"scale": [0.67, 1.0], "rotation_deg": 0, "window_jitter": 0.0, "gamma": 1.0, "blur_prob": 0.0, "noise": 0.0}
    steps = len(samples) // 16
    plan = planned("spark", run, samples, folder, size=[SPARK_SIZE], batch_size=16, epochs=SPARK_STEPS // steps, lr=1e-3)
    torch.set_num_threads(1)  # of a busy machine; the pictures are the same on every one
    drawn: dict[int, np.ndarray] = {}
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    error = train(fabric, plan, Bar("spark", 1, "images", None, None), print, drawn.__setitem__)
    if error is not None:
        raise error
    last = Image.fromarray(drawn[max(drawn)])
    height, width = last.height, last.width * COLUMNS // 8
    save(last.crop((0, 0, width, height)).convert("L"), OUT / "spark_prediction.png")


def tiles(view: Any) -> list[np.ndarray]:
    """Views (n, c, i, j) in [0, 1] as 8-bit pictures, the way a radiologist holds them."""
    side = view.shape[-1] * SIZE // VIEW
    made = [np.uint8(image[0].numpy().clip(0, 1) * 255).T[::-1] for image in view]
    return [np.asarray(Image.fromarray(tile).resize((side, side))) for tile in made]


def sheet(rows: list[list[np.ndarray]], titles: list[str]) -> Image.Image:
    """Rows of pictures with a word at the left of each."""
    gap, margin = 4, 74
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    page = Image.new("L", (margin + COLUMNS * (SIZE + gap), sum(heights) + gap * len(rows)), 255)
    draw, font, y = ImageDraw.Draw(page), ImageFont.load_default(size=14), 0
    for row, height, title in zip(rows, heights, titles, strict=True):
        draw.text((2, y + height // 2 - 8), title, fill=0, font=font)
        for column, tile in enumerate(row):
            page.paste(Image.fromarray(np.ascontiguousarray(tile)), (margin + column * (SIZE + gap), y))
        y += height + gap
    return page


def save(picture: Image.Image, path: Path) -> None:
    """As a small PNG without anything but pixels."""
    path.parent.mkdir(exist_ok=True)
    picture.save(path, optimize=True)
    print(path.relative_to(ROOT), path.stat().st_size // 1024, "kB", flush=True)


if __name__ == "__main__":
    main()
