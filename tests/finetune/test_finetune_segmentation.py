"""Segmentation: patches, decoder, the way back to the source grid, the stage on small phantoms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from finetuning import SMALL, scratch_model, write_scans
from prepared import receipt
from scipy import ndimage

from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.finetune.nnunet import ResEncUNet
from medssl.finetune.predicting import Model
from medssl.finetune.restoring import exact_turn, largest_components, restored_classes, restored_mask
from medssl.finetune.run import write_nifti
from medssl.finetune.scans import dice, mean_dice
from medssl.finetune.segmenter import Segmenter
from medssl.finetune.task import Mask
from medssl.finetune.tasks.segmentation import Segmentation
from medssl.nn.backbone import build
from medssl.volume.geometry import axis_codes, closest_canonical, reoriented_affine
from medssl.volume.spacing import resample_to_spacing

NARROW = {"stem": "small", "width": 0.125}
VALUES = {"1": "1", "3": "3"}


def oblique(seed: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A random rotation of up to 180° with anisotropic voxels, and a shape."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * generator.uniform(0.4, 6.0, 3)
    affine[:3, 3] = generator.uniform(-200, 200, 3)
    shape = generator.integers(5, 19, 3)
    return affine, (int(shape[0]), int(shape[1]), int(shape[2]))


@pytest.mark.parametrize("seed", range(20))
def test_a_mask_through_the_pipelines_geometry_is_itself(seed: int, tmp_path: Path) -> None:
    affine, shape = oblique(seed)
    mask = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    turn = closest_canonical(affine)
    stored, stored_affine = turn.apply(mask), reoriented_affine(affine, turn, shape)
    assert axis_codes(stored_affine) == "RAS"
    assert np.array_equal(restored_mask(stored, stored_affine, affine, shape), mask)
    one_hot = np.stack([stored == value for value in range(4)]).astype(np.float32)
    back = restored_classes(torch.from_numpy(one_hot), stored_affine, affine, shape)
    write_nifti(tmp_path / "mask.nii.gz", Mask("a", back, affine))
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(image.dataobj), mask)
    assert np.allclose(image.affine, affine, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_after_resampling_the_mask_lies_where_it_was(seed: int) -> None:
    """A ball on an oblique source grid, segmented on an isotropic prepared grid, comes back with its place and volume."""
    affine, _ = oblique(seed)
    affine[:3, :3] *= 2.0 / np.linalg.norm(affine[:3, :3], axis=0) * np.array([1.0, 1.2, 0.8])
    shape = (30, 28, 34)

    def ball(grid: np.ndarray, extent: tuple[int, ...]) -> np.ndarray:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in extent], indexing="ij"), axis=-1)
        centre = (affine @ np.array([*(np.array(shape) / 2), 1.0]))[:3]
        return np.linalg.norm(index @ grid[:3, :3].T + grid[:3, 3] - centre, axis=-1) <= 16

    turn = closest_canonical(affine)
    prepared = reoriented_affine(affine, turn, shape)
    scale = 1.5 / np.linalg.norm(prepared[:3, :3], axis=0)
    extent = tuple(int(np.ceil(shape[axis] / factor)) for axis, factor in zip(turn.axes, scale, strict=True))
    prepared[:3, :3] *= scale
    assert exact_turn(prepared, extent, affine, shape) is None
    inside = ball(prepared, extent).astype(np.float32)
    back = restored_classes(torch.from_numpy(np.stack([1 - inside, inside])), prepared, affine, shape)
    assert dice(back, ball(affine, shape).astype(np.uint8), 1) > 0.93


@pytest.mark.parametrize("seed", range(10))
def test_a_mask_that_fills_the_image_fills_it_after_resampling(seed: int) -> None:
    """Coarser or finer, oblique or not, whole steps or not: no rim of background; what the image cuts off stays cut there."""
    affine, shape = oblique(seed)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0) * np.random.default_rng(seed).uniform(0.4, 3.0, 3)
    full = np.ones(shape, np.uint8)
    prepared, grid = resample_to_spacing(full, affine, spacing_mm.tolist(), order=0)
    assert restored_mask(prepared, grid, affine, shape).all()
    one_hot = np.stack([1.0 - prepared, prepared]).astype(np.float32)
    assert (restored_classes(torch.from_numpy(one_hot), grid, affine, shape) == 1).all()
    assert restored_mask(full, affine, grid, prepared.shape).all(), "a mask from a label folder, on the prepared grid"
    far = affine.copy()
    far[:3, 3] += affine[:3, 0] * (shape[0] + 2)
    assert not restored_mask(full, affine, far, shape).any(), "what lies beside the image has no mask"


def test_a_sheared_grid_is_written_without_a_qform_that_would_contradict_it(tmp_path: Path) -> None:
    affine = np.array([[1.0, 0, 0, 5], [0, 1, 0.5, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
    for name, grid, code in (("square", np.diag([1.0, 1, 2, 1]), 1), ("sheared", affine, 0)):
        write_nifti(tmp_path / f"{name}.nii.gz", Mask(name, np.ones((4, 4, 3), np.uint8), grid))
        image = nibabel.load(tmp_path / f"{name}.nii.gz")
        assert np.allclose(image.affine, grid) and int(image.header["qform_code"]) == code
        assert image.header.get_zooms() == pytest.approx(np.linalg.norm(grid[:3, :3], axis=0))


def test_the_largest_component_of_each_class_stays() -> None:
    mask = np.zeros((9, 9, 3), np.uint8)
    mask[:3, :3], mask[7:, 7:], mask[0, 8] = 1, 1, 2
    kept = largest_components(mask, 3)
    assert (kept == 1).sum() == 27 and (kept == 2).sum() == 3
    assert np.array_equal(largest_components(kept, 3), kept)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_the_output_has_the_size_of_the_input(rank: int, stem: str) -> None:
    network = Segmenter(build("resnet18", {"stem": stem, "width": 0.125}, rank, 1), 3)
    images = torch.rand(2, 1, *(33, 40, 36)[:rank])
    out = network(images)
    assert out.shape == (2, 3, *images.shape[2:])
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_nnunets_decoder_has_its_size_and_takes_its_encoder_alone() -> None:
    """102 million parameters are those that nnU-Net's authors state of ResEncL."""
    with torch.device("meta"):
        whole = ResEncUNet(build("resenc", {}, 3, 1), 3)
    assert round(sum(p.numel() for p in whole.parameters()) / 1e6) == 102
    network = ResEncUNet(build("resenc", {"features": [4, 8, 16], "blocks": [1, 1, 1]}, 2, 1), 3)
    out = network(torch.rand(2, 1, 16, 24))
    assert out.shape == (2, 3, 16, 24)
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    with pytest.raises(StudyError, match="multiples of 4"):
        network(torch.rand(2, 1, 18, 24))
    with pytest.raises(StudyError, match="for the backbone resenc"):
        Segmentation(decoder="nnunet").network(build("resnet18", NARROW, 2, 1), {"mask_values": [0, 1, 3]})


