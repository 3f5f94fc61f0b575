"""A fine-tuned model applied to a prepared source says what the stage said, and refuses what it did not learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetuning import SMALL, scratch_model, write_scans

from medssl.core import tables
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import read_json
from medssl.finetune.predicting import Model
from medssl.finetune.run import predict
from medssl.finetune.tasks.classification import called


def test_a_classifier_gives_the_probabilities_of_the_stage(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any, tmp_path: Path
) -> None:
    out = finetune(spec_of(image_source, encoder, modes=["linear", "full"], fractions=[1.0], seeds=[0]))
    stage = tables.read_parquet(out / "predictions.parquet")
    for model in sorted((out / "models").iterdir()):
        written = predict(model, image_source / "samples.parquet", image_source / "volumes.tsv", tmp_path / model.name)
        table = tables.read_tsv(written[0], text=("predicted",)).set_index("case_id")
        assert len(table) == 135
        of_fit = stage[stage["fit_id"] == read_json(model / "contract.json")["fit"]["fit_id"]].set_index("case_id")
        names = [name for name in of_fit if name.startswith("prob_")]
        assert np.allclose(table.loc[of_fit.index, names].to_numpy(float), of_fit[names].to_numpy(), atol=1e-5)
        assert set(table["predicted"]) <= {"bladder", "femur", "liver"}


def test_a_segmentation_gives_the_masks_of_the_stage(tmp_path: Path, finetune: Any, spec_of: Any) -> None:
    source = write_scans(tmp_path / "study")
    out = finetune(spec_of(source, **SMALL | {"max_steps": 3, "fractions": [1.0]}))
    ingested = tmp_path / "study" / "1_ingest" / "hearts" / "volumes"
    model = scratch_model(out)
    written = predict(model, source / "samples.parquet", source / "volumes.tsv", tmp_path / "new", ingested=ingested)
    assert len(written) == 8 + 1
    fit = read_json(model / "contract.json")["fit"]["fit_id"]
    for name in ("v-04", "v-05"):
        assert (tmp_path / "new" / "masks" / f"{name}.nii.gz").read_bytes() == (
            out / "masks" / fit / f"{name}.nii.gz"
        ).read_bytes()
    volumes = tables.read_tsv(written[-1], text=("class",))
    assert (volumes["volume_ml"] - volumes["voxels"] * 1.5 * 1.25 * 4 / 1000).abs().max() < 1e-6


def test_a_case_is_called_by_its_likeliest_class_or_all_from_one_half_on() -> None:
    probabilities = np.array([[0.2, 0.7, 0.6], [0.5, 0.1, 0.4], [0.3, 0.4, 0.3]])
    assert called(probabilities, ["a", "b", "c"], multilabel=False) == ["b", "a", "b"]
    assert called(probabilities, ["a", "b", "c"], multilabel=True) == ["b|c", "a", ""]


def test_other_windows_and_folders_without_a_model_are_refused(
    image_source: Path, finetune: Any, spec_of: Any, tmp_path: Path, encoder: Path
) -> None:
    out = finetune(spec_of(image_source, modes=["linear"], fractions=[1.0], seeds=[0]))
    model, inputs = scratch_model(out), (image_source / "samples.parquet", image_source / "volumes.tsv")
    with pytest.raises(StudyError, match=r"holds no contract\.json"):
        predict(tmp_path, *inputs, tmp_path / "new")
    with pytest.raises(StudyError, match="an encoder alone predicts nothing"):
        predict(encoder, *inputs, tmp_path / "new")
    contract = read_json(model / "contract.json")
    contract["window"] = {"low": [0.0], "high": [400.0], "differs_by_volume": False, "rules": ["hu"]}
    (model / "contract.json").write_text(json.dumps(contract))
    said = r"^Window \[0\.0\] to \[255\.0\] .*where the model was trained on \[0\.0\] to \[400\.0\] HU.*--force"
    with pytest.raises(StudyError, match=said):
        predict(model, *inputs, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_as_it_was_made_is_not_applied(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any
) -> None:
    """One byte of its weights was written over, in a copy that an editor made."""
    out = finetune(spec_of(image_source, encoder, modes=["linear"], fractions=[1.0]))
    weights = scratch_model(out) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(CorruptArtefactError, match="is not the file that stage 'finetune' wrote"):
        Model.open(weights.parent)
