"""The page of benchmarks says what their last results say; the small size of a benchmark runs."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of benchmarks/finetune.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "finetune.py"))


def test_the_page_is_written_from_the_results() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "write_docs.py"))["page"]()
    assert made == (ROOT / "docs" / "reference" / "benchmarks.md").read_text(encoding="utf-8"), "run benchmarks/write_docs.py"


def test_fine_tuning_in_small_ends_with_both_sides_figures() -> None:
    """With the stage as a study runs it, on drawn images: real ones need not be there."""
    command = [warm.python(), str(ROOT / "benchmarks" / "finetune.py"), "--small", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    word, _, figures = done.stdout.splitlines()[-1].partition(" ")
    found = json.loads(figures)
    assert word == "RESULT"
    assert (found["data"], found["threads"], found["seeds"]) == ("synthetic", 1, 1)
    for side in ("medssl", "monai"):
        assert 0 < found["mean_dice"][side] <= 1 and len(found["dice"][side]) == 1
    rates = found["fits_per_hour"]
    assert found["speed_ratio"] == pytest.approx(rates["medssl"] / rates["monai"], abs=0.01)
    assert found["dice_differences"] == pytest.approx([found["dice"]["medssl"][0] - found["dice"]["monai"][0]], abs=2e-4)


def test_dice_is_a_mean_over_classes_of_the_volumes_that_have_one(finetune: dict[str, Any]) -> None:
    """Class 1: all of it, and half of it with as much beside; class 2: in one volume alone, half of it found."""
    one, other = np.zeros((2, 4, 4, 1), dtype=int)
    one[0], other[1] = 1, 1
    other[2] = 2
    half = np.zeros_like(other)
    half[1, :2], half[0, :2], half[2, :2] = 1, 1, 2
    assert finetune["mean_dice"]([(one, one), (half, other)]) == pytest.approx(((1 + 1 / 2) / 2 + 2 / 3) / 2)


def test_shrunk_images_have_wider_voxels_and_masks_the_same_values(finetune: dict[str, Any], tmp_path: Path) -> None:
    import nibabel

    finetune["draw"](tmp_path / "drawn", 1, 60)
    finetune["shrink"](tmp_path / "drawn", tmp_path / "shrunk", 2.0)
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "shrunk").iterdir())
    for name in names:
        whole, less = (nibabel.load(tmp_path / folder / name) for folder in ("drawn", "shrunk"))
        assert less.shape == (30, 30, whole.shape[2]) and np.allclose(less.header.get_zooms(), (2, 2, 1))
        a, b = (np.asarray(image.dataobj) for image in (whole, less))
        assert b.mean() == pytest.approx(a.mean(), rel=0.02), "the same picture"
        assert "_img" in name or set(np.unique(b)) == {0, 1, 2, 3}


# baselines


@pytest.fixture
def acdc() -> dict[str, Any]:
    """The names of benchmarks/baselines/acdc.py."""
    return runpy.run_path(str(ROOT / "benchmarks" / "baselines" / "acdc.py"))


PROTOCOL = ["patient002 train 3", "patient009 train 1", "patient000 train 2", "patient001 test 4", "patient003 test 5"]
"""Of the heart's baseline, not in its order; patient009 has no images."""


@pytest.fixture
def hearts(finetune: dict[str, Any], tmp_path: Path) -> list[str]:
    """Four drawn patients and a protocol, as arguments."""
    finetune["draw"](tmp_path / "images", 4, 60)
    rows = ["patient part order", *PROTOCOL]
    (tmp_path / "protocol.tsv").write_text("\n".join(rows).replace(" ", "\t") + "\n", encoding="utf-8")
    return ["--images", str(tmp_path / "images"), "--protocol", str(tmp_path / "protocol.tsv")]


