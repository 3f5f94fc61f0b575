"""docs/reference/benchmarks.md from the last results of each benchmark: goals and measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"

N, Y = "dcm2niix -z n", "dcm2niix -z y"
SIZES = ("half", "whole", "double")
PEAKS = ("peak_mb/medssl/series", "peak_mb/medssl/start", "volume_mb")
COMMANDS = tuple(f"commands_s/medssl {name}" for name in ("--help", "ingest, scan", "check"))
GPU_WAYS = ("default", "compiled, not deterministic", "lightly")
LEAST = tuple(f"least_s/{name}" for name in ("read", "write", "sync to disk", "sha256"))


LINES: list[tuple[str, str, str | tuple[str, ...], str]] = [
    (
        "faults",
        "fault classes / seeds of each / classes of sound series among them",
        ("classes", "seeds", "sound_classes"),
        "≥ 110 / 25",
    ),
    ("faults", "series wrong, medssl", "medssl/wrong", "0"),
    ("faults", "series right / refused, medssl", ("medssl/right", "medssl/refused"), ""),
    ("faults", "the same series wrong, dcm2niix", "dcm2niix/wrong", ""),
    ("faults", "the same series wrong, SimpleITK", "SimpleITK/wrong", ""),
    ("faults", "the same series wrong, dicom2nifti", "dicom2nifti/wrong", ""),
    *[
        (
            "faults",
            f"sound series right / refused / wrong, {tool}",
            tuple(f"{tool}/sound_{w}" for w in ("right", "refused", "wrong")),
            goal,
        )
        for tool, goal in (("medssl", "0 refused"), ("dcm2niix", ""), ("SimpleITK", ""), ("dicom2nifti", ""))
    ],
    ("header_fuzz", "headers mutated: right / refused", ("right", "refused"), ""),
    ("header_fuzz", "headers mutated: volumes changed / crashes / files lost", ("changed", "crashes", "files_lost"), "0"),
    ("ingest", f"slices/s over {N}, uncompressed, whole process", f"medssl_over/uncompressed/{N}", "≥ 0.7"),
    ("ingest", f"slices/s over {N}, uncompressed, without start-up", f"medssl_over_further/uncompressed/{N}", "≥ 1"),
    (
        "ingest",
        f"the same by processor time, {N} / SimpleITK",
        tuple(f"medssl_over_processor/uncompressed/{tool}" for tool in (N, "SimpleITK")),
        "",
    ),
    ("ingest", f"slices/s over {Y}, uncompressed, without start-up", f"medssl_over_further/uncompressed/{Y}", "≥ 10"),
    ("ingest", "slices/s over SimpleITK, JPEG lossless, without start-up", "medssl_over_further/ljpeg/SimpleITK", "≥ 2"),
    ("ingest", "slices/s over SimpleITK, JPEG-LS, without start-up", "medssl_over_further/jpegls/SimpleITK", "≥ 2"),
    ("ingest", "peak memory of a series / at start / size of the volume, MB", PEAKS, "≤ one volume more"),
    (
        "ingest",
        "start-up (three slices, scan to ledger), s / of processor time",
        ("start_s/medssl", "start_processor_s/medssl"),
        "≤ 0.6",
    ),
    ("ingest", "`medssl --help` / `medssl ingest --step scan` / `medssl check`, three slices, s", COMMANDS, ""),
    ("ingest", "minimum for 300 slices on one core: read / write / sync / sha256, s", LEAST, ""),
    ("ingest", "minimum for 300 slices on one core: JPEG-LS decoder, s", "least_s/decode JPEG-LS", ""),
    ("ingest", "JPEG-LS over SimpleITK by processor time", "medssl_over_processor/jpegls/SimpleITK", ""),
    ("ingest", "load of the machine's two cores in the last 15 minutes", "load", "≤ 1"),
    ("reduce", "three hashes of a slice over imagehash", "figures/hashes/ratio", "≥ 8"),
    ("reduce", "all descriptors over the naive chain", "figures/describe/ratio", "≥ 5"),
    ("reduce", "entropy of a slice over scikit-image", "figures/entropy/ratio", "≥ 15"),
    ("reduce", "mutual information of a pair over histogram2d", "figures/mutual_information/ratio", "≥ 8"),
    ("reduce", "SSIM of a pair over scikit-image", "figures/ssim/ratio", "≥ 5"),
    ("reduce", "pairs within 6 of 10⁴ codes over imagededup's BK-tree", "figures/search/10000/ratio_bk_tree", "≥ 100"),
    ("reduce", "pairs within 6 of 10⁵ codes over faiss", "figures/search/100000/ratio_faiss", "≥ 3"),
    ("leakage", "copies found of 50, the worst disguise", "least_found", "≥ 49"),
    ("leakage", "false alarms", "false_alarm_frac", "< 0.01"),
    *[
        (
            "pretrain",
            f"views/s over {peer}, crop and blur, 512² → 224², in one process / by processor time / one process per thread",
            places,
            goal,
        )
        for peer, key, goal in (("MONAI", "monai", "≥ 8"), ("torchvision", "torchvision", "≥ 8"), ("lightly", "lightly", "≥ 2.5"))
        for places in [
            tuple(f"views_512_to_224/{ratio}/{key}" for ratio in ("ratio", "ratio_by_processor_time", "ratio_to_workers"))
        ]
    ],
    *[
        ("pretrain", f"step alone over lightly, {name}, ResNet-18 / ResNet-50, {precision}", places, "≥ 1.3")
        for precision in ("fp32", "bf16")
        for name, key in (("SimCLR", "simclr"), ("MoCo", "moco"), ("BYOL", "byol"), ("SwAV", "swav"))
        for places in [tuple(f"steps/resnet{depth}/{precision}/{key}/ratio_step_alone" for depth in (18, 50))]
    ],
    *[
        ("pretrain", f"full step, {name}, ResNet-18 / ResNet-50, fp32, images/s", places, "")
        for name, key in (
            ("SimCLR", "simclr"),
            ("MoCo", "moco"),
            ("BYOL", "byol"),
            ("SwAV", "swav"),
            ("DeepCluster-v2", "deepcluster_v2"),
            ("G-SimCLR", "gsimclr"),
        )
        for places in [tuple(f"steps/resnet{depth}/fp32/{key}/images_per_s" for depth in (18, 50))]
    ],
    ("pretrain", "share of loading and views, SimCLR, ResNet-18", "steps/resnet18/fp32/simclr/load_and_views_frac", ""),
    ("pretrain", "images/s at half / whole / double batch", tuple(f"growth_with_batch_images_per_s/{b}" for b in SIZES), ""),
    ("pretrain", "images/s of 1 / 2 / 4 processes", tuple(f"growth_with_processes_images_per_s/{n}" for n in (1, 2, 4)), ""),
    *[
        ("pretrain", f"{what}, SimCLR, real loop, ResNet-18 / ResNet-50", places, goal)
        for what, key, goal in (
            ("share of time waiting for data", "simclr eager/waiting_frac", "< 0.02 on a GPU"),
            ("model FLOP utilisation on a GPU", "simclr eager/model_flop_utilisation", ""),
            ("peak memory on a GPU, MB", "simclr eager/peak_mb", ""),
            ("compiled over eager on a GPU", "compiled_over_eager", ""),
        )
        for places in [tuple(f"real_loop/resnet{depth}/{key}" for depth in (18, 50))]
    ],
    ("finetune", "fits per hour over a plain MONAI loop", "speed_ratio", "≥ 1.5"),
    ("finetune", "the same by processor time", "processor_ratio", ""),
    ("finetune", "fits per hour, medssl / MONAI", ("fits_per_hour/medssl", "fits_per_hour/monai"), ""),
    ("finetune", "Dice minus MONAI's, mean over seeds", "mean_dice_difference", "≥ −0.01"),
    ("finetune", "Dice of the test patients, medssl / MONAI", ("mean_dice/medssl", "mean_dice/monai"), ""),
    ("finetune", "the same by seed", ("dice/medssl", "dice/monai"), ""),
    ("finetune", "steps of a fit / labelled patients / threads", ("steps", "labelled_patients", "threads"), ""),
    *[
        (
            "spark",
            f"{what}, over the dense emulation as released / channels last",
            (f"ratio/{key}", f"ratio_to_channels_last/{key}"),
            goal,
        )
        for what, key, goal in (
            ("whole step", "whole_step", "≥ 1.6"),
            ("encoder, forward and backward", "encoder_step", ""),
            ("encoder, forward", "encoder_forward", ""),
        )
    ],
    ("spark", "difference of loss / gradients in float64", ("loss_difference", "gradient_difference_frac"), "≤ 1e-9"),
    *[
        ("self_distillation", f"step of {title} over SimCLR's, two views each, ResNet-18 / ViT-tiny", places, goal)
        for title, key, goal in (("LeJEPA", "lejepa", "≤ 1.15 on a CPU"), ("DINO", "dino", ""))
        for places in [tuple(f"step_over_simclr/{backbone}/{key}" for backbone in ("resnet18", "vit"))]
    ],
    (
        "self_distillation",
        "MAE's encoder, ViT-tiny, of 50 % / 25 % of the patches, over that of all",
        tuple(f"mae_encoder_over_all_patches/{share}" for share in (50, 25)),
        "0.5 / 0.25",
    ),
    ("scale", "planning 50,000 series, s", "planned_s", "< 60"),
    ("scale", "planning again without changes, s", "unchanged_s", "< 60"),
    ("scale", "peak memory of planning, MB", "peak_mb", "< 4096"),
    ("scale", "jobs planned", "planned_jobs", "< 2000"),
    ("scale", "listing a real file, µs (5 million: add five times as many seconds)", "walk_us_per_file", ""),
    *[
        ("gpu", what, places, goal)
        for what, places, goal in (
            (
                "sections and tries / those that failed, ran out of time, or were not finite, equal or as eager",
                ("claims/checked", "claims/num_not_held"),
                "0 of them",
            ),
            (
                "images/s, SimCLR, 224², bf16, ResNet-50: default / compiled, not deterministic / lightly",
                tuple(f"sections/real_loop/found/resnet50, {way}/images_per_s" for way in GPU_WAYS),
                "≥ 1700",
            ),
            (
                "the same, ResNet-18",
                tuple(f"sections/real_loop/found/resnet18, {way}/images_per_s" for way in GPU_WAYS),
                "≥ 5000",
            ),
            (
                "the same, ViT-S/16: default / compiled, not deterministic",
                tuple(f"sections/vit_loop/found/{way}/images_per_s" for way in GPU_WAYS[:2]),
                "≥ 1500",
            ),
            (
                "peak memory of ViT-S on two volumes of 128³, patches of 8³, MB: with / without checkpoints",
                tuple(f"sections/vit_volumes/found/{word} checkpoints/peak_mb" for word in ("with", "without")),
                "≤ 24576",
            ),
            (
                "MAE's encoder on a half / a quarter of the patches, seconds as a share of all",
                tuple(f"sections/mae_tokens/found/{share}% of the patches/seconds_share" for share in (50, 25)),
                "about 0.5 / 0.25",
            ),
            *[
                (
                    f"{said}, ResNet-50 / ResNet-18",
                    tuple(f"sections/real_loop/found/resnet{depth}, default/{key}" for depth in (50, 18)),
                    goal,
                )
                for said, key, goal in (
                    ("share of that time waiting for data", "waiting_frac", "< 0.02"),
                    ("share of that time in which the GPU is busy", "busy_frac", ""),
                    ("peak memory, MB", "peak_mb", ""),
                )
            ],
            (
                "views per second, 512² → 224²: medssl / kornia",
                tuple(f"sections/views/found/in batches on the device/views_per_s/{name}" for name in ("medssl", "kornia")),
                "≥ 8000",
            ),
            (
                "SparK's whole step over the dense emulation, ResNet-50, 224²",
                "sections/spark/found/resnet50, 224²/ratio/whole_step",
                "",
            ),
            (
                "steps/s, small U-Net, 192², batch 12: G^R / G^D / L^R",
                tuple(f"sections/small_unet/found/{variant}, default/steps_per_s" for variant in ("gr", "gd", "lr")),
                "≥ 200",
            ),
            (
                "minutes of 45 segmentation fits of 2,000 steps, extrapolated from shorter ones",
                "sections/segmentation_fits/found/45 fits of 2000 steps/minutes_extrapolated",
                "≤ 8",
            ),
            (
                "prediction, volumes/s, 208 × 208 × 10",
                "sections/predict/found/again/volumes_per_s",
                "",
            ),
            ("all sections, s", "seconds", "≤ 480"),
        )
    ],
    ("plan", "hours planned over hours taken, all stages", "time_ratio", "0.75 to 1.25"),
    ("plan", "disk planned over disk taken", "disk_ratio", "0.75 to 1.25"),
    ("plan", "the probe, s", "probe_s", "about 60"),
]
"""(benchmark, what, place or places in its results, goal)"""
NOTES = {
    "reduce": "The hashes are limited by the matrix product that filters the columns: more than half of the 0.50 ms per slice "
    "on one thread of\na Xeon. Sums must be exact, as the last bit decides their rounding, so each product is "
    "computed twice, with the upper and with\nthe lower bits of the weights. One thread has 6.7 times imagehash's "
    "rate; the goal needs the benchmark's second thread, and a\nfree core for it. scikit-image's entropy no longer "
    "sorts: numpy 2.3 counts unique integers in a table, so it is nine times as\nfast as when the goal of 15 was "
    "set. medssl's is unchanged, 0.7 ms per slice of 512².",
    "pretrain": "The views are limited by the image: on one thread of a Xeon, 0.24 of the 0.44 ms per view are the conversion to "
    "float, the\nplaces of its pixels and torch's grid_sample (0.10 ms alone), at the speed of memory outside the "
    "cache. The blur of every second\nview adds 0.1 ms.",
    "finetune": "Both sides use the same augmentation here, although medssl's default for a segmentation is nnU-Net's. Three "
    "fits on two cores\nleave one idle for a third of the time, and a plain loop also has a loader: by processor "
    "time a fit costs little more than half\nas much. Two seeds of one side differ by more than the two sides do.",
    "ingest": "Uncompressed slices are limited by the copy: reading, writing, hashing and syncing them takes 0.39 s of one "
    "core, and dcm2niix\n-z n takes 0.38 s in total; the others neither hash nor sync. JPEG-LS is limited by the "
    "decoder, CharLS, which SimpleITK also\nuses. medssl runs it on all free cores, so its lead is the saving "
    "outside the decoder, times the free cores. The rest of the\nstart-up is numpy, pydantic and about thirty syncs "
    "of small files.",
}
"""What the figures of a benchmark mean together."""


def page() -> str:
    """The text of docs/reference/benchmarks.md."""
    text = "# Benchmarks\n\nRatios against what a user would use instead, in one run on the same input: `make bench-<name>`. "
    text += "Absolute times of shared\nmachines mean little. "
    text += "This page is written by `benchmarks/write_docs.py` from `benchmarks/results/`.\n"
    for name in dict.fromkeys(line[0] for line in LINES):
        path = RESULTS / f"{name}.json"
        text += f"\n## {name}\n\n{summary(ROOT / 'benchmarks' / f'{name}.py')}\n\n"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        text += "| figure | seen | goal |\n|---|---|---|\n"
        for _, what, places, goal in (line for line in LINES if line[0] == name):
            seen = " / ".join(_shown(_at(kept, place)) for place in ([places] if isinstance(places, str) else places))
            seen = seen if kept else "not measured yet"
            text += f"| {what} | {seen} | {goal} |\n"
        if not kept:
            text += f"\nNo kept results; `make bench-{name}` makes them.\n"
            continue
        if name in NOTES:
            text += f"\n{NOTES[name]}\n"
        versions = ", ".join(f"{tool} {number}" for tool, number in sorted(kept.get("versions", {}).items()))
        text += f"\n{kept.get('date', 'undated')}{', ' + versions if versions else ''}\n"
    return text


def summary(script: Path) -> str:
    """The first sentence of a script."""
    return script.read_text(encoding="utf-8").split('"""')[1].split("\n\n")[0].replace("\n", " ").strip()


def _at(kept: Any, place: str) -> Any:
    for part in place.split("/"):
        kept = kept.get(part) if isinstance(kept, dict) else None
    return kept


def _shown(value: Any) -> str:
    if value is None:
        return "not run"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 1000
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
