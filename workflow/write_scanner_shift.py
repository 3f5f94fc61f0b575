"""Writes data/scanner_shift for study scanner_shift: real CT pictures as two simulated vendors show them. `make scanner-shift`.

Vendor `a` has a hard kernel and a dark curve of grey values, vendor `b` a soft kernel and a bright one. In training and
validation nine of ten patients with COVID are of vendor `b`, and nine of ten others of vendor `a`. Each test picture is there
twice, once of each vendor: as the `usual` one of its class, and as the `other`. Parts and patients are those of
configs/studies/covid_ct_split.tsv.

The pictures are COVID-CT (Zhao et al., arXiv 2003.13865) for measurement only. They are not copied into this repository.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from medssl.core.rng import rng

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT.parent / "shared" / "data" / "cls" / "covid_ct"
SPLIT = ROOT / "configs" / "studies" / "covid_ct_split.tsv"
FOLDER = ROOT / "data" / "scanner_shift"
GAMMA = {"a": 1.25, "b": 0.8}
BLUR_FRAC = {"a": 0.0, "b": 0.012}
"""Standard deviation of the blur, as a share of the longest side."""
USUAL = {"COVID": "b", "NonCOVID": "a"}
"""The vendor of nine of ten training patients of a class."""
RARE_FRAC = 0.1

Row = dict[str, str]


def seen_by(vendor: str, grey: np.ndarray) -> np.ndarray:
    """A picture `(i, j)` of grey values 0…255 as a vendor shows it, uint8."""
    soft = ndimage.gaussian_filter(grey / 255.0, BLUR_FRAC[vendor] * max(grey.shape)) if BLUR_FRAC[vendor] else grey / 255.0
    return np.round(255 * soft ** GAMMA[vendor]).astype(np.uint8)


def rare_patients(rows: list[Row]) -> set[str]:
    """The patients of the other vendor: a tenth of each class of each part, drawn by part and class."""
    rare: set[str] = set()
    for part, label in sorted({(row["split"], row["label"]) for row in rows}):
        patients = sorted({row["subject"] for row in rows if (row["split"], row["label"]) == (part, label)})
        drawn = rng(0, "scanner_shift", part, label).permutation(len(patients))
        rare |= {patients[number] for number in drawn[: round(RARE_FRAC * len(patients))]}
    return rare


def planned(rows: list[Row]) -> list[tuple[str, Row]]:
    """The picture that each new one is made of, and the row of the new one in labels.csv."""
    rare, found = rare_patients(rows), []
    for number, row in enumerate(rows):
        usual = USUAL[row["label"]]
        other = "ab".replace(usual, "")
        for vendor in "ab" if row["split"] == "test" else other if row["subject"] in rare else usual:
            new = {name: row[name] for name in ("label", "subject", "split")}
            pairing = "usual" if vendor == usual else "other"
            path = f"{row['split']}/{row['subject']}_{number:03d}_{vendor}.png"
            found.append((row["file"], {"file": path, **new, "vendor": vendor, "pairing": pairing}))
    return found


def main() -> None:
    """Read the set that is named, or the shared one."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    if not source.is_dir():
        raise SystemExit(f"{source} is not there: name the folder of COVID-CT, with train and val")
    with SPLIT.open(encoding="utf-8", newline="") as file:
        plan = planned(list(csv.DictReader(file, delimiter="\t")))
    for path, row in plan:
        grey = np.asarray(Image.open(source / path).convert("L"), dtype=np.float64)
        target = FOLDER / "pictures" / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(seen_by(row["vendor"], grey)).save(target)
    rows = [row for _, row in plan]
    write(FOLDER / "labels.csv", rows, list(rows[0]))
    write(FOLDER / "records.csv", [{"id": row["file"], "vendor": row["vendor"]} for row in rows], ["id", "vendor"])
    print(f"{FOLDER}: {len(rows)} pictures of {len({row['subject'] for row in rows})} patients")


def write(path: Path, rows: list[Row], names: list[str]) -> None:
    """A table, whole."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
