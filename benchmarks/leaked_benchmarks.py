"""What the leakage firewall finds inside public sets, and its effect on scores.

COVID-CT and OrganAMNIST (a sample of its test part) are looked up across their official parts; COVID-CT again in five folds by
image, as it is often cross-validated; chest slices of the LUNA pool and hippocampi in the others of their set. A test image has a
relative in the training part where the firewall finds it there, or where an image of its patient is. Three questions follow: what
is the score without such images; what is it once all their relatives have left the training part; and what, if as many others of
the same classes leave instead? The methods are simple on purpose: memory is all that nearest neighbours have.

Prints the tables of docs/explanation/leakage.md; the last line is RESULT {json}.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from leaked_methods import METHODS, Method
from PIL import Image

from medssl.core.files import write_json
from medssl.core.rng import rng
from medssl.reduce.leakage import CANDIDATES, SAME, Likeness, agreement, fingerprint, look_up, matches

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
ORGANS = ROOT / "data" / "organamnist" / "organamnist.npz"
SPLIT = ROOT / "configs" / "studies" / "covid_ct_split.tsv"
RESAMPLES = 2000
FOLDS = 5
COLUMNS = {
    "all": "all",
    "without a relative": "without a relative",
    "difference": "difference",
    "with a relative": "with a relative",
    "fall with": "… lose once relatives leave",
    "fall with, others": "… lose if others leave",
    "fall of all": "all lose once relatives leave",
    "fall of all beyond others": "… beyond what they lose if others leave",
}


@dataclass(frozen=True)
class Labelled:
    """Images of a set with their classes, as the firewall sees them and, in `seen` `(n, side, side)`, as the methods do.

    `unit` is the patient where the set has patients (`has_units`), or the image itself.
    """

    name: str
    images: list[np.ndarray]
    label: np.ndarray
    unit: np.ndarray
    has_units: bool
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=200, help="how many test images of OrganAMNIST are looked up")
    parser.add_argument("--quick", action="store_true", help="few images, no fitted network; nothing is kept")
    options = parser.parse_args()
    if not SHARED.is_dir():
        raise SystemExit("needs ../shared/data: the public sets")
    torch.set_num_threads(1)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    found: list[dict[str, Any]] = []
    scores: dict[str, list[dict[str, Any]]] = {}
    for name, images, divisions in divided_sets(40 if options.quick else options.queries):
        pairs = twins_within(images.images) if len(divisions) > 1 else across(images, *divisions[0])
        related = relatives(images, pairs)
        found.append({"set": name} | counts(images, pairs, related, divisions))
        print(found[-1], flush=True)
        scores[name] = scored(images, divisions, related, quick=options.quick)
    for name, alone in (("LUNA, slices", chest(options.quick)), ("hippocampus, volumes", hippocampi(options.quick))):
        pairs = twins_within(alone)
        asked = {pair.query for pair in pairs}
        found.append({"set": name, "asked": len(alone), "pool": len(alone) - 1, "found": len(asked)})
        print(found[-1], flush=True)
    print_tables(found, scores)
    result = {"found": found, "scores": scores, "same": SAME, "resamples": RESAMPLES}
    result |= {"minutes": (time.monotonic() - started_s) / 60, "cpu_minutes": (time.process_time() - started_cpu_s) / 60}
    if not options.quick:
        kept = result | {"date": datetime.now(UTC).date().isoformat()}
        write_json(ROOT / "benchmarks" / "results" / "leaked_benchmarks.json", kept)
    print("RESULT " + json.dumps(result))


# Twins


def across(images: Labelled, train: np.ndarray, test: np.ndarray) -> list[Likeness]:
    """Every pair of a test image and the training image that it is by its pixels, as places among `images`."""
    prints = [[fingerprint(images.images[k]) for k in part] for part in (test, train)]
    return [Likeness(int(test[match.query]), int(train[match.pool]), match.score) for match in matches(*prints)]


def twins_within(images: list[np.ndarray]) -> list[Likeness]:
    """Every pair of an image and another of its set that it is by its pixels."""
    prints = [fingerprint(image) for image in images]
    known = [k for k, one in enumerate(prints) if one is not None]
    thumbs = [prints[k].thumb for k in known]
    found = []
    for k, candidates in zip(known, look_up(thumbs, thumbs, most=CANDIDATES[thumbs[0].ndim] + 1), strict=True):
        for one in [one for one in candidates if known[one.pool] != k]:
            score = agreement(prints[k], prints[known[one.pool]], one)
            found += [Likeness(k, known[one.pool], score)] if score >= SAME else []
    return found


def relatives(images: Labelled, pairs: list[Likeness]) -> list[set[int]]:
    """The images that each one is by its pixels, or that are of its patient."""
    of_patient: dict[str, set[int]] = {}
    for place, unit in enumerate(images.unit):
        of_patient.setdefault(str(unit), set()).add(place)
    found = [of_patient[str(unit)] - {place} for place, unit in enumerate(images.unit)]
    for pair in pairs:
        found[pair.query].add(pair.pool)
        found[pair.pool].add(pair.query)
    return found


def counts(
    images: Labelled, pairs: list[Likeness], related: list[set[int]], divisions: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, int]:
    """Test images that the firewall finds in their training part, and those of them whose twin has another class or patient."""
    apart = [(set(train.tolist()), set(test.tolist())) for train, test in divisions]
    torn = [p for p in pairs if any(p.query in test and p.pool in train for train, test in apart)]
    asked = sorted(k for _, test in apart for k in test)
    has_relative = [k for train, test in apart for k in sorted(test) if related[k] & train]
    return {
        "asked": len(asked),
        "pool": round(float(np.mean([len(train) for train, _ in apart]))),
        "found": len({p.query for p in torn}),
        "other_class": len({p.query for p in torn if images.label[p.query] != images.label[p.pool]}),
        "other_patient": len({p.query for p in torn if images.unit[p.query] != images.unit[p.pool]}) if images.has_units else -1,
        "with_relative": len(has_relative),
    }


# Scores


def scored(
    images: Labelled, divisions: Sequence[tuple[np.ndarray, np.ndarray]], related: list[set[int]], *, quick: bool
) -> list[dict[str, Any]]:
    """A row for each method: scores on all, without and on the images with a relative, with intervals over patients or images."""
    asked = np.concatenate([test for _, test in divisions])
    twin = np.concatenate([[bool(related[k] & set(train.tolist())) for k in test] for train, test in divisions])
    if not twin.any():
        return []
    rows = []
    for method in METHODS:
        if (images.name not in method.sets) or (quick and method.is_slow):
            continue
        right: dict[str, list[np.ndarray]] = {"all": [], "without relatives": [], "without as many others": []}
        for train, test in divisions:
            leave = np.array(sorted(set(train.tolist()) & set().union(*(related[k] for k in test))), int)
            instead = others(images, train, leave)
            for what, gone in zip(right, ([], leave, instead), strict=True):
                right[what].append(answers(method, images, np.setdiff1d(train, gone), test))
        joined = {what: np.concatenate(parts) for what, parts in right.items()}
        unit = "patient" if images.has_units else "image"
        rows.append({"method": method.title, "unit": unit} | figures(joined, twin, images.unit[asked]))
        print(f"{images.name}, {method.title}: {rows[-1]['all'][0]:.3f}", flush=True)
    return rows


def others(images: Labelled, train: np.ndarray, leave: np.ndarray) -> np.ndarray:
    """As many other training images of the same classes, by lot; fewer where a class has no more."""
    drawn: list[int] = []
    for label in sorted(set(images.label[leave].tolist())):
        free = np.setdiff1d(train[images.label[train] == label], leave)
        count = int((images.label[leave] == label).sum())
        drawn += rng(0, "leaked", "others", str(label), len(leave)).permutation(free)[:count].tolist()
    return np.array(sorted(drawn), int)


def answers(method: Method, images: Labelled, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Whether each test image is classed right `(n,)`."""
    classes, targets = np.unique(images.label[train], return_inverse=True)
    called = method.call(images.seen[train], targets, images.seen[test], 0)
    return (classes[called] == images.label[test]).astype(float)


