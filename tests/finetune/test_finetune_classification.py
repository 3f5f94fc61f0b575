"""The stage on a small prepared source: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finetuning import scratch_model, typed
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.artefacts.names import SCRATCH, is_scratch
from medssl.core import tables
from medssl.core.errors import NotFiniteError, PreemptedError, StudyError
from medssl.core.files import read_json
from medssl.finetune import run as stage
from medssl.finetune import training
from medssl.finetune.scoring import macro_auc
from medssl.nn.backbone import build, pooled
from medssl.nn.weights import load_encoder, read_tensors, save_tensors

NARROW = {"stem": "small", "width": 0.125}


def predictions(out: Path) -> pd.DataFrame:
    return tables.read_parquet(out / "predictions.parquet")


def probabilities(rows: pd.DataFrame) -> np.ndarray:
    return rows[[name for name in rows if name.startswith("prob_")]].to_numpy()


def arm_word(init: str) -> str:
    """An arm, scratch without its backbone."""
    return SCRATCH if is_scratch(init) else init


def truth(rows: pd.DataFrame) -> np.ndarray:
    names = [name.removeprefix("prob_") for name in rows if name.startswith("prob_")]
    return np.array([names.index(target) for target in rows["target"]])


def test_every_fit_predicts_every_case_once(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    out = finetune(spec_of(image_source, encoder, modes=["linear", "knn", "full", "gradual"], seeds=[0]))
    rows, fits = predictions(out), tables.read_tsv(out / "fits.tsv")
    assert len(fits) == 2 * 4 * 2 == rows["fit_id"].nunique()
    assert (rows.groupby("fit_id").size() == 30 + 45).all()
    assert not rows.duplicated(["fit_id", "case_id"]).any()
    assert list(rows.columns) == [
        *("fit_id", "init", "pretrain_seed", "mode", "fraction", "num_train", "seed", "split", "case_id", "unit_id", "unit"),
        *("target", "prob_bladder", "prob_femur", "prob_liver"),
    ]
    assert np.allclose(probabilities(rows).sum(1), 1)
    assert set(zip(rows["init"], rows["pretrain_seed"].fillna(-1), strict=True)) == {
        ("simclr-hash", 0),
        (scratch_model(out).name, -1),
    }
    receipt = read_json(out / "receipt.json")
    assert {"predictions.parquet", "fits.tsv", "splits.parquet", "curves.tsv"} <= set(receipt["outputs"])
    kept = {path.name for path in (image_source.parent.parent / "state" / "finetune" / "fits").iterdir()}
    assert kept == set(receipt["fit_keys"]) and len(kept) == receipt["fits"] == 16


def test_starting_points_are_treated_alike(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    fits = tables.read_tsv(finetune(spec_of(image_source, encoder, modes=["full"])) / "fits.tsv")
    same = ["steps", "batch_size", "lr", "weight_decay", "augment", "num_train", "train_ids_sha256", "parameters", "selection"]
    for _, pair in fits.groupby(["mode", "fraction", "seed"]):
        assert set(pair["init"].map(arm_word)) == {"simclr-hash", "scratch"}
        assert len(pair[same].drop_duplicates()) == 1


def test_a_paired_run_without_its_seed_is_refused(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    with pytest.raises(StudyError, match="Add 0 to finetune"):
        finetune(spec_of(image_source, encoder, modes=["linear"], seeds=[1, 2], pair_seeds=True))
    fits = tables.read_tsv(finetune(spec_of(image_source, encoder, modes=["linear"], seeds=[0, 1], pair_seeds=True)) / "fits.tsv")
    seeds = {arm_word(str(init)): set(part["seed"]) for init, part in fits.groupby("init")}
    assert seeds == {"simclr-hash": {0}, "scratch": {0, 1}}


def test_subsets_are_recorded_and_nested(image_source: Path, finetune: Any, spec_of: Any) -> None:
    out = finetune(spec_of(image_source, modes=["linear"], fractions=[0.1, 0.5, 1.0], counts=[4], seeds=[0, 1]))
    splits, rows = tables.read_parquet(out / "splits.parquet"), predictions(out)
    train = splits[splits["split"] == "train"]
    for _, of_seed in train.groupby("seed"):
        chosen = [set(part["case_id"]) for _, part in sorted(of_seed.groupby("fraction"))]
        assert [len(c) for c in chosen] == [4, 6, 30, 60]
        assert all(a < b for a, b in itertools.pairwise(chosen))
        assert all(set(part["label"]) == {"bladder", "femur", "liver"} for _, part in of_seed.groupby("fraction"))
    assert not set(train["case_id"]) & set(rows["case_id"])


def test_same_seed_twice_is_bit_equal(tmp_path: Path, image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    spec = spec_of(image_source, encoder, modes=["linear", "full"], mixup=0.2)
    first = finetune(spec)
    kept = shutil.copytree(first, tmp_path / "kept")
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "study" / "state")
    second = finetune(spec)
    assert read_json(second / "receipt.json")["restored_fits"] == 0
    assert (kept / "predictions.parquet").read_bytes() == (second / "predictions.parquet").read_bytes()
    for name in (scratch_model(second).name, "simclr-hash-seed0"):
        model = Path("models") / name / "model.safetensors"
        assert (kept / model).read_bytes() == (second / model).read_bytes()


class Killed(BaseException):
    """Acts like kill -9: nothing catches it."""


def test_a_killed_task_resumes_and_ends_equal(
    tmp_path: Path, image_source: Path, encoder: Path, finetune: Any, spec_of: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    spec = spec_of(image_source, encoder, modes=["linear", "full"], seeds=[0, 1], max_steps=2)
    whole = shutil.copytree(finetune(spec), tmp_path / "whole")
    shutil.rmtree(spec.out)
    shutil.rmtree(tmp_path / "study" / "state")
    describe, made = stage.describe, 0
    for _ in range(min(count, 4)):
        left = 3

        def dying(*arguments: Any, **named: Any) -> None:
            nonlocal left, made
            left -= 1
            if left < 0:
                raise Killed
            describe(*arguments, **named)
            made += 1

        monkeypatch.setattr(stage, "describe", dying)
        with pytest.raises(Killed):
            finetune(spec)
        assert not (Path(spec.out) / "receipt.json").exists()
    monkeypatch.undo()
    out = finetune(spec)
    assert read_json(out / "receipt.json")["restored_fits"] == made >= 9
    assert (out / "predictions.parquet").read_bytes() == (whole / "predictions.parquet").read_bytes()
    facts = [tables.read_tsv(folder / "fits.tsv").drop(columns="seconds") for folder in (out, whole)]
    pd.testing.assert_frame_equal(*facts)
    for model in sorted(whole.glob("models/*/*")):
        assert (out / model.relative_to(whole)).read_bytes() == model.read_bytes()


@pytest.mark.parametrize("moment", ["Starting.read", "Work", "make", "finish"])
def test_a_signal_at_any_moment_asks_for_another_try(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    spec = spec_of(image_source, encoder, modes=["linear"], scratch=False)
    monkeypatch.setattr(f"medssl.finetune.run.{moment}", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="SIGTERM"):
        finetune(spec)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    fits = read_json(finetune(spec) / "receipt.json")
    assert fits["restored_fits"] == (fits["fits"] if moment == "finish" else 0)


def test_changed_weights_never_resume_on_old_fits(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any, write_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(image_source, encoder, modes=["linear"], scratch=False)
    monkeypatch.setattr(stage, "finish", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        finetune(spec)
    monkeypatch.undo()
    shutil.rmtree(encoder)
    write_encoder(encoder, seed=8)
    assert read_json(finetune(spec) / "receipt.json")["restored_fits"] == 0


def test_linear_probe_equals_scikit_learn_by_hand(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    out = finetune(spec_of(image_source, encoder, modes=["linear"], fractions=[1.0], seeds=[0], scratch=False))
    samples = tables.read_parquet(image_source / "samples.parquet")
    images = np.load(image_source / "arrays" / "v-00.npy").transpose(2, 0, 1)[:, None].astype(np.float32) / 255
    contract = read_json(encoder / "contract.json")
    network = build("resnet18", contract["backbone_options"], 2, 1).eval()
    load_encoder(encoder / "encoder.safetensors", network)
    with torch.no_grad():
        known = pooled(network(torch.from_numpy(images.clip(0, 1)))).numpy()
    part = {split: (samples["split"] == split).to_numpy() for split in ("train", "val", "test")}
    label = samples["label"].to_numpy()
    chosen = float(tables.read_tsv(out / "fits.tsv")["inverse_penalty"][0])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=chosen, max_iter=1000))
    by_hand = model.fit(known[part["train"]], label[part["train"]]).predict_proba(known[part["test"]])
    rows = predictions(out)
    rows = rows[rows["split"] == "test"]
    assert np.allclose(probabilities(rows), by_hand, atol=2e-2)
    expected = roc_auc_score(label[part["test"]], by_hand, multi_class="ovr", average="macro")
    assert macro_auc(probabilities(rows), np.eye(3)[truth(rows)]) == pytest.approx(expected, abs=1e-3)


def test_full_fine_tuning_learns(image_source: Path, finetune: Any, spec_of: Any) -> None:
    spec = spec_of(image_source, modes=["full"], fractions=[1.0], seeds=[0], max_steps=40, lr=3e-3)
    rows = predictions(finetune(spec))
    rows = rows[rows["split"] == "test"]
    assert macro_auc(probabilities(rows), np.eye(3)[truth(rows)]) > 0.95


def test_the_model_file_gives_the_predictions_again(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    from medssl.finetune.whole_images import ImageHead

    out = finetune(spec_of(image_source, encoder, modes=["linear", "full"]))
    rows = predictions(out)
    images = np.load(image_source / "arrays" / "v-00.npy").transpose(2, 0, 1)[:, None].astype(np.float32) / 255
    samples = tables.read_parquet(image_source / "samples.parquet")
    for folder in sorted((out / "models").iterdir()):
        contract = read_json(folder / "contract.json")
        model = ImageHead(build(contract["backbone"], contract["backbone_options"], 2, 1), 3).eval()
        model.load_state_dict(read_tensors(folder / "model.safetensors"))
        with torch.no_grad():
            got = model(torch.from_numpy(images[(samples["split"] == "test").to_numpy()].clip(0, 1))).softmax(1).numpy()
        of_fit = rows[(rows["fit_id"] == contract["fit"]["fit_id"]) & (rows["split"] == "test")]
        assert np.allclose(probabilities(of_fit), got, atol=1e-4)
        competing = tables.read_tsv(out / "fits.tsv").query("fraction == 1.0")
        competing = competing[competing["init"] == contract["fit"]["init"]]
        assert contract["fit"]["val_score"] == competing["val_score"].max()
        assert contract["classes"] == ["bladder", "femur", "liver"]
        assert (contract["encoder"] is None) == is_scratch(folder.name)


def test_patients_are_never_cut_and_may_be_the_case(tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 60, "val": 30, "test": 30}, per_unit=5)
    out = finetune(spec_of(source, modes=["linear"], options={"aggregate": "unit"}, counts=[3], fractions=[0.5]))
    rows, splits = predictions(out), tables.read_parquet(out / "splits.parquet")
    sizes = splits[splits["split"] == "train"].groupby(["seed", "fraction", "unit_id"]).size()
    assert (sizes == 5 * 4 / 4).all()
    assert set(rows["case_id"]) == set(rows["unit_id"])
    assert set(rows["unit"]) == {"patient"}
    assert (rows.groupby("fit_id").size() == (30 + 30) / 5).all()


def test_several_labels_a_case(tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 60, "val": 30, "test": 30})
    samples = tables.read_parquet(source / "samples.parquet")
    samples["label"] = [label if n % 2 else f"{label}|stone" for n, label in enumerate(samples["label"])]
    tables.write_parquet(source / "samples.parquet", samples)
    shutil.copy(source / "receipt.json", tmp_path / "old.json")
    refresh(source)
    with pytest.raises(StudyError, match="multilabel: true"):
        finetune(spec_of(source, modes=["full"]))
    out = finetune(spec_of(source, modes=["linear", "full"], options={"multilabel": True, "class_weights": True}))
    rows = predictions(out)
    assert [n for n in rows if n.startswith("prob_")] == ["prob_bladder", "prob_femur", "prob_liver", "prob_stone"]
    assert not np.allclose(probabilities(rows).sum(1), 1)


def refresh(folder: Path) -> None:
    from medssl.core.files import sha256_file, write_json

    receipt = read_json(folder / "receipt.json")
    for name in receipt["outputs"]:
        receipt["outputs"][name] = {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
    write_json(folder / "receipt.json", receipt)


def test_self_training_takes_only_confident_guesses(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    options = {"self_training_rounds": 1, "self_training_confidence": 0.34}
    fits = tables.read_tsv(
        finetune(spec_of(image_source, encoder, modes=["full"], fractions=[0.2], options=options, seeds=[0, 1])) / "fits.tsv"
    )
    assert ((fits["num_pseudo"] > 0) & (fits["num_pseudo"] <= 48)).all()
    assert (fits["num_train"] == 12).all()


def test_guesses_make_no_more_steps(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    """A start with surer guesses has more cases, and trains no longer than the others."""
    settings = {"modes": ["full"], "fractions": [0.2], "max_steps": None, "epochs": 2, "batch_size": 4}
    fits = [
        tables.read_tsv(finetune(spec_of(image_source, encoder, options=options, **settings)) / "fits.tsv")
        for options in ({}, {"self_training_rounds": 1, "self_training_confidence": 0.34})
    ]
    assert (fits[1]["num_pseudo"] > 0).all()
    assert fits[0]["steps"].tolist() == fits[1]["steps"].tolist() == [2 * 3] * len(fits[0])


def test_a_case_may_have_none_of_several_labels(tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 60, "val": 30, "test": 30})
    samples = tables.read_parquet(source / "samples.parquet")
    samples["label"] = samples["label"].map({"liver": "liver | spleen", "femur": "|", "bladder": "liver"})
    samples.loc[samples.index[:3], "label"] = None
    tables.write_parquet(source / "samples.parquet", samples)
    refresh(source)
    rows = predictions(finetune(spec_of(source, modes=["linear"], options={"multilabel": True}, fractions=[1.0])))
    assert [n for n in rows if n.startswith("prob_")] == ["prob_liver", "prob_spleen"]
    assert rows.groupby("target").size().to_dict() == {
        label: 20 * rows["fit_id"].nunique() for label in ("|", "liver", "liver|spleen")
    }


@pytest.mark.parametrize("network", ["own", "volume"])
def test_volumes_are_whole_cases_of_a_3d_network(
    tmp_path: Path, write_encoder: Any, finetune: Any, spec_of: Any, network: str
) -> None:
    source = tmp_path / "study" / "2_prepare" / "organs"
    (source / "arrays").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows, volumes = [], []
    for n in range(24):
        array = generator.normal(100 * (n % 2), 40, (10, 12, 9)).clip(0, 255).astype(np.int16)
        np.save(source / "arrays" / f"v-{n:02d}.npy", np.asfortranarray(array))
        ids = {"volume_id": f"v-{n:02d}", "subject_id": f"p-{n // 2:02d}", "unit": "patient", "kind": "volume"}
        ids |= {"split": ["train", "train", "train", "test", "val", "test"][n // 4], "array": f"arrays/v-{n:02d}.npy"}
        rows += [{**ids, "sample_id": f"v-{n:02d}-{k:04d}", "axis": 2, "index": k, "label": "ab"[n % 2]} for k in range(9)]
        geometry = {"shape": [10, 12, 9], "spacing_mm": [1.0, 1.0, 3.0], "affine": np.eye(4).tolist()}
        volumes.append(
            {
                **ids,
                **geometry,
                "series_id": None,
                "mask": None,
                "modality": "CT",
                "slope": 1.0,
                "intercept": 0.0,
                "window_low": [0.0],
                "window_high": [255.0],
            }
        )
    samples = typed(pd.DataFrame(rows))
    tables.write_parquet(source / "samples.parquet", samples)
    tables.write_tsv(source / "volumes.tsv", pd.DataFrame(volumes))
    from prepared import receipt

    receipt(source, "prepare")
    run = tmp_path / "study" / "4_pretrain" / "ct" / "spark-all-seed0"
    encoder = write_encoder(run, spatial_dims=3 if network == "own" else 2)
    tiny = {"modes": ["linear", "full"], "fractions": [1.0], "max_steps": 1, "size": [16]}
    out = finetune(spec_of(source, encoder, encoder=network, **tiny))
    rows = predictions(out)
    assert (rows.groupby("fit_id").size() == 12).all()
    assert set(rows["case_id"]) < {f"v-{n:02d}" for n in range(24)}
    linear = rows[(rows["mode"] == "linear") & (rows["split"] == "test")]
    assert macro_auc(probabilities(linear), np.eye(2)[truth(linear)]) == 1.0


def test_a_source_without_labels_is_refused(tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 9, "test": 9}, labelled=False)
    with pytest.raises(StudyError, match=r"source 'organs' has no class labels.*sources\.organs\.labels"):
        finetune(spec_of(source))


@pytest.mark.parametrize("counts", [{"train": 9, "val": 3}, {"val": 9, "test": 9}])
def test_a_missing_split_is_refused(
    counts: dict[str, int], tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any
) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", counts)
    with pytest.raises(StudyError, match="no labelled case is in the"):
        finetune(spec_of(source))


def test_without_validation_cases_the_last_step_is_taken(tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 30, "test": 9})
    fits = tables.read_tsv(finetune(spec_of(source)) / "fits.tsv")
    chosen = fits["mode"].map({"full": "last step (no validation cases)", "linear": "fixed settings (no validation cases)"})
    assert (fits["selection"] == chosen).all() and fits["val_score"].isna().all()
    assert (fits[fits["mode"] == "full"]["best_step"] == fits[fits["mode"] == "full"]["steps"]).all()


def test_with_validation_cases_of_one_class_the_score_is_not_an_auc(
    tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any
) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 30, "val": 1, "test": 9})
    fits = tables.read_tsv(finetune(spec_of(source)) / "fits.tsv")
    last = "last step (1 of at least 10 validation units; val_score is negative log loss)"
    chosen = fits["mode"].map({"linear": "validation negative log loss", "full": last})
    assert (fits["selection"] == chosen).all() and (fits["val_score"] < 0).all()


def test_another_number_of_channels_is_refused(image_source: Path, encoder: Path, finetune: Any, spec_of: Any) -> None:
    contract = json.loads((encoder / "contract.json").read_text())
    (encoder / "contract.json").write_text(json.dumps(contract | {"in_channels": 3}))
    refresh(encoder)
    with pytest.raises(StudyError, match=r"has 1 channels.*take 3"):
        finetune(spec_of(image_source, encoder))


def test_given_weights_are_a_starting_point(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any, tmp_path: Path
) -> None:
    own = shutil.copy(encoder / "encoder.safetensors", tmp_path / "imagenet.safetensors")
    spec = spec_of(image_source, modes=["linear"], weights={"imagenet": str(own)}, size=[16])
    rows = predictions(finetune(spec))
    assert set(rows["init"].map(arm_word)) == {"imagenet", "scratch"}
    with pytest.raises(StudyError, match="there is no file"):
        finetune(spec_of(image_source, modes=["linear"], weights={"imagenet": "nowhere.safetensors"}))


def test_weights_of_a_classifier_of_photographs_are_a_starting_point(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any, tmp_path: Path
) -> None:
    """Names and shapes of torchvision's ResNet: three channels, 1000 classes, and no counters in old files."""
    colour = build("resnet18", NARROW, 2, 3)
    tensors = {name: t for name, t in colour.state_dict().items() if not name.endswith("num_batches_tracked")}
    head = {"fc.weight": torch.zeros(1000, colour.channels[-1]), "fc.bias": torch.zeros(1000)}
    save_tensors(tmp_path / "imagenet.safetensors", tensors | head)
    spec = spec_of(image_source, encoder, modes=["linear", "full"], weights={"imagenet": str(tmp_path / "imagenet.safetensors")})
    assert set(predictions(finetune(spec))["init"].map(arm_word)) == {"imagenet", "scratch", "simclr-hash"}
    grey = build("resnet18", NARROW, 2, 1)
    load_encoder(tmp_path / "imagenet.safetensors", grey, foreign=True)
    photograph = torch.rand(2, 1, 32, 32)
    seen = pooled(colour.eval()(photograph.expand(-1, 3, -1, -1)))
    assert torch.allclose(pooled(grey.eval()(photograph)), seen, atol=1e-5), "a grey photograph looks the same"
    two = build("resnet18", NARROW, 2, 2)
    load_encoder(tmp_path / "imagenet.safetensors", two, foreign=True)
    assert torch.allclose(pooled(two.eval()(photograph.expand(-1, 2, -1, -1))), seen, atol=1e-5)
    for name, bad in (("layer1.0.conv1.weight", torch.zeros(3, 3, 3, 3)), ("other", torch.zeros(2))):
        save_tensors(tmp_path / "bad.safetensors", tensors | {name: bad})
        with pytest.raises(StudyError, match=name):
            load_encoder(tmp_path / "bad.safetensors", grey, foreign=True)
    with pytest.raises(StudyError, match="99/122 tensors matched"):
        load_encoder(tmp_path / "imagenet.safetensors", grey)


