"""The embedding arm on an encoder of the study, and on weights without a contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.core.errors import StudyError
from medssl.core.files import sha256_file, write_json
from medssl.reduce import run as stage

torch = pytest.importorskip("torch")
features = pytest.importorskip("medssl.reduce.features")


@pytest.fixture
def encoder(prepared):
    """A small random encoder where the stage pretrain leaves one."""
    from medssl.nn.backbone import build
    from medssl.nn.weights import save_encoder

    torch.manual_seed(0)
    folder = prepared.root / "4_pretrain/ct/simclr-all-seed0"
    folder.mkdir(parents=True)
    save_encoder(folder / "encoder.safetensors", build("resnet18", {}, 2, 1))
    contract = {"backbone": "resnet18", "backbone_options": {}, "spatial_dims": 2, "in_channels": 1, "input_size": [32, 32]}
    write_json(folder / "contract.json", contract)
    files = [folder / "encoder.safetensors", folder / "contract.json"]
    outputs = {f.name: {"sha256": sha256_file(f), "size": f.stat().st_size} for f in files}
    write_json(folder / "receipt.json", {"stage": "pretrain", "outputs": outputs})
    return folder / "encoder.safetensors"


def of_a_run(encoder: Path) -> dict[str, str]:
    """The input of an arm that embeds with a run of the study."""
    return {"weights": str(encoder), "contract": str(encoder.parent / "contract.json")}


def test_an_arm_on_features_keeps_the_count_and_remembers_them(prepared, encoder, monkeypatch):
    monkeypatch.setattr(stage, "figures", lambda *_: ({}, None))
    stage.describe(prepared.job("describe", {}))
    inputs = {"descriptors": str(prepared.root / "3_reduce/describe/descriptors.parquet"), "encoder": of_a_run(encoder)}
    job = prepared.job("embedding", prepared.arm("embedding", keep_frac=0.25, traversal="global"), **inputs)
    stage.run(job)
    keep = pd.read_parquet(job.path("keep.parquet"))
    assert keep["keep"].sum() == 20 and set(keep["twin"].dropna()) <= set(keep.loc[keep["keep"], "sample_id"])
    cached = list((prepared.root / "state/reduce/embeddings").glob("*.npy"))
    assert len(cached) == 1 and np.load(cached[0]).shape == (80, 512)
    monkeypatch.setattr(features, "embedder", lambda *_: pytest.fail("features were computed again"))
    job = prepared.job("embedding", prepared.arm("embedding", threshold=0.01), **inputs)
    stage.run(job)
    keep = pd.read_parquet(job.path("keep.parquet")).set_index("sample_id")
    assert (keep.loc[~keep["keep"], "distance"] <= 0.01).all()


def test_weights_without_a_contract_are_known_by_their_names(encoder):
    bare = encoder.parent / "bare" / "net.safetensors"
    bare.parent.mkdir()
    bare.write_bytes(encoder.read_bytes())
    images = [np.random.default_rng(0).random((40, 36)).astype(np.float32)] * 2
    found = features.embedder(bare, None, 1)(images)
    assert found.shape == (2, 512) and np.array_equal(found[0], found[1])


def test_a_file_is_read_by_the_contract_beside_it(prepared, encoder, monkeypatch):
    monkeypatch.setattr(stage, "figures", lambda *_: ({}, None))
    stage.describe(prepared.job("describe", {}))
    inputs = {"descriptors": str(prepared.root / "3_reduce/describe/descriptors.parquet")}
    decided = []
    for given in (of_a_run(encoder), {"weights": str(encoder)}):
        job = prepared.job("embedding", prepared.arm("embedding", keep_frac=0.5), **inputs, encoder=given)
        stage.run(job)
        decided.append(pd.read_parquet(job.path("keep.parquet")))
    assert decided[0].equals(decided[1])


def test_strange_weights_missing_weights_and_no_weights_are_refused(prepared, encoder):
    with pytest.raises(StudyError, match="no contract"):
        features.guessed_network({"stem.weight": (3, 3)}, "net")
    stage.describe(prepared.job("describe", {}))
    descriptors = str(prepared.root / "3_reduce/describe/descriptors.parquet")
    for given, sentence in (({}, "needs an encoder"), ({"encoder": {"weights": "nowhere.safetensors"}}, "nothing is downloaded")):
        with pytest.raises(StudyError, match=sentence):
            stage.run(prepared.job("embedding", prepared.arm("embedding"), descriptors=descriptors, **given))
