"""The page of benchmarks says what their last results say; the small size of a benchmark runs."""

from __future__ import annotations

import dataclasses
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
    assert mean == pytest.approx(np.mean(found["dice_by_class"]["2"]), abs=2e-4) and spread is None
    assert 0.1 < mean <= 1


def test_the_hearts_labelled_patients_are_the_protocols_first_that_are_there(
    segmentation: dict[str, Any], hearts: list[str]
) -> None:
    found = segmentation["hearts"](Path(hearts[1]), Path(hearts[3]))
    names = {part: [[Path(volume["image"]).name for volume in patient] for patient in found[part]] for part in found}
    of = {number: [f"patient{number:03d}_frame{frame:02d}_img.nii.gz" for frame in (1, 2)] for number in range(4)}
    assert names == {"train": [of[0], of[2]], "val": [], "test": [of[1], of[3]]}
    assert all(Path(volume["mask"]).is_file() for patients in found.values() for patient in patients for volume in patient)


def test_labelled_patients_by_hand_can_be_those_that_a_study_drew(segmentation: dict[str, Any], hearts: list[str]) -> None:
    train = segmentation["hearts"](Path(hearts[1]), Path(hearts[3]))["train"]
    assert segmentation["named"](train, ["patient002"]) == [train[1]]
    for names in (["patient001"], ["patient00"]):
        with pytest.raises(SystemExit, match="whole name"):
            segmentation["named"](train, names)


