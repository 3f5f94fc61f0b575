"""What every downstream task promises, whichever file of the folder it is; a new file is picked up by being there."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from finetuning import (
    NARROW,
    NARROW_VIT,
    SIDE,
    finetune,
    finetune_spec,
    write_discs,
    write_encoder,
    write_image_source,
    write_scans,
)  # fmt: skip

from medssl.artefacts.fits import FITS, ModelContract
from medssl.artefacts.predictions import PREDICTIONS
from medssl.core import plugins, tables
from medssl.core.files import read_json
from medssl.core.job import Spec, job
from medssl.core.plugins import Plugin
from medssl.finetune.fitting import Work
from medssl.finetune.options import TaskOptions
from medssl.finetune.predicting import Model
from medssl.finetune.run import predict
from medssl.finetune.starting import Starting
from medssl.finetune.task import Task

NUMBERS = {"values": "value", "risks": "risk"}
"""By what a task predicts, the column of its number."""


def is_shared(task: Plugin, mode: str) -> bool:
    """Whether a mode trains what the same mode of a classification does, but for the loss: it is run with --full."""
    return task.constant("PREDICTS") in NUMBERS and mode not in task.constant("DEFAULT_MODES")


TASKS = list(plugins.all_of("task"))
EVERY_MODE = [
    pytest.param(task, mode, id=f"{task.name}-{mode}", marks=[pytest.mark.full] if is_shared(task, mode) else [])
    for task in TASKS
    for mode in task.constant("MODES")
]

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
every_mode = pytest.mark.parametrize(("task", "mode"), EVERY_MODE)


def source_for(task: Plugin, root: Path) -> Path:
    """A source with labels of the kind that a task predicts."""
    predicts = task.constant("PREDICTS")
    if predicts == "masks":
        return write_scans(root)
    if predicts in NUMBERS:
        return write_discs(root, {"train": 30, "val": 15, "test": 18}, followed=predicts == "risks")
    return write_image_source(root / "2_prepare" / "pictures", {"train": 30, "val": 15, "test": 18})


def spec_for(task: Plugin, root: Path, **settings: Any) -> Spec:
    """A job of a few steps from one encoder and from scratch; a transformer where a mode is not for every backbone."""
    needs = set(task.constant("MODE_NEEDS", default={})) & set(settings.get("modes", ()))
    backbone: tuple[str, dict[str, Any]] = ("vit", NARROW_VIT) if needs else ("resnet18", NARROW)
    encoder = write_encoder(root / "4_pretrain" / "ct" / "one-all-seed0", backbone=backbone)
    small: dict[str, Any] = {"backbone": dict([backbone])}
    small |= {"task": task.name, "fractions": [1.0], "max_steps": 2, "size": [SIDE], "batch_size": 4, "calibration_batches": 1}
    return finetune_spec(source_for(task, root), encoder, **small | settings)


@every_task
def test_a_task_says_what_others_must_know(task: Plugin) -> None:
    assert set(task.constant("DEFAULT_MODES")) <= set(task.constant("MODES"))
    assert task.constant("PREDICTS") in ("classes", "masks", *NUMBERS)
    assert task.constant("TITLE").strip() and task.constant("TABLE").endswith(".tsv")
    assert isinstance(task.constant("CONTINUES", default=[]), list)
    beside = task.constant("TRANSDUCTIVE", default={})
    assert {*beside, *beside.values()} <= set(task.constant("MODES")) and not set(beside) & set(beside.values())


@every_task
def test_every_option_has_a_description(task: Plugin) -> None:
    for name, option in task.options.model_fields.items():
        words = (option.description or "").split()
        assert len(words) >= 4 and words[-1].endswith("."), f"{task.path.name}: describe {name} in the section Options"


@every_task
def test_a_task_has_the_one_signature(task: Plugin) -> None:
    """What the protocol asks for, argument by argument."""
    kind = task.load()
    for name, asked in inspect.getmembers(Task, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(inspect.signature(asked).parameters), name


@every_mode
def test_a_fit_is_a_row_of_each_table_and_equal_seeds_are_equal_bits(task: Plugin, mode: str, tmp_path: Path) -> None:
    spec = spec_for(task, tmp_path / "study", modes=[mode], seeds=[0, 1])
    out = finetune(spec)
    fits, rows = FITS.read(out / FITS.file), PREDICTIONS.read(out / PREDICTIONS.file)
    assert (fits["val_score"].notna() == fits["selection"].str.contains("^validation |val_score is ")).all()
    modes = [mode, *filter(None, [task.constant("TRANSDUCTIVE", default={}).get(mode)])]
    assert len(fits) == 2 * 2 * len(modes) and set(fits["fit_id"]) == set(rows["fit_id"])
    for _, of_fit in rows.groupby("fit_id"):
        assert of_fit["case_id"].is_unique and "test" in set(of_fit["split"]) and "train" not in set(of_fit["split"])
    assert rows.groupby("fit_id")["case_id"].agg(set).map(lambda cases: cases == set(rows["case_id"])).all()
    assert ("prediction" in rows) == (task.constant("PREDICTS") == "masks")
    first = shutil.copytree(out, tmp_path / "first")
    shutil.rmtree(out)
    shutil.rmtree(tmp_path / "study" / "state")
    finetune(spec)
    files = [p.relative_to(first) for p in sorted(first.rglob("*")) if p.suffix in (".parquet", ".gz", ".safetensors")]
    for name in files:
        assert (out / name).read_bytes() == (first / name).read_bytes(), name


@every_mode
def test_a_fit_leaves_the_starting_weights_and_the_cases_as_they_were(task: Plugin, mode: str, tmp_path: Path) -> None:
    """They are those of other fits too."""
    spec = spec_for(task, tmp_path / "study", modes=[mode])
    with job(spec) as work_job:
        options = work_job.options(TaskOptions)
        work = Work(work_job, options, Starting.read(work_job, options), torch.device("cpu"))
        for fit in work.fits:
            backbone = work.starting.backbone(fit.start, fit.seed)
            before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
            key = work.key(fit)
            list(work.fit(fit, lambda steps: None).masks)
            assert work.starting.backbone(fit.start, fit.seed) is backbone
            assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
            assert all(parameter.grad is None and parameter.requires_grad for parameter in backbone.parameters())
            assert work.key(fit) == key


@every_mode
def test_the_model_says_of_the_same_images_what_the_fit_said(task: Plugin, mode: str, tmp_path: Path) -> None:
    """From the model's folder alone; on masks bit by bit, on probabilities but for the batch that an image was in."""
    root = tmp_path / "study"
    spec = spec_for(task, root, modes=[mode])
    out = finetune(spec)
    rows, source = tables.read_parquet(out / "predictions.parquet"), Path(spec.inputs["samples"]).parent
    ingested = root / "1_ingest" / source.name / "volumes"
    for folder in sorted((out / "models").iterdir()) if (out / "models").is_dir() else []:
        moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
        written = predict(moved, source / "samples.parquet", source / "volumes.tsv", tmp_path / folder.name, ingested=ingested)
        assert written[-1].name == task.constant("TABLE")
        fit_id = read_json(folder / "contract.json")["fit"]["fit_id"]
        _same(rows[rows["fit_id"] == fit_id], out, written)


