"""Into other libraries, out of other files, and onto new images: what `medssl export`, `convert` and `embed` do."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.encoder import Contract
from medssl.core import tables
from medssl.core.errors import StudyError, did_you_mean, ended
from medssl.core.files import write_json

CONVERT_LIMIT_S = 600


def adapters() -> list[str]:
    """The libraries an encoder can be exported to."""
    return sorted(p.stem for p in (Path(__file__).parent / "adapters").glob("*.py") if not p.stem.startswith("_"))


def export(encoder: Path, library: str, out: Path) -> list[Path]:
    """Write a run's encoder (its folder) for another library, with the contract beside it; returns the files.

    That contract says also how the library makes its network (`network`), an expression of Python.

    Raises:
        StudyError: no such adapter, or the library has no network for this encoder.
    """
    from medssl.nn.weights import read_tensors

    if library not in adapters():
        raise StudyError(f"there is no adapter {library!r}.{did_you_mean(library, adapters())}")
    contract = read_contract(encoder)
    adapter = importlib.import_module(f"medssl.nn.adapters.{library}")
    written: list[Path] = getattr(adapter, library)(read_tensors(encoder / "encoder.safetensors"), contract, out)
    write_json(out / "contract.json", contract.plain() | {"adapter": library, "network": adapter.network(contract)})
    return [*written, out / "contract.json"]


def read_contract(encoder: Path) -> Contract:
    """The contract of an encoder's folder.

    Raises:
        StudyError: there is none.
        CorruptArtefactError: it is not one of an encoder.
    """
    if not (encoder / "contract.json").is_file():
        raise StudyError(f"{encoder} holds no contract.json: name the folder of a pre-training run, 4_pretrain/<cohort>/<run>.")
    return Contract.read(encoder / "contract.json")


def sections_of(contract: Contract) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `ingest` and `prepare` of a study that treat new images as an encoder's contract wants them."""
    window, modalities = contract.window, contract.modalities
    ingest = {"modality": modalities[0]} if len(modalities) == 1 else {}  # what a NIfTI file does not say
    return ingest, {"window_hu": list(zip(window.low, window.high, strict=True))}


def convert(foreign: Path, out: Path, *, strip: str = "", key: str = "") -> str:
    """Turn a foreign `.pth` into safetensors in a process of its own that accepts tensors only; returns its summary line.

    `strip` is removed from the front of the names; `key` names the entry that holds the weights, else the largest is taken.

    Raises:
        StudyError: the file holds something else, or cannot be read.
    """
    if not foreign.is_file():
        raise StudyError(f"there is no file {foreign}. Correct the path.")
    command = [sys.executable, "-m", "medssl.nn.foreign", str(foreign.resolve()), str(out.resolve()), strip, key]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONVERT_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise StudyError(f"{foreign.name} took more than {CONVERT_LIMIT_S} s to read and was given up.") from None
    if done.returncode or not out.is_file():
        reason = (done.stderr.strip().splitlines() or ["the reading process was ended"])[-1]
        raise StudyError(
            f"{foreign.name} was not converted: {ended(reason[:400])} Only files that hold tensors and plain numbers are read; "
            "ask its maker for safetensors, or save its state_dict alone."
        )
    return done.stdout.strip()


def embed(prepared: Path, encoder: Path, out: Path, *, batch_size: int = 64, workers: int = 0) -> int:
    """Write the features of all images of a prepared source: `sample_id` and one column per dimension; returns the rows.

    The images are brought to the encoder's input size whole, with the encoder's own window.

    Raises:
        StudyError: the encoder takes another number of channels than the source has windows.
    """
    import torch

    from medssl.nn.backbone import build, pooled
    from medssl.nn.device import device
    from medssl.nn.loading import Reader, load, read_samples
    from medssl.nn.options import ViewOptions
    from medssl.nn.views import Crop, Views
    from medssl.nn.weights import load_encoder

    contract = read_contract(encoder)
    backbone = build(contract.backbone, contract.backbone_options, contract.spatial_dims, contract.in_channels)
    load_encoder(encoder / "encoder.safetensors", backbone)
    where = device()
    backbone.eval().to(where)
    samples = read_samples([prepared / "samples.parquet"], [prepared / "volumes.tsv"], split=None)
    size, window = tuple(contract.input_size), contract.window
    if contract.in_channels != samples.num_channels:
        raise StudyError(
            f"the encoder takes {contract.in_channels} channel(s), the source has {samples.num_channels} window(s). "
            f"Prepare it with the encoder's windows: low {window.low}, high {window.high}."
        )
    patch = (size[0], size[1], size[2]) if contract.spatial_dims == 3 else None
    reader = Reader(samples, patch=patch, shrink_to=max(size) if patch is None else None)
    views = Views(ViewOptions.still(), [Crop(1, size)], samples, seed=0)
    requests = [(0, np.arange(at, min(at + batch_size, len(samples)))) for at in range(0, len(samples), batch_size)]
    features = []
    with torch.no_grad():
        for batch in load(reader, requests, workers=workers, device=where):
            if not window.differs_by_volume:
                batch.low, batch.high = (
                    torch.tensor([ends], device=where).expand(len(batch), -1) for ends in (window.low, window.high)
                )
            features.append(pooled(backbone(views(batch)[0])).cpu().numpy())
    found = np.concatenate(features)
    table = pd.DataFrame(found, columns=[f"f{d:04d}" for d in range(found.shape[1])])
    table.insert(0, "sample_id", samples.ids)
    tables.write_parquet(out, table)
    return len(table)
