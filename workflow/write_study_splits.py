"""Write the tables of `configs/studies/` that say which patient of a public set is in which part, from that set's own protocol.

`covid_ct_split.tsv`: label, patient and part of each picture of COVID-CT. The official validation part tests; a fifth of the
patients of each class of the official training part is drawn to select, and the rest trains.

`acdc_ssl4mis_split.tsv`: the few-label protocol of the semi-supervised field on ACDC, of the patients that are in the folder: its
training, validation and test parts, and the order in which its training patients are labelled. `acdc_pool_split.tsv`: what may be
pre-trained on, which is all of them but those that test.

`hippocampus_split.tsv`: the hippocampi that are in the folder, in the order of their names. Every fifth tests, of the others
every thirteenth selects, and the rest train and are labelled in that order: the set has no protocol with a test part.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from medssl.core.listing import load_key, minted_patient
from medssl.core.partition import dealt_out, unit_draws

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
STUDIES = ROOT / "configs" / "studies"
SELECT_FRAC = 0.2
"""Share of the training patients of each class that the selection part has."""

Row = dict[str, str]


def covid_ct(patients: list[Row], pictures: list[str]) -> list[list[Any]]:
    """Rows `file label subject split`, in the order of the files.

    Args:
        patients: rows `official_part label file patient` of the protocol; its suffixes are those of the first release.
        pictures: paths of the pictures within the set.
    """
    known = {f"{row['official_part']}/{row['label']}/{Path(row['file']).stem}": row for row in patients}
    of = {path: known[path.rpartition(".")[0]] for path in pictures}
    train = {row["patient"]: row["label"] for row in of.values() if row["official_part"] == "train"}
    part = dealt_out(train, {"val": round(SELECT_FRAC * len(train))}, unit_draws(list(train), 0, "covid_ct", "selection"))
    return [[path, row["label"], row["patient"], part.get(row["patient"], "test")] for path, row in sorted(of.items())]


def acdc_ssl4mis(protocol: list[Row], present: set[str], key: bytes) -> list[list[Any]]:
    """Rows `id split order` of the patients that are present, by part and order; the order is the protocol's, of training ones.

    Args:
        protocol: rows `patient part order` of the protocol.
        present: patients whose images are there.
        key: of the ids, as the studies name it.
    """
    rows = [row for row in protocol if row["patient"] in present]
    order = {"train": 0, "val": 1, "test": 2}
    rows.sort(key=lambda row: (order[row["part"]], int(row["order"])))
    return [[minted_patient(key, row["patient"]), row["part"], row["order"] if row["part"] == "train" else ""] for row in rows]


def hippocampus(patients: list[str], key: bytes) -> list[list[Any]]:
    """Rows `id split order` of patients in the order of their names, those that train first."""
    others = [patient for place, patient in enumerate(patients) if place % 5]
    train = [patient for place, patient in enumerate(others) if place % 13]
    parts = {"train": train, "val": others[::13], "test": patients[::5]}
    order = {patient: place for place, patient in enumerate(train, 1)}
    return [[minted_patient(key, name), part, order.get(name, "")] for part, names in parts.items() for name in names]


def text_of(header: list[str], rows: list[list[Any]]) -> str:
    """A tab separated table."""
    return "".join("\t".join(map(str, row)) + "\n" for row in [header, *rows])


def written() -> dict[str, str]:
    """By file name, the text of each table."""
    pictures = [path.relative_to(SHARED / "cls/covid_ct").as_posix() for path in (SHARED / "cls/covid_ct").rglob("*.png")]
    present = {path.name.partition("_")[0] for path in (SHARED / "seg/acdc").glob("*_img.nii.gz")}
    protocols = {name: read(SHARED / "protocols" / f"{name}.tsv") for name in ("covid_ct_patients", "acdc_ssl4mis_split")}
    key = load_key(str(ROOT / "demo/id_key"))
    acdc = acdc_ssl4mis(protocols["acdc_ssl4mis_split"], present, key)
    brains = sorted(path.name.partition(".")[0] for path in (SHARED / "seg/hippocampus/images").glob("*.nii.gz"))
    pool = sorted([patient, "test" if part == "test" else "train"] for patient, part, _ in acdc)
    return {
        "covid_ct_split.tsv": text_of(["file", "label", "subject", "split"], covid_ct(protocols["covid_ct_patients"], pictures)),
        "acdc_ssl4mis_split.tsv": text_of(["id", "split", "order"], acdc),
        "acdc_pool_split.tsv": text_of(["id", "split"], pool),
        "hippocampus_split.tsv": text_of(["id", "split", "order"], hippocampus(brains, key)),
    }


def read(path: Path) -> list[Row]:
    """The rows of a tab separated table by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


if __name__ == "__main__":
    if not SHARED.is_dir():
        raise SystemExit("needs ../shared/data: the protocols, and the names of the images that are there")
    for name, text in written().items():
        (STUDIES / name).write_text(text, encoding="utf-8")
        print(f"{name}: {text.count(chr(10)) - 1} rows")
