"""What label files say reaches the fits: classes of images and volumes, masks on prepared grids, subgroups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from finetuning import SMALL, write_scans
from prepared import receipt

from medssl.artefacts.labels import LabelCounts, with_given_labels
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.core.files import write_json
from medssl.core.job import Spec


def write_labels(root: Path, rows: list[dict[str, Any]], masks: dict[str, np.ndarray] | None = None) -> Path:
    """Ingest's folder of label files, as its label step leaves it."""
    folder = root / "1_ingest" / "given" / "labels"
    (folder / "masks").mkdir(parents=True)
    for volume_id, mask in (masks or {}).items():
        np.save(folder / "masks" / f"{volume_id}.npy", np.asfortranarray(mask))
    columns = {"volume_id": None, "index": None, "label": None, "mask": None}
    table = pd.DataFrame([columns | row for row in rows]).astype({"index": "Int32"})
    tables.write_parquet(folder / "labels.parquet", table)
    write_json(
        folder / "labels.json", {"items": len(rows), "labelled": len(rows), "strangers": 0, "names": {"1": "box", "3": "ball"}}
    )
    receipt(folder, "ingest")
    return folder / "labels.parquet"


def with_labels(spec: Spec, labels: Path) -> Spec:
    return replace(spec, inputs=spec.inputs | {"labels": str(labels)})


def test_an_image_has_its_own_label_else_its_volumes_else_the_one_it_came_with() -> None:
    samples = pd.DataFrame(
        {"volume_id": ["a", "a", "b", "b"], "index": np.arange(4, dtype=np.int32) % 2, "label": [None, "old", "old", None]}
    )
    given = pd.DataFrame(
        {"volume_id": ["a", "b"], "index": pd.array([0, None], dtype="Int32"), "label": ["new", None], "group_site": ["x", "y"]}
    )
    table = with_given_labels(samples, given)
    assert table["label"].tolist() == ["new", "old", "old", None]
    assert table["group_site"].tolist() == ["x", None, "y", "y"]
    given["label"] = ["new", "late"]
    assert with_given_labels(samples, given)["label"].tolist() == ["new", "old", "late", "late"]


def test_image_labels_of_a_table_are_fitted_and_grouped(tmp_path: Path, finetune: Any, spec_of: Any, write_source: Any) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 60, "val": 30, "test": 45}, labelled=False)
    spec = spec_of(source, modes=["linear"], fractions=[1.0], scratch=True)
    with pytest.raises(StudyError, match="a table of id and label"):
        finetune(spec)
    rows = [{"volume_id": "v-00", "index": n, "label": "abc"[n % 3], "group_sex": "FM"[n % 2]} for n in range(135)]
    out = finetune(with_labels(spec, write_labels(tmp_path / "study", rows)))
    found = tables.read_parquet(out / "predictions.parquet")
    assert [name for name in found if name.startswith("prob_")] == ["prob_a", "prob_b", "prob_c"]
    number = found["case_id"].str[-4:].astype(int)
    assert (found["target"] == number.map(lambda n: "abc"[n % 3])).all()
    assert (found["group_sex"] == number.map(lambda n: "FM"[n % 2])).all()


@pytest.mark.parametrize("rank", [2, 3])
def test_a_volume_label_is_that_of_its_slices_or_of_the_whole(
    tmp_path: Path, finetune: Any, spec_of: Any, write_encoder: Any, rank: int
) -> None:
    source = write_scans(tmp_path / "study", masks=False)
    encoder = write_encoder(tmp_path / "study" / "4_pretrain" / "ct" / "simclr-hash-seed0", spatial_dims=rank)
    rows = [{"volume_id": f"v-{n:02d}", "label": "ab"[n % 2]} for n in range(8)]
    options = {"aggregate": "volume"} if rank == 2 else {}
    settings = {"modes": ["linear"], "fractions": [1.0], "scratch": False, "backbone": None, "size": [16], "options": options}
    spec = with_labels(spec_of(source, encoder, **settings), write_labels(tmp_path / "study", rows))
    found = tables.read_parquet(finetune(spec) / "predictions.parquet")
    test = found[found["split"] == "test"]
    assert dict(zip(test["case_id"], test["target"], strict=True)) == {"v-04": "a", "v-05": "b"}


def test_masks_of_a_label_folder_are_brought_to_the_prepared_grid(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    """The image was prepared at half the resolution along k: the given masks lie on ingest's grid, and come back there."""
    source = write_scans(tmp_path / "study", masks=False)
    volumes = tables.read_tsv(source / "volumes.tsv", text=("affine", "shape", "spacing_mm"))
    masks = {}
    for n, name in enumerate(volumes["volume_id"]):
        place = tmp_path / "study" / "1_ingest" / "hearts" / "volumes" / name
        masks[name] = np.load(place / "mask.npy")
        (place / "mask.npy").unlink()
        image = np.load(source / "arrays" / f"{name}.npy")
        np.save(source / "arrays" / f"{name}.npy", np.asfortranarray(image[:, :, ::2]))
        affine = np.array(json.loads(volumes["affine"][n]))
        affine[:3, 2] *= 2
        volumes.loc[n, ["affine", "shape"]] = [json.dumps(affine.tolist()), json.dumps([20, 18, 6])]
    tables.write_tsv(source / "volumes.tsv", volumes)
    samples = tables.read_parquet(source / "samples.parquet")
    tables.write_parquet(source / "samples.parquet", samples[samples["index"] < 6])
    for folder in (source, tmp_path / "study" / "1_ingest" / "hearts"):
        (folder / "receipt.json").unlink()
        receipt(folder, "prepare")
    rows = [{"volume_id": name, "mask": f"masks/{name}.npy", "group_sex": "FM"[int(name[-1]) % 2]} for name in masks]
    spec = spec_of(source, **SMALL | {"max_steps": 40, "fractions": [1.0], "lr": 3e-3})
    out = finetune(with_labels(spec, write_labels(tmp_path / "study", rows, masks)))
    found = tables.read_parquet(out / "predictions.parquet")
    assert json.loads(found["classes"][0]) == {"1": "box", "3": "ball"}
    assert (found["group_sex"] == found["case_id"].str[-1].astype(int).map(lambda n: "FM"[n % 2])).all()
    for row in found.to_dict("records"):
        reference, predicted = (np.asanyarray(nibabel.load(out / row[n]).dataobj) for n in ("target", "prediction"))
        assert np.array_equal(reference, masks[row["case_id"]][::-1].transpose(0, 2, 1)[:, :, ::-1])
        both = (reference == 1).sum() + (predicted == 1).sum()
        assert 2 * ((reference == 1) & (predicted == 1)).sum() / both > 0.6


def test_what_the_labels_lack_is_reported_on_the_screen(
    tmp_path: Path, image_source: Path, finetune: Any, spec_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"volume_id": "v-00", "index": n, "label": "abc"[n % 3]} for n in range(135)]
    labels = write_labels(tmp_path / "study", rows)
    counts = LabelCounts(items=140, labelled=135, strangers=3, names={})
    counts.write(labels.parent / LabelCounts.FILE)
    (labels.parent / "receipt.json").unlink()
    receipt(labels.parent, "ingest")
    finetune(with_labels(spec_of(image_source, modes=["linear"], fractions=[1.0], scratch=True), labels))
    shown = capsys.readouterr().err
    assert "finetune organs: labels of " in shown and "5 of 140 volumes and images have no label" in shown
    assert "3 label files or entries were refused or are for none of the images" in shown