def test_the_hearts_dice_is_of_masks_on_the_grid_of_the_files(acdc: dict[str, Any], hearts: list[str]) -> None:
    """A network that sees each class: grey values of drawn hearts without clutter or noise are class / 3."""
    import nibabel
    import torch

    volumes = [volume for patient in acdc["hearts"](Path(hearts[1]), Path(hearts[3]))["test"] for volume in patient]
    for volume in volumes:
        mask = nibabel.load(volume["mask"])
        values = np.asarray(mask.dataobj) + np.float32(1)
        values[0, 0, 0] = 0  # the lowest value alone does not count for the window
        nibabel.save(nibabel.Nifti1Image(values, mask.affine), volume["image"])

    class Sees(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -1e3 * (images - torch.arange(4).view(1, -1, 1, 1) / 3) ** 2

    found = acdc["dice"](Sees(), volumes, acdc["SETTING"])
    assert found.shape == (3,) and (found > 0.5).all() and found[2] > 0.85
    wrong = acdc["dice"](Sees(), [{**volumes[0], "mask": volumes[2]["mask"]}], acdc["SETTING"])
    assert wrong.mean() < 0.5


@pytest.fixture
def classification() -> dict[str, Any]:
    """The names of benchmarks/baselines/classification.py."""
    return runpy.run_path(str(ROOT / "benchmarks" / "baselines" / "classification.py"))


@pytest.fixture
def segmentation() -> dict[str, Any]:
    """The names of benchmarks/baselines/segmentation.py."""
    return runpy.run_path(str(ROOT / "benchmarks" / "baselines" / "segmentation.py"))


def test_settings_by_hand_are_those_of_the_study_files(classification: dict[str, Any], segmentation: dict[str, Any]) -> None:
    from medssl.study.file import load_study

    for name, setting in {**classification["SETTINGS"], **segmentation["SETTINGS"]}.items():
        study, _, task = name.partition(".")
        options = load_study(files=[str(ROOT / "configs" / "studies" / f"{study}.yaml")]).finetune[task]
        modes = set(getattr(setting, "modes", ["full"]))
        asked = list(setting.size) if isinstance(setting.size, tuple) else [setting.size]
        assert modes <= set(options.modes) and set(setting.shares) <= set(options.fractions), name
        assert set(getattr(setting, "counts", ())) <= set(options.counts_per_class), name
        assert options.size is None or set(options.size) == set(asked), name
        if "full" in modes:
            assert (options.max_steps, options.batch_size) == (setting.steps, setting.batch_size), name


def test_the_heart_by_hand_has_the_numbers_of_the_study_file(acdc: dict[str, Any]) -> None:
    from medssl.study.file import load_study

    study, setting = load_study(files=[str(ROOT / "configs" / "studies" / "acdc.yaml")]), acdc["SETTING"]
    task = study.finetune["protocol"]
    assert (task.max_steps, task.batch_size, task.weight_decay) == (setting.steps, setting.batch_size, setting.weight_decay)
    assert (task.size, task.options["overlap"]) == (list(setting.size)[:1], setting.overlap)
    assert [*study.prepare.percentiles, *study.prepare.spacing_mm[:2]] == [*setting.percentiles, *setting.spacing[:2]]


def drawn_classes(folder: Path, count: int) -> Path:
    """Pictures of two classes, whose left or right half is brighter, `count` of each in each part; the path of their table."""
    from PIL import Image

    random, rows = np.random.default_rng(0), ["file\tlabel\tsubject\tsplit"]
    for part in ("train", "val", "test"):
        for patient in range(count):
            for label in ("left", "right"):
                pixels = random.integers(0, 90, (12, 16))
                pixels[:, :8] += 90 * (label == "left")
                pixels[:, 8:] += 90 * (label == "right")
                name = f"{part}_{patient}_{label}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
                rows.append(f"{name}\t{label}\t{part}{patient}{label}\t{part}")
    table = folder / "parts.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


def test_a_classification_by_hand_learns_drawn_pictures_end_to_end_and_by_frozen_features(tmp_path: Path) -> None:
    script, table = ROOT / "benchmarks" / "baselines" / "classification.py", drawn_classes(tmp_path, 12)
    command = [warm.python(), str(script), "tasks.covid", "--seeds", "1", "--shares", "1", "--steps", "24"]
    done = subprocess.run(
        [*command, "--images", str(tmp_path), "--parts", str(table)], capture_output=True, text=True, check=True
    )
    word, _, figures = done.stdout.splitlines()[-1].partition(" ")
    found = json.loads(figures)
    assert word == "RESULT" and (found["setting"], found["seeds"], found["steps"]) == ("tasks.covid", 1, 24)
    assert (found["num_test"], found["test_units"]) == (24, 24)
    for mode in ("linear 1", "full 1"):
        assert found["auc_mean_sd"][mode][0] > 0.9, "an untrained answer has 0.5"


def test_labelled_patients_keep_their_pictures_and_the_classes_their_shares(classification: dict[str, Any]) -> None:
    import torch

    units = np.repeat(np.arange(40), 3)
    train = classification["Part"](torch.zeros(120, 1, 2, 2), np.repeat(np.arange(40) % 4 == 0, 3).astype(int), units)
    kept = classification["labelled"](train, 0.3, 0)
    assert sorted(np.unique(kept.units, return_counts=True)[1]) == [3] * 12, "12 patients, all pictures of each"
    assert kept.classes.sum() == 3 * 3 and len(kept.images) == 36
    other = classification["labelled"](train, 0.3, 1)
    assert set(other.units) != set(kept.units)


def test_a_few_labelled_images_are_as_many_of_each_class_and_scores_are_of_each_pairing_too(
    classification: dict[str, Any],
) -> None:
    import torch

    classes = np.repeat([0, 1, 2], [50, 8, 20])
    train = classification["Part"](torch.arange(78.0).view(78, 1, 1, 1), classes, np.arange(78))
    kept = classification["labelled"](train, 5, 0)
    assert np.bincount(kept.classes).tolist() == [5, 5, 5] and kept.images.flatten().tolist() == kept.units.tolist()
    assert set(classification["labelled"](train, 5, 1).units) != set(kept.units)
    assert [classification["in_words"](amount) for amount in (1, 1.0)] == ["1 of each class", "1"]

    pairing = np.array(["usual", "other"] * 10)
    test = classification["Part"](torch.zeros(20, 1, 1, 1), np.arange(20) // 10, np.arange(20), pairing)
    right = np.where(pairing == "usual", test.classes, 1 - test.classes)  # right on the usual vendor, wrong on the other
    found = classification["scores_of_all"](np.eye(2)[right] * 0.8 + 0.1, test)
    assert (found["auc"], found["auc_usual"], found["auc_other"]) == (0.5, 1.0, 0.0)
    assert (found["accuracy"], found["accuracy_usual"], found["accuracy_other"]) == (0.5, 1.0, 0.0)


def test_neighbours_and_regression_find_three_clouds(classification: dict[str, Any]) -> None:
    classes = np.arange(90) % 3
    clouds = np.random.default_rng(0).normal(size=(90, 5)) + 8 * np.eye(5)[classes]
    known, val, asked = (slice(start, start + 30) for start in (0, 30, 60))
    for answers in (
        classification["nearest"](clouds[known], classes[known], clouds[asked], 3),
        classification["linear"]((clouds[known], classes[known]), (clouds[val], classes[val]), clouds[asked], 3),
    ):
        assert answers.shape == (30, 3) and np.allclose(answers.sum(1), 1)
        assert (answers.argmax(1) == classes[asked]).all()


def test_a_classification_by_hand_scores_as_scipy_counts_pairs(classification: dict[str, Any]) -> None:
    from scipy.stats import mannwhitneyu

    random = np.random.default_rng(0)
    classes, answers = np.arange(30) % 3, random.dirichlet(np.ones(3), 30)
    pairs = [mannwhitneyu(answers[classes == k, k], answers[classes != k, k]).statistic / (10 * 20) for k in range(3)]
    found = classification["scores"](answers, classes)
    assert found == {
        "auc": pytest.approx(np.mean(pairs), abs=1e-4),
        "accuracy": round(float((answers.argmax(1) == classes).mean()), 4),
    }


def test_a_segmentation_by_hand_learns_drawn_hearts_as_volumes(hearts: list[str]) -> None:
    script, setting = ROOT / "benchmarks" / "baselines" / "segmentation.py", "joint.heart_volume"
    command = [warm.python(), str(script), setting, "--shares", "1", "--seeds", "1", "--steps", "16", *hearts]
    command += ["--labelled", "patient000", "patient002"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    word, _, figures = done.stdout.splitlines()[-1].partition(" ")
    found = json.loads(figures)
    assert word == "RESULT" and (found["setting"], found["seeds"], found["steps"]) == (setting, 1, 16)
    assert (found["test_units"], found["num_test"]) == (2, 4)
    mean, spread = found["dice_mean_sd"]["1"]
    assert mean == pytest.approx(np.mean(found["dice_by_class"]["1"]), abs=2e-4) and spread is None
    assert 0.05 < mean <= 1, "an untrained answer has 0.02"


def test_a_segmentation_by_hand_learns_drawn_hearts_as_slices(segmentation: dict[str, Any], hearts: list[str]) -> None:
    patients = segmentation["hearts"](Path(hearts[1]), Path(hearts[3]))
    train, test = ([volume for patient in patients[part] for volume in patient] for part in ("train", "test"))
    setting = dataclasses.replace(segmentation["SETTINGS"]["tasks.heart"], size=(32, 32), steps=40)
    found = segmentation["dice"](segmentation["fitted"](train, setting, 0), test, setting)
    assert found.shape == (3,) and found.mean() > 0.1


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_patches_by_hand_lie_where_the_studies_patches_do(
    segmentation: dict[str, Any], hearts: list[str], batch_size: int
) -> None:
    """The same shares of classes under the middle of an unchanged patch, and the same mean place."""
    from finetuning import volume
    from monai.utils import set_determinism

    from medssl.finetune.patches import Patches
    from medssl.finetune.scans import Scan, places_of

    setting = dataclasses.replace(segmentation["SETTINGS"]["tasks.heart"], size=(8, 8), batch_size=batch_size)
    (files, *_), *_ = segmentation["hearts"](Path(hearts[1]), Path(hearts[3]))["train"]
    steps = segmentation["patches"](setting).transforms
    place = next(n for n, step in enumerate(steps) if type(step).__name__ == "RandPatchd")
    set_determinism(0)
    data = files
    for step in steps[:place]:
        data = step(data)
    crop, margin = steps[place], segmentation["margins"]((8, 8))[0]
    whole = data["mask"][0].numpy().astype(np.uint8)
    inner = whole[margin:-margin, margin:-margin]
    data["image"] = data["mask"] * 0 + np.arange(len(whole))[None, :, None, None]
    crop.set_random_state(seed=0)
    by_hand = [crop(data) for _ in range(800)]
    assert by_hand[0]["mask"].shape == (1, 8 + 2 * margin, 8 + 2 * margin, 1)
    starts = [float(each["image"][0, 0, 0, 0]) for each in by_hand]
    middle = [int(each["mask"][0, margin + 4, margin + 4, 0]) for each in by_hand]

    scan = Scan(volume("a", inner.shape, 0.0, 1.0), inner.astype(np.float32), inner, np.eye(4))
    arguments: dict[str, Any] = {"count": batch_size, "foreground_frac": 0.5, "seed": 0}
    own = Patches([scan], [places_of(scan, [1, 2, 3], 0)], [0, 1, 2, 3], (8, 8, 1), (0, 0, 0), **arguments)
    drawn = [patch.start for step in range(800 // batch_size) for patch in own.drawn(step)]
    expected = np.bincount([inner[i + 4, j + 4, k] for i, j, k in drawn], minlength=4) / len(drawn)
    assert np.bincount(middle, minlength=4) / len(middle) == pytest.approx(expected, abs=0.06)
    assert np.mean(starts) == pytest.approx(np.mean([start[0] for start in drawn]), abs=1.0)


def test_a_network_by_hand_computes_what_the_studys_does_with_its_weights(
    segmentation: dict[str, Any], acdc: dict[str, Any]
) -> None:
    """Also maps of sides that are not powers of two; batch norms with their running statistics, and with the batch's."""
    import torch

    from medssl.finetune.segmenter import Segmenter
    from medssl.nn.backbone import build

    resnet, unet = {"width": 0.5}, {"features": [8, 16, 32, 64, 64, 8], "norm": "batch"}
    for own, other, sides in (
        (Segmenter(build("resnet18", resnet, 2, 1), 4), segmentation["OfSlices"](4), (64, 64)),
        (Segmenter(build("resnet18", resnet, 2, 1), 4), segmentation["OfSlices"](4), (40, 56)),
        (Segmenter(build("unet", unet, 2, 1), 4), acdc["network_of"](acdc["SETTING"]), (48, 48)),
    ):
        weights = own.state_dict().values()
        other.load_state_dict(dict(zip(other.state_dict(), weights, strict=True)))
        images = torch.rand(2, 1, *sides)
        with torch.no_grad():
            assert [m.shape for m in other.encoder(images)] == [m.shape for m in own.backbone(images)]
            for training in (False, True):
                expected = own.train(training)(images)
                torch.testing.assert_close(other.train(training)(images), expected, atol=1e-4, rtol=0)


def test_batch_norms_by_hand_are_calibrated_as_the_studys(segmentation: dict[str, Any]) -> None:
    import copy

    import torch

    from medssl.finetune.training import calibrate

    torch.manual_seed(0)
    network = segmentation["OfVolumes"](3)
    batches = [torch.rand(1, 1, 32, 32, 4) + shift for shift in range(3)]
    own = copy.deepcopy(network)
    own.backbone = own.encoder
    calibrate(own, iter(batches))
    found = segmentation["calibrated"](network, batches)
    for one, other in zip(found.encoder.buffers(), own.encoder.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_images_by_hand_are_averaged_nearly_as_the_studys_are(
    segmentation: dict[str, Any], acdc: dict[str, Any], tmp_path: Path
) -> None:
    """White noise, which point samples would not average: they vary by several times as much."""
    import nibabel

    from medssl.volume.spacing import resample_to_spacing

    noise = np.random.default_rng(0).normal(size=(90, 90, 3)).astype(np.float32)
    own, _ = resample_to_spacing(noise, np.eye(4), (3, 3, 1))
    # the study's voxels lie at 1, 4, 7 …, those by hand start at the first voxel of a file
    for name, values in (("image", noise[1:, 1:]), ("mask", np.zeros((89, 89, 3), np.uint8))):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii")
    files = {name: str(tmp_path / f"{name}.nii") for name in ("image", "mask")}
    *unwindowed, _ = segmentation["reading"](acdc["SETTING"], ("image", "mask")).transforms
    data = files
    for step in unwindowed:
        data = step(data)
    found, expected = (values[2:27, 2:27].ravel() for values in (np.asarray(data["image"][0]), own))
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert found.std() == pytest.approx(expected.std(), rel=0.1)


def test_parts_of_the_hippocampus_by_hand_are_those_of_the_split_file(segmentation: dict[str, Any], tmp_path: Path) -> None:
    from medssl.core.listing import load_key, minted_patient

    (tmp_path / "images").mkdir()
    listed = runpy.run_path(str(ROOT / "workflow" / "write_study_splits.py"))
    names = [f"hippocampus_{number:03d}" for number in range(1, 262, 2)]
    for name in names:
        (tmp_path / "images" / f"{name}.nii.gz").touch()
    key = load_key(str(ROOT / "demo" / "id_key"))
    given = [(patient, part) for patient, part, _ in listed["hippocampus"](names, key)]
    found = segmentation["brains"](tmp_path)
    own = [(Path(volume["image"]).name.partition(".")[0], part) for part in found for (volume,) in found[part]]
    assert [(minted_patient(key, name), part) for name, part in own] == given


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


def test_the_table_of_oasis_alone_is_read_and_scored() -> None:
    names = runpy.run_path(str(ROOT / "benchmarks" / "baselines" / "oasis_table.py"))
    assert [names["number"](cell) for cell in ("F", "M", "1402")] == [0, 1, 1402] and np.isnan(names["number"](""))
    impaired = np.arange(60) % 2 == 1
    table = np.stack([impaired + 0.1 * np.arange(60) % 3, np.full(60, np.nan)], 1)
    table[::7, 1] = 3.0
    assert names["auc"](table[:, :1] * [[1.0]], impaired, 0) > 0.5
    assert names["auc"](impaired[:, None].astype(float), impaired, 0) == 1.0
    labels = runpy.run_path(str(ROOT / "workflow" / "write_oasis_labels.py"))["written"]
    rows = [{"id": "a", "cdr": "0"}, {"id": "b", "cdr": "0.5"}, {"id": "c", "cdr": ""}]
    assert labels(rows) == "id,label\na,healthy\nb,impaired\n"
