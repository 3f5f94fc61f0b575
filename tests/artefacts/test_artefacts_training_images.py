"""A contract holds the rule of the windows and what new images must be like, and no number of one volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prepared import made_volume

from medssl.artefacts.training_images import SPACING_FACTOR, TrainingImages, Window, refuse_or_warn, rule_of
from medssl.artefacts.volumes import Volume, read_volumes, write_volumes
from medssl.core.errors import StudyError

CT = made_volume("v-ct", Path("a"), (4, 4, 4), spacing_mm=(0.7, 0.7, 5.0))
MR = replace(CT, volume_id="v-mr", modality="MR", low=(9.0,), high=(123.0,), percentiles=(0.5, 99.5), spacing_mm=(1.0, 1.0, 1.0))
MR2 = replace(MR, volume_id="v-mr2", low=(12.0,), high=(2250.0,))
PNG = replace(CT, volume_id="v-png", kind="images", modality="OT", low=(0.0,), high=(255.0,), spacing_mm=None)
PNG16 = replace(PNG, volume_id="v-png16", high=(65535.0,))


@pytest.mark.parametrize(
    ("volumes", "low", "high", "differs", "rules", "percentiles"),
    [
        ([CT], [-1000.0], [1000.0], False, ["hu"], None),
        ([MR], None, None, True, ["percentiles"], [0.5, 99.5]),
        ([MR, MR2], None, None, True, ["percentiles"], [0.5, 99.5]),
        ([CT, MR, MR2], [-1000.0], [1000.0], True, ["hu", "percentiles"], [0.5, 99.5]),
        ([MR, replace(MR2, percentiles=(1.0, 99.0))], None, None, True, ["percentiles"], None),
        ([CT, replace(CT, high=(400.0,))], None, None, True, ["hu"], None),
        ([PNG], [0.0], [255.0], False, ["range"], None),
        ([PNG, PNG16], None, None, True, ["range"], None),
        ([CT, PNG], [-1000.0], [1000.0], True, ["hu", "range"], None),
    ],
)
def test_the_window_of_a_contract_is_the_rule(
    volumes: list[Volume], low: object, high: object, differs: bool, rules: list[str], percentiles: object
) -> None:
    found = Window.of(volumes)
    assert (found.low, found.high, found.differs_by_volume) == (low, high, differs)
    assert (found.rules, found.percentiles) == (rules, percentiles)
    assert Window.check(found.plain()) == found


@pytest.mark.parametrize("volume", [CT, MR, MR2, PNG, PNG16])
def test_each_volume_is_seen_by_its_rule(volume: Volume) -> None:
    window = Window.of([CT, MR, PNG])
    fixed = ([-1000.0], [1000.0]) if rule_of(volume) == "hu" else None
    assert window.of_volume(volume) == fixed
    assert window.difference(volume) is None


@pytest.mark.parametrize(
    ("images", "given", "words"),
    [
        ([MR], CT, ["[-1000.0] to [1000.0]", "0.5 to 99.5 percentiles"]),
        ([CT], MR, ["0.5 to 99.5 percentiles", "[-1000.0] to [1000.0] HU"]),
        ([CT], replace(CT, high=(400.0,)), ["[-1000.0] to [400.0]", "[-1000.0] to [1000.0] HU"]),
        ([MR], replace(MR2, percentiles=(1.0, 99.0)), ["1.0 to 99.0 percentiles", "0.5 to 99.5"]),
        ([PNG], CT, ["[-1000.0] to [1000.0]", "the whole range of a picture's type"]),
    ],
)
def test_another_rule_is_a_difference(images: list[Volume], given: Volume, words: list[str]) -> None:
    found = Window.of(images).difference(given)
    assert found is not None and found.what == "window"
    assert words[0] in found.found and words[1] in found.expected


def test_the_numbers_of_one_volume_in_an_old_contract_are_not_used() -> None:
    old = Window.check({"low": [9.0], "high": [123.0], "differs_by_volume": True})
    assert old.fixed is None and old.of_volume(CT) is None and old.difference(MR2) is None
    same = Window.check({"low": [-1000.0], "high": [1000.0], "differs_by_volume": False})
    assert same.of_volume(CT) == ([-1000.0], [1000.0])
    assert same.difference(CT) is None and same.difference(MR) is not None


def test_the_table_of_volumes_keeps_the_percentiles_and_has_no_column_without_any(tmp_path: Path) -> None:
    for name, volumes in (("ct", [CT]), ("both", [CT, MR])):
        (tmp_path / name).mkdir()
        own = [replace(v, array=tmp_path / name / "a.npy", source=name) for v in volumes]
        write_volumes(tmp_path / name / "volumes.tsv", own)
        assert read_volumes(tmp_path / name / "volumes.tsv") == own
        header = (tmp_path / name / "volumes.tsv").read_text().splitlines()[0]
        assert ("window_percentiles" in header) == (name == "both")


# Comparison of new images with the training images


TRAINING_IMAGES = TrainingImages.of([CT, replace(CT, volume_id="v-2", spacing_mm=(0.9, 0.9, 3.0))], {"v-ct": 2, "v-2": 2})


def differing(volume: Volume, axis: int = 2, *, depth: bool = False, images: TrainingImages = TRAINING_IMAGES) -> list[str]:
    return [one.what.split()[0] for one in images.differences([volume], {volume.volume_id: axis}, planes=not depth, depth=depth)]


def test_images_like_the_training_images_are_accepted() -> None:
    assert TRAINING_IMAGES.plain() == {
        **{"modalities": {"CT": 2}, "slice_axes": [2], "spacing_low_mm": [0.7, 0.7, 3.0], "spacing_high_mm": [0.9, 0.9, 5.0]},
    }
    for depth in (False, True):
        assert differing(CT, depth=depth) == []


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_along_another_axis_are_a_difference_for_networks_of_slices(axis: int) -> None:
    assert differing(CT, axis) == ["slice"]
    assert differing(CT, axis, depth=True) == [], "a network of volumes sees all axes"


@pytest.mark.parametrize("modality", ["MR", "PT", "OT"])
def test_another_or_an_unknown_modality_is_a_difference(modality: str) -> None:
    assert differing(replace(CT, modality=modality)) == ["modality"]
    both = TrainingImages.of([CT, MR], {"v-ct": 2, "v-mr": 2})
    assert differing(replace(CT, modality=modality), images=both) == ([] if modality == "MR" else ["modality"])


def test_where_a_modality_was_not_known_it_is_not_compared() -> None:
    unknown = TrainingImages.of([CT, replace(CT, modality="OT")], {"v-ct": 2})
    assert differing(replace(CT, modality="MR"), images=unknown) == [] and unknown.kept == []


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("inside", [True, False])
def test_pixels_of_up_to_twice_or_half_the_area_are_taken(side: int, inside: bool) -> None:
    end = 0.9 if side > 0 else 0.7
    size = end * (SPACING_FACTOR * (0.999 if inside else 1.01)) ** side
    assert differing(replace(CT, spacing_mm=(size, size, 5.0))) == ([] if inside else ["spacing"])


def test_the_distance_of_slices_matters_only_where_it_is_seen() -> None:
    thin = replace(CT, spacing_mm=(0.8, 0.8, 1.0))
    assert differing(thin) == [] and differing(thin, depth=True) == ["spacing"]


def test_pictures_have_no_spacing_and_no_axis() -> None:
    pictures = TrainingImages.of([PNG], {"v-png": 2})
    assert pictures.slice_axes == [] and pictures.spacing_low_mm is None
    assert differing(replace(PNG, modality="CT")) == []
    (one,) = pictures.differences([CT], {"v-ct": 0}, planes=True, depth=False)
    assert (one.what, one.found, one.expected) == ("kind of image", "'volume of CT'", "pictures alone")


def test_a_refusal_says_what_was_found_what_is_expected_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    volumes = [replace(MR, volume_id=f"v-{n}", spacing_mm=(3.0, 3.0, 5.0)) for n in range(3)]
    found = TRAINING_IMAGES.differences(volumes, dict.fromkeys(("v-0", "v-1", "v-2"), 2), planes=True, depth=False)
    with pytest.raises(StudyError) as refusal:
        refuse_or_warn(found, "the model", force=False)
    said = str(refusal.value)
    assert said.startswith(
        "Modality MR of v-0 and 2 more, where the model was trained on CT; spacing along i, j in mm 3 × 3 of v-0"
    )
    assert "0.7–0.9 × 0.7–0.9" in said and "--force" in said
    refuse_or_warn(found, "the model", force=True)
    assert "medssl: warning: modality MR of v-0" in capsys.readouterr().err
