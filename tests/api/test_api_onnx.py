"""`medssl export --library onnx`: the answers of onnxruntime are those of torch, or nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning import (
    NARROW_VIT,
    SIDE,
    SMALL,
    finetune,
    finetune_spec,
    scratch_model,
    write_encoder,
    write_image_source,
    write_scans,
)  # fmt: skip

from medssl.api import onnx_file
from medssl.api.onnx_file import export_onnx
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.finetune.predicting import Model

ONNX = Path(sys.prefix) / "onnx"
"""The packages of the extra, out of sight of everything else."""


def segmenter(folder: Path) -> Path:
    """A fine-tuned segmentation of slices."""
    return scratch_model(finetune(finetune_spec(write_scans(folder / "study"), **SMALL | {"max_steps": 1, "fractions": [1.0]})))


def classifier(folder: Path) -> Path:
    """A fine-tuned classification of pictures."""
    source = write_image_source(folder / "study" / "2_prepare" / "organs", {"train": 30, "val": 15, "test": 15})
    encoder = write_encoder(folder / "study" / "4_pretrain" / "ct" / "simclr-hash-seed0")
    out = finetune(finetune_spec(source, encoder, modes=["linear"], fractions=[1.0], scratch=False))
    return next((out / "models").iterdir())


def attentive(folder: Path) -> Path:
    """An attentive probe of a transformer."""
    source = write_image_source(folder / "study" / "2_prepare" / "organs", {"train": 30, "val": 15, "test": 15})
    encoder = write_encoder(folder / "study" / "4_pretrain" / "ct" / "simclr-hash-seed0", backbone=("vit", NARROW_VIT))
    settings = {"modes": ["attentive"], "fractions": [1.0], "size": [SIDE], "scratch": False}
    return next((finetune(finetune_spec(source, encoder, **settings)) / "models").iterdir())


def run(program: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ONNX), *sys.path])}
    line = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)


EXPORT = "import sys; from medssl.cli import main; sys.argv[0] = 'medssl'; main()"
ANSWER = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
numpy.save(sys.argv[3], session.run(None, {"images": numpy.load(sys.argv[2])})[0])
"""


@pytest.mark.full
@pytest.mark.parametrize("made", [segmenter, classifier, attentive], ids=["masks", "classes", "attentive"])
def test_onnxruntime_answers_as_torch_does(made: Any, tmp_path: Path) -> None:
    if not ONNX.is_dir():
        pytest.skip("the packages of the extra onnx are not there: make test-full installs them beside the environment")
    folder, out = made(tmp_path), tmp_path / "out"
    said = run(EXPORT, "export", folder, "--library", "onnx", "--out", out)
    assert said.returncode == 0, said.stderr[-2000:]
    model = Model.open(folder)
    images = torch.rand(5, model.expected.in_channels, *model.expected.size)
    np.save(tmp_path / "images.npy", images.numpy())
    answered = run(ANSWER, out / "model.onnx", tmp_path / "images.npy", tmp_path / "answer.npy")
    assert answered.returncode == 0, answered.stderr[-2000:]
    with torch.inference_mode():
        truth = model.network.cpu()(images).softmax(dim=1).numpy()
    assert np.abs(np.load(tmp_path / "answer.npy") - truth).max() < 1e-4
    assert read_json(out / "contract.json")["classes"] == model.contract["classes"]


class Runtime:
    """Stands in for onnxruntime: answers of torch, all of them off by `error`."""

    def __init__(self, network: torch.nn.Module, error: float) -> None:
        self.network, self.error = network, error

    def InferenceSession(self, written: bytes, providers: list[str]) -> Runtime:
        assert written == b"onnx"
        return self

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [self.network(torch.from_numpy(inputs["images"])).numpy() + np.float32(self.error)]


@pytest.mark.parametrize(("error", "written"), [(5e-5, True), (2e-4, False), (float("nan"), False)])
def test_a_file_that_differs_from_torch_is_refused_and_not_written(
    error: float, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(tmp_path)

    def exported(network: torch.nn.Module, images: torch.Tensor) -> bytes:
        monkeypatch.setitem(sys.modules, "onnxruntime", Runtime(network, error))
        return b"onnx"

    monkeypatch.setattr(onnx_file, "exported", exported)
    monkeypatch.setattr(onnx_file, "PACKAGES", ())
    (tmp_path / "out").mkdir()
    if not written:
        with pytest.raises(StudyError, match=r"differs from torch by .* expected less than 0\.0001"):
            export_onnx(model, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())
        return
    export_onnx(model, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "contract.json", "model.onnx"]
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert all(name in text for name in read_json(model / "contract.json")["classes"]) and "(n, 1, 16, 16)" in text


def test_without_the_packages_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "PACKAGES", ("sys", "a_package_that_is_not_here"))
    sentence = r"^ONNX needs packages that are not here \(a_package_that_is_not_here\): pip install a_package_that_is_not_here\.$"
    with pytest.raises(StudyError, match=sentence):
        export_onnx(classifier(tmp_path), tmp_path)
    with pytest.raises(StudyError, match="an encoder alone predicts nothing"):
        export_onnx(write_encoder(tmp_path / "encoder"), tmp_path)