def _same(rows: pd.DataFrame, out: Path, written: list[Path]) -> None:
    if "prediction" in rows:
        new = {path.name: path for path in written}
        for name in rows["prediction"]:
            one, other = (nibabel.load(path) for path in (out / name, new[Path(name).name]))
            assert np.array_equal(np.asanyarray(one.dataobj), np.asanyarray(other.dataobj))
            assert np.array_equal(one.affine, other.affine)
        return
    names = [name for name in rows if name.startswith("prob_") or name in NUMBERS.values()]
    table = tables.read_tsv(written[-1], text=("predicted",)).set_index("case_id").loc[rows["case_id"]]
    assert names and np.allclose(table[names].to_numpy(float), rows[names].to_numpy(), atol=1e-5, rtol=1e-4)


@every_task
def test_a_model_folder_is_all_that_opens_it(task: Plugin, tmp_path: Path) -> None:
    out = finetune(spec_for(task, tmp_path / "study"))
    folder = shutil.copytree(next((out / "models").iterdir()), tmp_path / "alone")
    shutil.rmtree(tmp_path / "study")
    contract = ModelContract.read(folder / "contract.json")
    model = Model.open(folder)
    assert bool(contract.classes) == (task.constant("PREDICTS") not in NUMBERS)
    assert model.plugin == task and model.network.get_submodule("backbone") is not None


@every_task
def test_pretrained_parts_are_reused_if_the_task_declares_it(task: Plugin) -> None:
    from medssl.nn.backbone import build

    network = task.load()().network(build("resnet18", {"width": 0.125}, 2, 1), {"classes": ["a", "b"], "mask_values": [0, 1, 2]})
    for part in task.constant("CONTINUES", default=[]):
        assert network.get_submodule(part) is not None