def test_the_hearts_baseline_learns_drawn_hearts(hearts: list[str]) -> None:
    """The baseline of the study `acdc` from its command line: few steps on drawn images, better than untrained (0.02)."""
    script = ROOT / "benchmarks" / "baselines" / "acdc.py"
    command = [warm.python(), str(script), "--counts", "2", "--seeds", "1", "--steps", "40", *hearts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    word, _, figures = done.stdout.splitlines()[-1].partition(" ")
    found = json.loads(figures)
    assert word == "RESULT"
    assert (found["seeds"], found["steps"]) == (1, 40)
    mean, spread = found["dice_mean_sd"]["2"]
    assert mean == pytest.approx(np.mean(found["dice_by_class"]["2"]), abs=2e-4) and spread == 0
    assert 0.1 < mean <= 1


def test_the_hearts_labelled_patients_are_the_protocols_first_that_are_there(acdc: dict[str, Any], hearts: list[str]) -> None:
    found = acdc["parts"](Path(hearts[1]), Path(hearts[3]))
    names = {part: [[Path(volume["image"]).name for volume in patient] for patient in found[part]] for part in found}
    of = {number: [f"patient{number:03d}_frame{frame:02d}_img.nii.gz" for frame in (1, 2)] for number in range(4)}
    assert names == {"train": [of[0], of[2]], "val": [], "test": [of[1], of[3]]}
    assert all(Path(volume["mask"]).is_file() for patients in found.values() for patient in patients for volume in patient)


def test_the_hearts_dice_is_of_masks_on_the_grid_of_the_files(acdc: dict[str, Any], hearts: list[str]) -> None:
    """A network that sees each class: grey values of drawn hearts without clutter or noise are class / 3."""
    import nibabel
    import torch

    volumes = [volume for patient in acdc["parts"](Path(hearts[1]), Path(hearts[3]))["test"] for volume in patient]
    for volume in volumes:
        mask = nibabel.load(volume["mask"])
        nibabel.save(nibabel.Nifti1Image(np.asarray(mask.dataobj).astype(np.float32), mask.affine), volume["image"])

    class Sees(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -1e3 * (images - torch.arange(4).view(1, -1, 1, 1) / 3) ** 2

    found = acdc["dice"](Sees(), volumes, 1)
    assert found.shape == (3,) and (found > 0.5).all() and found[2] > 0.9
    wrong = acdc["dice"](Sees(), [{**volumes[0], "mask": volumes[2]["mask"]}], 1)
    assert wrong.mean() < 0.5


# leaked_benchmarks


@pytest.fixture
def leaked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of benchmarks/leaked_benchmarks.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "leaked_benchmarks.py"))


def test_the_page_of_leakage_has_the_tables_of_the_last_result(
    leaked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "leaked_benchmarks.json").read_text(encoding="utf-8"))
    leaked["print_tables"](kept["found"], kept["scores"])
    page = (ROOT / "docs" / "explanation" / "leakage.md").read_text(encoding="utf-8")
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert first in page and second in page and "accuracy of" in second


def test_a_score_is_the_share_of_images_that_are_classed_right(leaked: dict[str, Any]) -> None:
    images = leaked["Labelled"](
        "set", [np.zeros((2, 2))] * 4, np.array(list("abab")), np.arange(4), False, np.zeros((4, 2, 2), np.float32)
    )
    always_a = leaked["Method"]("a", lambda seen, targets, asked, seed: np.zeros(len(asked), int), ("set",))
    assert leaked["answers"](always_a, images, np.array([0, 1]), np.array([0, 1, 2])).tolist() == [1, 0, 1]


def test_relatives_are_of_one_patient_or_one_image_and_leave_the_training_part_alone(leaked: dict[str, Any]) -> None:
    label, unit = np.array(list("aabba")), np.array(["p", "p", "q", "r", "s"])
    images = leaked["Labelled"]("set", [np.zeros((2, 2))] * 5, label, unit, True, np.zeros((5, 2, 2), np.float32))
    pairs = [leaked["Likeness"](3, 2, 0.9)]
    related = leaked["relatives"](images, pairs)
    assert related == [{1}, {0}, {3}, {2}, set()]
    division = [(np.array([0, 2]), np.array([1, 3, 4]))]
    found = leaked["counts"](images, pairs, related, division)
    assert found == {"asked": 3, "pool": 2, "found": 1, "other_class": 0, "other_patient": 1, "with_relative": 2}


def test_what_a_score_owes_to_relatives_is_counted_by_hand(leaked: dict[str, Any]) -> None:
    right = {"all": np.array([1.0, 1, 0, 1]), "without relatives": np.array([0.0, 1, 0, 1]), "without as many others": np.ones(4)}
    twin = np.array([True, True, False, False])
    found = leaked["figures"](right, twin, np.array(["p", "p", "q", "r"]))
    estimates = {name: value[0] for name, value in found.items()}
    assert estimates == {
        "all": 0.75,
        "without a relative": 0.5,
        "difference": 0.25,
        "with a relative": 1.0,
        "fall with": 0.5,
        "fall with, others": 0.0,
        "fall of all": 0.25,
        "fall of all beyond others": 0.5,
    }
    assert all(low <= estimate <= high for estimate, low, high in found.values())


def test_as_many_others_of_the_same_classes_leave(leaked: dict[str, Any]) -> None:
    label = np.array(list("aaaabbb"))
    images = leaked["Labelled"]("set", [], label, label, False, np.zeros((7, 1, 1), np.float32))
    gone = leaked["others"](images, np.arange(7), np.array([0, 1, 4]))
    assert sorted(label[gone]) == ["a", "a", "b"] and not set(gone) & {0, 1, 4}