def figures(right: dict[str, np.ndarray], twin: np.ndarray, unit: np.ndarray) -> dict[str, Any]:
    """Accuracies and paired differences, each as estimate, low, high."""
    everyone = np.ones(len(twin), bool)
    fall, fall_by_others = (right["all"] - right[what] for what in ("without relatives", "without as many others"))
    statistics: dict[str, Callable[[np.ndarray], float]] = {
        "all": lambda w: mean(right["all"], everyone, w),
        "without a relative": lambda w: mean(right["all"], ~twin, w),
        "difference": lambda w: mean(right["all"], everyone, w) - mean(right["all"], ~twin, w),
        "with a relative": lambda w: mean(right["all"], twin, w),
        "fall with": lambda w: mean(fall, twin, w),
        "fall with, others": lambda w: mean(fall_by_others, twin, w),
        "fall of all": lambda w: mean(fall, everyone, w),
        "fall of all beyond others": lambda w: mean(fall - fall_by_others, everyone, w),
    }
    return {what: interval(statistic, unit) for what, statistic in statistics.items()}


def mean(values: np.ndarray, of: np.ndarray, weight: np.ndarray) -> float:
    """Mean of some images, each counted as often as it was drawn; not a number where none was."""
    total = (weight * of).sum()
    return float((values * of * weight).sum() / total) if total else float("nan")