def test_given_weights_of_another_network_stop_a_task_before_its_first_fit(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tensors(tmp_path / "other.safetensors", build("resnet34", NARROW, 2, 1).state_dict())
    begun: list[Any] = []
    monkeypatch.setattr("medssl.finetune.fitting.Work.fit", lambda _, fit, report: begun.append(fit))
    with pytest.raises(StudyError, match=r"other.safetensors: only \d+/\d+ tensors matched"):
        finetune(spec_of(image_source, encoder, modes=["linear"], weights={"other": str(tmp_path / "other.safetensors")}))
    assert not begun


def test_pictures_are_not_a_volume(image_source: Path, finetune: Any, spec_of: Any) -> None:
    """Pictures of one shape lie in one array: averaged by volume each stays a case."""
    rows = predictions(finetune(spec_of(image_source, modes=["linear"], options={"aggregate": "volume"}, fractions=[1.0])))
    assert set(rows["case_id"]) == set(predictions(finetune(spec_of(image_source, modes=["linear"], fractions=[1.0])))["case_id"])
    assert (rows.groupby("fit_id").size() == 30 + 45).all()


def test_nothing_to_start_from_is_refused(image_source: Path, finetune: Any, spec_of: Any) -> None:
    with pytest.raises(StudyError, match="nothing to start from"):
        finetune(spec_of(image_source, scratch=False))


def test_each_start_takes_the_rate_that_its_validation_cases_prefer(
    image_source: Path, encoder: Path, finetune: Any, spec_of: Any, tmp_path: Path
) -> None:
    """Scores and predictions of a fit with several rates are those of the fit with the better one alone."""
    settings = {"modes": ["full", "linear"], "fractions": [1.0], "max_steps": 8}
    rates = (1e-5, 0.01, 1e-3)
    alone = {}
    for rate in rates:
        out = finetune(spec_of(image_source, encoder, lr=[rate], **settings))
        alone[rate] = tables.read_tsv(out / "fits.tsv").set_index("fit_id"), predictions(out)
    out = finetune(spec_of(image_source, encoder, lr=list(rates), **settings))
    fits, rows = tables.read_tsv(out / "fits.tsv").set_index("fit_id"), predictions(out)
    assert fits.loc[fits["mode"] == "linear", "lr"].isna().all()
    full = fits[fits["mode"] == "full"]
    for fit_id, fit in full.iterrows():
        assert fit["val_score"] == max(table.loc[fit_id, "val_score"] for table, _ in alone.values())
        assert fit["val_score"] == alone[fit["lr"]][0].loc[fit_id, "val_score"]
        own, theirs = (table[table["fit_id"] == fit_id].filter(like="prob_").to_numpy() for table in (rows, alone[fit["lr"]][1]))
        assert np.array_equal(own, theirs)
    assert set(full["lr"]) <= set(rates) and 1e-5 not in set(full["lr"])


def test_several_rates_without_validation_cases_are_refused(
    tmp_path: Path, write_source: Any, finetune: Any, spec_of: Any
) -> None:
    source = write_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 30, "test": 9})
    with pytest.raises(StudyError, match=r"lr has 2 rates.*val_frac"):
        finetune(spec_of(source, modes=["full"], lr=[0.1, 0.01]))


