"""How fast fine-tuning is on this machine: fits of a segmentation, probe and fine-tuning of a classification, prediction."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from gpu_sections.made import NARROW, Found, Place, attempt, finetune, free_memory, peak_mb, write_hearts, write_spots
from gpu_sections.speed import PAPER_UNET, Busy
from medssl.artefacts.fits import FITS
from medssl.finetune.run import predict as apply

FITS_OF_STUDY, STEPS_OF_STUDY = 45, 2000
"""What is asked: the minutes of so many fits of so many steps each, with their test predictions."""
USED_FRAC = 0.85
"""The share of the section's time that is planned for."""


def segmentation_fits(place: Place) -> Found:
    """Fits of a segmentation of hearts, small U-Net, 192², batch 20, 32 test volumes, several at once: fits an hour, and the
    minutes of 45 fits of 2,000 steps, drawn on from fits of two lengths."""
    begin_s = time.perf_counter()
    side = place.either(24, 208)
    patients = place.either({"train": 2, "val": 1, "test": 1}, {"train": 22, "val": 2, "test": 16})
    source = write_hearts(place.folder, patients=patients, shape=(side, side, place.either(3, 10)))
    at_once = place.either(2, min(8, max(1, place.threads // 2)))
    options = {
        "task": "segmentation", "size": [place.either(16, 192)], "batch_size": place.either(2, 20), "weight_decay": 0.0,
        "backbone": place.either(NARROW, PAPER_UNET), "seeds": list(range(at_once)), "parallel": at_once,
    }  # fmt: skip
    short, long = place.either((1, 2), (30, 200))
    first, spent_s = _fits(place, source, at_once, short, options)
    yield f"{at_once} at once, {short} steps", first
    # a second run starts as long, and its steps take at most the share that the first one's fits took
    left_s = USED_FRAC * place.limit_s - (time.perf_counter() - begin_s) - spent_s
    long = min(long, short + int(left_s * short / first["seconds_of_a_fit"]))
    if long < 2 * short:
        yield f"{FITS_OF_STUDY} fits of {STEPS_OF_STUDY} steps", {"left_out": "no time was left for fits of twice the length"}
        return
    second, _ = _fits(place, source, at_once, long, options)
    yield f"{at_once} at once, {long} steps", second
    yield f"{FITS_OF_STUDY} fits of {STEPS_OF_STUDY} steps", drawn_on(first, second, short, long, at_once)


def _fits(place: Place, source: Path, at_once: int, steps: int, options: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """What one run of fits took, and its seconds."""
    with Busy.watched(place.device) as busy:
        start_s = time.perf_counter()
        out, spent_s = finetune(place, source, f"steps_{steps}", max_steps=steps, **options)
        share = busy.between(start_s, start_s + spent_s)
    fits = FITS.read(out / FITS.file)
    return {
        "fits": len(fits),
        "seconds": round(spent_s, 2),
        "seconds_of_a_fit": round(float(fits["seconds"].mean()), 2),
        "fits_per_hour": round(3600 * len(fits) / spent_s, 1),
        "busy_frac": share,
    }, spent_s


def drawn_on(first: dict[str, Any], second: dict[str, Any], short: int, long: int, at_once: int) -> dict[str, Any]:
    """A straight line through fits of two lengths, which have as many evaluations and test predictions, drawn on to the study's.

    Starting the processes is counted once, as it is in a study.
    """
    step_s = (second["seconds_of_a_fit"] - first["seconds_of_a_fit"]) / (long - short)
    if step_s <= 0:
        return {"left_out": f"fits of {long} steps took no longer than those of {short}: their steps are too few to draw a line"}
    fit_s = first["seconds_of_a_fit"] + (STEPS_OF_STUDY - short) * step_s
    start_s = max(0.0, first["seconds"] - first["seconds_of_a_fit"] * math.ceil(first["fits"] / at_once))
    minutes = (start_s + fit_s * math.ceil(FITS_OF_STUDY / at_once)) / 60
    return {
        "minutes_extrapolated": round(minutes, 2),
        "seconds_of_a_fit_extrapolated": round(fit_s, 1),
        "ms_of_a_step": round(1000 * step_s, 2),
        "at_once": at_once,
        "measured_steps": [short, long],
    }


def classification(place: Place) -> Found:
    """A linear probe and full fine-tuning of a classification, ResNet-18, 224², batch 64: seconds, images a second, AUC."""
    count, side = place.either((48, 16), (480, 224))
    source = write_spots(place.folder, count=count, side=side)
    steps, batch_size = place.either((3, 8), (100, 64))
    for mode in ("linear", "full"):
        yield mode, attempt(lambda m=mode: _classified(place, source, m, steps, batch_size, side))


def _classified(place: Place, source: Path, mode: str, steps: int, batch_size: int, side: int) -> dict[str, Any]:
    backbone = place.either(NARROW, "resnet18")
    out, spent_s = finetune(
        place, source, mode, modes=[mode], max_steps=steps, batch_size=batch_size, size=[side], backbone=backbone, evaluations=2
    )
    (row,) = FITS.read(out / FITS.file).to_dict("records")
    found = {"seconds": round(spent_s, 2), "seconds_of_the_fit": row["seconds"], "val_score": round(row["val_score"], 3)}
    if mode == "full":
        found |= {"steps": steps, "images_per_s_with_evaluation": round(steps * batch_size / row["seconds"], 1)}
    return found | {"peak_mb": peak_mb()}


def predict(place: Place) -> Found:
    """A fine-tuned model on new volumes, as `medssl predict` has it once they are prepared: volumes a second, masks written."""
    side = place.either(24, 208)
    patients = place.either({"train": 1, "val": 1, "test": 1}, {"train": 4, "val": 1, "test": 1})
    source = write_hearts(place.folder, patients=patients, shape=(side, side, place.either(3, 10)))
    out, _ = finetune(
        place, source, "hearts", task="segmentation", size=[place.either(16, 192)], batch_size=place.either(2, 20), max_steps=2,
        backbone=place.either(NARROW, PAPER_UNET), evaluations=1,
    )  # fmt: skip
    (model,) = (out / "models").iterdir()
    count = place.either(2, 32)
    new = write_hearts(place.folder / "new", patients={"test": count // 2}, shape=(side, side, place.either(3, 10)))
    for turn in ("first", "again"):
        free_memory()
        start_s = time.perf_counter()
        written = apply(
            model, new / "samples.parquet", new / "volumes.tsv", place.folder / turn, threads=place.threads, force=True
        )
        spent_s = time.perf_counter() - start_s
        masks = sum(path.suffix == ".gz" for path in written)
        yield turn, {"volumes": masks, "volumes_per_s": round(masks / spent_s, 2), "peak_mb": peak_mb()}