def test_nnunet_whole_is_fitted_and_written(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    settings = {"max_steps": 2, "fractions": [1.0], "options": {"decoder": "nnunet"}, "calibration_batches": 0}
    backbone = {"resenc": {"features": [4, 8, 16], "blocks": [1, 1, 1]}}
    out = finetune(spec_of(write_scans(tmp_path / "study"), **SMALL | settings | {"backbone": backbone}))
    assert isinstance(Model.open(scratch_model(out)).network, ResEncUNet)


def test_two_validation_patients_choose_no_step(
    tmp_path: Path, finetune: Any, spec_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores say that the first evaluation is the best; the last one is kept, with its score."""
    from medssl.finetune.tasks import segmentation

    scores = iter([0.9, 0.1] * 8)
    monkeypatch.setattr(segmentation, "mean_dice", lambda *_: next(scores))
    settings = SMALL | {"max_steps": 2, "evaluations": 2, "fractions": [1.0], "parallel": 1}
    fits = tables.read_tsv(finetune(spec_of(write_scans(tmp_path / "study"), **settings)) / "fits.tsv")
    assert fits["best_step"].tolist() == [2] and fits["val_score"].tolist() == [0.1]
    assert fits["selection"].tolist() == ["last step (1 of at least 10 validation units; val_score is mean Dice)"]


def test_dice_counts_absent_classes_apart() -> None:
    a, b = np.array([1, 1, 0, 2]), np.array([1, 0, 0, 2])
    assert dice(a, b, 1) == pytest.approx(2 / 3)
    assert np.isnan(dice(a, b, 5))
    assert mean_dice([a], [b], [1, 2, 5]) == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(mean_dice([], [], [1]))


def test_segmentation_learns_and_writes_masks_on_the_source_grid(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    source = write_scans(tmp_path / "study")
    out = finetune(spec_of(source, **SMALL | {"fractions": [1.0], "max_steps": 40, "lr": 3e-3}))
    rows = tables.read_parquet(out / "predictions.parquet")
    assert set(rows["case_id"]) == {"v-04", "v-05"} and set(rows["split"]) == {"test"}
    assert json.loads(rows["classes"][0]) == VALUES
    for row in rows.to_dict("records"):
        predicted, reference = (nibabel.load(out / row[name]) for name in ("prediction", "target"))
        given = read_json(tmp_path / f"study/1_ingest/hearts/volumes/{row['case_id']}/volume.json")
        assert predicted.shape == reference.shape == tuple(given["source_shape"])
        assert np.allclose(predicted.affine, given["source_affine"]) and np.allclose(reference.affine, given["source_affine"])
        a, b = np.asanyarray(predicted.dataobj), np.asanyarray(reference.dataobj)
        stored = np.load(tmp_path / f"study/1_ingest/hearts/volumes/{row['case_id']}/mask.npy")
        assert np.bincount(b.ravel()).tolist() == np.bincount(stored.ravel()).tolist()
        assert np.array_equal(b, stored[::-1].transpose(0, 2, 1)[:, :, ::-1])
        assert set(np.unique(a)) <= {0, 1, 3}
        assert dice(a, b, 1) > 0.7
    receipts = read_json(out / "receipt.json")["outputs"]
    assert all(name in receipts for name in [*rows["prediction"], *rows["target"]])


def test_same_seed_twice_and_after_a_kill_is_bit_equal(
    tmp_path: Path, finetune: Any, spec_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medssl.finetune import run as stage

    spec = spec_of(write_scans(tmp_path / "study"), **SMALL | {"max_steps": 2, "modes": ["full", "decoder"]})
    whole = shutil.copytree(finetune(spec), tmp_path / "whole")
    shutil.rmtree(spec.out)
    shutil.rmtree(tmp_path / "study" / "state")
    write, masks = stage.write_nifti, 0

    class Killed(BaseException):
        pass

    def dying(*arguments: Any) -> None:
        nonlocal masks
        masks += 1
        if masks == 4:
            raise Killed
        write(*arguments)

    monkeypatch.setattr(stage, "write_nifti", dying)
    with pytest.raises(Killed):
        finetune(spec)
    monkeypatch.undo()
    out = finetune(spec)
    assert read_json(out / "receipt.json")["restored_fits"] == 1
    files = sorted(
        p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.suffix in (".gz", ".parquet", ".safetensors")
    )
    assert len(files) > 10
    for name in files:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_slices_may_be_cut_along_any_axis(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    source = write_scans(tmp_path / "study", axis=0)
    out = finetune(spec_of(source, **SMALL | {"max_steps": 2, "fractions": [1.0], "options": {"largest_component": True}}))
    rows = tables.read_parquet(out / "predictions.parquet")
    shapes = {nibabel.load(out / row[name]).shape for row in rows.to_dict("records") for name in ("prediction", "target")}
    assert shapes == {(20, 12, 18)}


def test_volumes_in_3d_with_self_training_and_mixup(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    source = write_scans(tmp_path / "study")
    settings = {"size": [16, 16, 8], "batch_size": 2, "max_steps": 2, "mixup": 0.2, "options": {"self_training_rounds": 1}}
    fits = tables.read_tsv(finetune(spec_of(source, **SMALL | settings)) / "fits.tsv")
    assert fits["num_train"].tolist() == [2, 4]
    assert fits["num_train_units"].tolist() == [1, 2]
    assert fits["num_pseudo"].fillna(0).tolist() == [2, 0]


def test_empty_validation_masks_choose_nothing(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    source = write_scans(tmp_path / "study")
    for name in ("v-06", "v-07"):
        path = source / "arrays" / f"{name}-mask.npy"
        np.save(path, np.zeros_like(np.load(path)))
    receipt(source, "prepare")
    (fit,) = tables.read_tsv(finetune(spec_of(source, **SMALL | {"max_steps": 2, "fractions": [1.0]})) / "fits.tsv").to_dict(
        "records"
    )
    assert fit["selection"] == "last step (no validation case has a class)" and fit["num_val"] == 2
    assert np.isnan(fit["val_score"]) and fit["best_step"] == fit["steps"]


def test_a_source_without_masks_is_refused(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    with pytest.raises(StudyError, match="source 'hearts' has no masks"):
        finetune(spec_of(write_scans(tmp_path / "study", masks=False), **SMALL))


def test_components_are_those_of_scipy() -> None:
    mask = (np.random.default_rng(0).random((12, 12, 12)) > 0.7).astype(np.uint8)
    labels, _ = ndimage.label(mask)
    assert largest_components(mask, 2).sum() == np.bincount(labels.ravel())[1:].max()