def test_copies_of_a_case_in_one_batch_are_changed_apart(
    image_source: Path, finetune: Any, spec_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few labels a batch holds each case many times."""
    seen: list[torch.Tensor] = []

    def run(fit: training.Fit) -> training.Trained:
        seen.extend(images for images, _ in fit.batches(range(2)))
        return training.Trained(1, 0.0, [])

    monkeypatch.setattr(training.Fit, "run", run)
    finetune(spec_of(image_source, modes=["full"], fractions=[0.05], seeds=[0], batch_size=24, max_steps=2))
    for images in seen:
        assert len(images) == len(images.unique(dim=0)) == 24
    assert not torch.equal(seen[0], seen[1])


def test_a_rate_that_diverges_leaves_the_others_and_alone_ends_the_task(image_source: Path, finetune: Any, spec_of: Any) -> None:
    settings = {"modes": ["full"], "fractions": [1.0], "seeds": [0], "max_steps": 20}
    fits = tables.read_tsv(finetune(spec_of(image_source, lr=[1e30, 1e-3], **settings)) / "fits.tsv")
    assert set(fits["lr"]) == {1e-3}
    with pytest.raises(NotFiniteError):
        finetune(spec_of(image_source, lr=[1e30], **settings))


def test_fp16_on_a_processor_is_refused(image_source: Path, finetune: Any, spec_of: Any) -> None:
    with pytest.raises(StudyError, match=r"finetune.precision is fp16, which needs a GPU"):
        finetune(spec_of(image_source, precision="fp16", device="cpu"))
