"""The studies of `make study-<name>` load, each in three sizes that ask the same question."""

from __future__ import annotations

import csv
import runpy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import norm

from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.options import Study

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs" / "studies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.endswith(("_full", "_gpu10")))


def load(name: str) -> Study:
    path = FOLDER / f"{name}.yaml"
    return load_study(yaml.safe_load(path.read_text()), [str(path)])


@pytest.mark.parametrize("name", NAMES)
def test_both_sizes_compare_the_same(name: str) -> None:
    small, full = load(name), load(f"{name}_full")
    assert (small.study, full.study) == (name, f"{name}_full"), "their results lie apart"
    assert set(small.pretrain) <= set(full.pretrain) and set(small.finetune) <= set(full.finetune), "the full size may ask more"
    assert set(small.reduce.with_controls()) == set(full.reduce.with_controls())
    assert set(small.evaluate.compare) <= set(full.evaluate.compare)
    for study in (small, full):
        seeds = [(len(run.seeds), len(task.seeds)) for run in study.pretrain.values() for task in study.finetune.values()]
        assert all(pretrained * tuned >= 3 for pretrained, tuned in seeds), "three seeds at least, of one kind or the other"
        started = [task for task in study.finetune.values() if task.inits != []]
        assert all(Dag(study).runs_for(task) for task in started), "every task starts from some run, or is of scratch alone"


@pytest.mark.parametrize("name", NAMES)
def test_the_size_for_minutes_of_a_gpu_compares_what_the_full_size_does(name: str) -> None:
    short, full = load(f"{name}_gpu10"), load(f"{name}_full")
    assert (
        short.study == f"{name}_gpu10" and set(short.pretrain) == set(full.pretrain) and set(short.finetune) <= set(full.finetune)
    )
    assert set(short.evaluate.compare) == set(full.evaluate.compare)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_folder_draws_the_same_patients(path: Path) -> None:
    """Ids depend on the key, and draws on ids: a key of the folder's own would draw other patients in each."""
    assert yaml.safe_load(path.read_text())["id_key"] == "demo/id_key"


def table(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.skipif(not (ROOT.parent / "shared/data/protocols").is_dir(), reason="needs ../shared/data")
def test_the_split_tables_are_what_their_protocols_say() -> None:
    written = runpy.run_path(str(ROOT / "workflow" / "write_study_splits.py"))["written"]()
    assert len(written) == 4 and written == {name: (FOLDER / name).read_text() for name in written}


def test_whoever_tests_on_acdc_is_in_no_pool() -> None:
    parts, pool = ({row["id"]: row["split"] for row in table(f"acdc_{name}_split.tsv")} for name in ("ssl4mis", "pool"))
    assert set(parts) == set(pool)
    assert {patient for patient, part in parts.items() if part == "test"} == {p for p, part in pool.items() if part == "test"}


def test_no_patient_of_covid_ct_is_in_two_parts_and_the_official_parts_are_kept() -> None:
    rows = table("covid_ct_split.tsv")
    parts: dict[str, set[str]] = defaultdict(set)
    by_class: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        parts[row["subject"]].add(row["split"])
        by_class[row["label"], row["split"]].add(row["subject"])
        assert (row["split"] == "test") == row["file"].startswith("val/") and row["file"].split("/")[1] == row["label"]
    assert len(rows) == 543 and len(parts) == 289 and all(len(own) == 1 for own in parts.values())
    for label in ("COVID", "NonCOVID"):
        select, train = len(by_class[label, "val"]), len(by_class[label, "train"])
        assert abs(select - 0.2 * (select + train)) <= 1, "a fifth of the patients of each class"


def test_the_protocol_of_few_labels_on_acdc_has_the_patients_of_the_other_split() -> None:
    rows = table("acdc_ssl4mis_split.tsv")
    of = {part: [row for row in rows if row["split"] == part] for part in ("train", "val", "test")}
    assert {part: len(own) for part, own in of.items()} == {"train": 26, "val": 2, "test": 12}
    assert {row["id"] for row in rows} == {row["id"] for row in table("acdc_split.tsv")}
    places = [int(row["order"]) for row in of["train"]]
    assert places == sorted(set(places)) and places[0] >= 1 and places[-1] <= 70, "70 patients train in the protocol"
    assert {row["order"] for part in ("val", "test") for row in of[part]} == {""}


def test_in_training_nine_of_ten_patients_of_a_class_are_of_one_vendor_and_each_test_picture_is_of_both() -> None:
    made = runpy.run_path(str(ROOT / "workflow" / "write_scanner_shift.py"))
    plan = made["planned"](table("covid_ct_split.tsv"))
    rows = [row for _, row in plan]
    assert len({row["file"] for row in rows}) == len(rows) == 543 + 118
    vendors: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        vendors[row["subject"]].add(row["vendor"])
        assert (row["pairing"] == "usual") == (row["vendor"] == {"COVID": "b", "NonCOVID": "a"}[row["label"]])
    parts: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    pictures: dict[str, list[str]] = defaultdict(list)
    for source, row in plan:
        parts[row["split"], row["label"]][row["subject"]] = row["pairing"]
        pictures[source] += [row["vendor"]] if row["split"] == "test" else []
    assert {tuple(sorted(both)) for both in pictures.values() if both} == {("a", "b")}
    for (part, _), patients in parts.items():
        assert all((len(vendors[patient]) == 2) == (part == "test") for patient in patients)
        if part != "test":
            rare = sum(pairing == "other" for pairing in patients.values())
            assert abs(rare - 0.1 * len(patients)) <= 0.5


def test_a_vendor_has_a_curve_of_grey_values_and_a_kernel() -> None:
    """The curve is that of flat pictures; a step has its width from the kernel, as the integral of a Gaussian."""
    made = runpy.run_path(str(ROOT / "workflow" / "write_scanner_shift.py"))
    for vendor, gamma, deviation in (("a", 1.25, 0.0), ("b", 0.8, 0.012 * 200)):
        for grey in (0, 60, 255):
            assert (made["seen_by"](vendor, np.full((9, 200), float(grey))) == round(255 * (grey / 255) ** gamma)).all()
        step = np.where(np.arange(200) < 100, 0.0, 255.0) * np.ones((200, 1))
        seen = (made["seen_by"](vendor, step)[0] / 255) ** (1 / gamma)
        truth = norm.cdf((np.arange(200) - 99.5) / max(deviation, 1e-9))
        assert np.abs(seen - truth).max() < 0.03


def test_every_study_has_its_section() -> None:
    page = (ROOT / "docs" / "explanation" / "studies.md").read_text(encoding="utf-8")
    assert NAMES and [name for name in NAMES if f"\n## {name}: " not in page] == []