def interval(statistic: Callable[[np.ndarray], float], unit: np.ndarray) -> list[float]:
    """A statistic of weights of images with its 95 % percentile interval, resampling units."""
    names, of = np.unique(unit, return_inverse=True)
    random = rng(0, "leaked", "bootstrap")
    draws = [
        statistic(np.bincount(random.integers(len(names), size=len(names)), minlength=len(names))[of]) for _ in range(RESAMPLES)
    ]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return [round(float(value), 4) for value in (statistic(np.ones(len(of))), low, high)]


def resized(images: list[np.ndarray], side: int) -> np.ndarray:
    """Images `(n, side, side)` in 0…1, by area."""
    small = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX)) for image in images]
    return np.stack(small).astype(np.float32) / 255


# Sets


def divided_sets(queries: int) -> Iterator[tuple[str, Labelled, list[tuple[np.ndarray, np.ndarray]]]]:
    """Name, images, and the divisions into training and test images of each set with classes."""
    images, official = covid_ct()
    yield "COVID-CT, official parts", images, [(np.flatnonzero(official == "train"), np.flatnonzero(official == "val"))]
    fold = rng(0, "leaked", "folds").permutation(np.arange(len(images)) % FOLDS)
    by_image = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS)]
    yield f"COVID-CT, {FOLDS} folds by image", images, by_image
    if not ORGANS.is_file():
        print("OrganAMNIST: left out, its file is not there (make organamnist)")
        return
    images, num_train = organs(queries)
    yield "OrganAMNIST, official parts", images, [(np.arange(num_train), np.arange(num_train, len(images)))]


def covid_ct() -> tuple[Labelled, np.ndarray]:
    """COVID-CT with the patient of each picture, and its official parts."""
    with SPLIT.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    images = [np.asarray(Image.open(SHARED / "cls/covid_ct" / row["file"]).convert("L")) for row in rows]
    label, unit = (np.array([row[name] for row in rows]) for name in ("label", "subject"))
    official = np.array([row["file"].split("/")[0] for row in rows])
    return Labelled("COVID-CT", images, label, unit, True, resized(images, 64)), official


def organs(queries: int) -> tuple[Labelled, int]:
    """OrganAMNIST: its training part and then a sample of its test part, and how many train; the patients are not known."""
    with np.load(ORGANS) as held:
        asked = rng(0, "leaked", "organs").permutation(len(held["test_images"]))[:queries]
        images = np.concatenate([held["train_images"], held["test_images"][asked]])
        label = np.concatenate([held["train_labels"], held["test_labels"][asked]])[:, 0]
    unit = np.array([f"image {k}" for k in range(len(images))])
    return Labelled("OrganAMNIST", list(images), label, unit, False, images / np.float32(255)), len(images) - len(asked)


def chest(quick: bool) -> list[np.ndarray]:
    """One slice of each of 350 chest CT scans."""
    paths = sorted((SHARED / "ssl/luna350_256").rglob("*.png"))[: 60 if quick else None]
    return [np.asarray(Image.open(path).convert("L")) for path in paths]


def hippocampi(quick: bool) -> list[np.ndarray]:
    """Brain MR crops, one hippocampus each."""
    paths = sorted((SHARED / "seg/hippocampus/images").glob("*.nii.gz"))[: 20 if quick else None]
    return [np.asarray(nibabel.load(path).dataobj) for path in paths]


# Tables


def print_tables(found: list[dict[str, Any]], scores: dict[str, list[dict[str, Any]]]) -> None:
    """The tables of docs/explanation/leakage.md."""
    print("\n| set | looked up | in | found by pixels | of another class | of another patient | with a relative |")
    print("|---|---|---|---|---|---|---|")
    names = ("set", "asked", "pool", "found", "other_class", "other_patient", "with_relative")
    for entry in found:
        print("| " + " | ".join("–" if entry.get(name, -1) == -1 else str(entry[name]) for name in names) + " |")
    print("\n| accuracy of: set, method | " + " | ".join(COLUMNS.values()) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for name, rows in scores.items():
        for entry in rows:
            cells = [_cell(entry[column], signed=column.startswith(("fall", "difference"))) for column in COLUMNS]
            print("| " + " | ".join([f"{name}, {entry['method']}", *cells]) + " |")


def _cell(value: list[float], *, signed: bool) -> str:
    form = "+.3f" if signed else ".3f"
    estimate, low, high = (format(one, form).replace("-", "−") for one in value)
    return f"{estimate} ({low} to {high})"


if __name__ == "__main__":
    main()
