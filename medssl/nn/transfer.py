"""Export to other libraries, conversion of foreign files, and features of new images: `medssl export`, `convert` and `embed`."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from medssl.artefacts.encoder import Contract, ExportedContract
from medssl.artefacts.training_images import HU, PERCENTILES, refuse_or_warn
from medssl.core import tables
from medssl.core.errors import StudyError, did_you_mean, ended
from medssl.core.files import write_text, writing_folder
from medssl.core.receipts import refuse_damaged
from medssl.nn.adapters._readme import readme, window_words
from medssl.nn.backbone import Backbone, build, pooled
from medssl.nn.device import device
from medssl.nn.loading import Reader, Samples, load, read_samples
from medssl.nn.options import ViewOptions
from medssl.nn.views import Crop, Views
from medssl.nn.weights import load_encoder, read_tensors

CONVERT_LIMIT_S = 600
USUAL_WINDOW_HU = (-1000.0, 1000.0)
"""For CT if an encoder was not trained on any: only --force allows it."""


def adapters() -> list[str]:
    """The libraries for which encoders can be exported."""
    return sorted(p.stem for p in (Path(__file__).parent / "adapters").glob("*.py") if not p.stem.startswith("_"))


def export(encoder: Path, library: str, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write a run's encoder (its folder) for another library, with contract and README.md beside it; returns the files.

    That contract also says how the library builds its network (`network`, a Python expression) and loads it (`code`).

    Raises:
        StudyError: no such adapter, the library has no network for this encoder, or the folder was exported itself. Or `out`
            holds files of these names and `overwrite` is off, or is the run itself.
    """
    if library not in adapters():
        raise StudyError(f"there is no adapter {library!r}.{did_you_mean(library, [*adapters(), 'onnx'])}")
    contract = read_contract(encoder)
    if isinstance(contract, ExportedContract):
        raise StudyError(
            f"{encoder} was exported for {contract.adapter} itself: name the run that it came from, 4_pretrain/<cohort>/<run>."
        )
    if out.resolve() == encoder.resolve():
        raise StudyError(f"{out} is the run itself, which stays as it is. Name another folder with --out.")
    adapter = importlib.import_module(f"medssl.nn.adapters.{library}")
    with writing_folder(out, overwrite=overwrite) as folder:
        weights: list[Path] = getattr(adapter, library)(read_tensors(encoder / "encoder.safetensors"), contract, folder)
        exported = ExportedContract.check(
            contract.plain()
            | {
                "adapter": library,
                "network": adapter.network(contract),
                "code": adapter.code(contract),
                "weights": weights[0].name,
            }
            | ({"weights_key": adapter.KEY} if hasattr(adapter, "KEY") else {})
        )
        exported.write(folder / "contract.json")
        write_text(folder / "README.md", readme(exported))
    return [out / path.name for path in (*weights, folder / "contract.json", folder / "README.md")]


def first_steps(exported: Path) -> str:
    """What to type next with an exported folder, and the window that its images need."""
    contract = read_contract(exported)
    if not isinstance(contract, ExportedContract):
        raise StudyError(f"{exported} was not written by medssl export. Name a folder that it wrote.")
    return f"\n{contract.code}\nwindow: {window_words(contract.window)}\n"


def read_contract(encoder: Path) -> Contract:
    """The contract of an encoder's folder, a run's or an exported one.

    Raises:
        StudyError: there is none.
        CorruptArtefactError: it is not an encoder's, or its weights do not match their receipt.
    """
    if not (encoder / "contract.json").is_file():
        runs = ", ".join(sorted(path.parent.name for path in encoder.parent.glob("*/contract.json")))
        beside = f" Beside it: {runs}." if runs else ""
        raise StudyError(
            f"{encoder} holds no contract.json: name the folder of a pre-training run, 4_pretrain/<cohort>/<run>.{beside}"
        )
    refuse_damaged(encoder / "encoder.safetensors")
    if (encoder / "model.safetensors").is_file() and not (encoder / "config.json").is_file():
        raise StudyError(
            f"{encoder} is a fine-tuned model, expected an encoder: name the folder of a pre-training run, "
            "4_pretrain/<cohort>/<run>. `medssl predict` applies a model, and `medssl export --library onnx` writes it."
        )
    return ExportedContract.read_any(encoder / "contract.json")


def open_encoder(folder: Path) -> tuple[Contract, Backbone]:
    """The contract and the network of a run's folder, or of one that `export` wrote, with its weights.

    Raises:
        StudyError: it is neither, or not all weights found their place.
        CorruptArtefactError: a file is damaged.
    """
    contract = read_contract(folder)
    backbone = build(contract.backbone, contract.backbone_options, contract.spatial_dims, contract.in_channels)
    if not isinstance(contract, ExportedContract):
        load_encoder(folder / "encoder.safetensors", backbone)
        return contract, backbone
    exported = folder / contract.weights
    if exported.suffix == ".safetensors":
        load_encoder(exported, backbone, foreign=True)  # a grey stem may have been spread over three channels
        return contract, backbone
    with tempfile.TemporaryDirectory(prefix="medssl-") as own:
        tensors = Path(own) / f"{exported.stem}.safetensors"
        convert(exported, tensors, key=contract.weights_key)
        shutil.copyfile(folder / "contract.json", Path(own) / "contract.json")  # it states the grid of learned positions
        load_encoder(tensors, backbone, foreign=True)
    return contract, backbone


def sections_of(contract: Contract) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `ingest` and `prepare` of a study that treat new images as an encoder's contract requires.

    Raises:
        StudyError: the encoder was trained with several windows, so that none can be chosen for new images.
    """
    window = contract.window
    prepare: dict[str, Any] = {"window_hu": [USUAL_WINDOW_HU] * contract.in_channels}  # the same number of channels
    if window.fixed is not None:
        prepare["window_hu"] = list(zip(*window.fixed, strict=True))
    elif HU in window.rules:
        raise StudyError(_prepare_it("different windows of CT"))
    if window.percentiles is not None:
        prepare["percentiles"] = window.percentiles
    elif PERCENTILES in window.rules:
        raise StudyError(_prepare_it("windows by different percentiles"))
    # other modalities are set aside; a NIfTI file that does not state its modality takes the only one
    modalities = contract.learnt.kept if contract.learnt is not None else contract.modalities
    return {"modality": modalities} if len(modalities) == 1 or (contract.learnt and modalities) else {}, prepare


def _prepare_it(what: str) -> str:
    return (
        f"the encoder was trained on sources with {what}, so its contract gives none for new images. Prepare them as a "
        "source of a study, and embed 2_prepare/<source>."
    )


def convert(foreign: Path, out: Path, *, strip: str = "", key: str = "") -> str:
    """Convert a foreign `.pth` to safetensors in a separate process that accepts only tensors; returns its summary line.

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


def embed(prepared: Path, encoder: Path, out: Path, *, batch_size: int = 64, workers: int = 0, force: bool = False) -> int:
    """Write the features of all images of a prepared source: `sample_id` and one column per dimension; returns the rows.

    See `whole_images` for what the encoder sees of them.

    Raises:
        StudyError: see `whole_images`.
    """
    contract, backbone = open_encoder(encoder)
    where = device()
    backbone.eval().to(where)
    samples = prepared_samples(prepared)
    with torch.no_grad():
        batches = whole_images(contract, samples, where, batch_size=batch_size, workers=workers, force=force)
        found = np.concatenate([pooled(backbone(images)).cpu().numpy() for images in batches])
    table = feature_table(found)
    table.insert(0, "sample_id", samples.ids)
    tables.write_parquet(out, table)
    return len(table)


def feature_table(features: Float[np.ndarray, "n d"]) -> pd.DataFrame:
    """Features `(n, d)` with a named column per dimension."""
    return pd.DataFrame(features, columns=[f"f{d:04d}" for d in range(features.shape[1])])


def prepared_samples(prepared: Path) -> Samples:
    """All slices and images of a prepared source."""
    return read_samples([prepared / "samples.parquet"], [prepared / "volumes.tsv"], split=None)


def whole_images(
    contract: Contract, samples: Samples, where: torch.device, *, batch_size: int = 64, workers: int = 0, force: bool = False
) -> Iterator[Float[Tensor, "n c *size"]]:
    """The images of a prepared source as an encoder takes them, in the order of `samples`.

    Slices and pictures are resized whole to the encoder's input size. A 3-D encoder sees a patch of that size around each
    slice, in the middle of the volume. CT is seen through the encoder's own window, whatever the source was prepared with;
    other volumes through the percentiles of their own values, pictures through the range of their type.

    Raises:
        StudyError: the encoder takes another number of channels than the source has windows. Or, without `force`, it was trained
            on images of another modality, spacing, slice axis or window rule.
    """
    size, window = tuple(contract.input_size), contract.window
    if contract.in_channels != samples.num_channels:
        raise StudyError(
            f"the encoder takes {contract.in_channels} channel(s), the source has {samples.num_channels} window(s). "
            f"Prepare it with as many windows as the encoder has: {window.in_words}."
        )
    _hold_against(contract, samples, force=force)
    windows = [window.of_volume(volume) or (list(volume.low), list(volume.high)) for volume in samples.volumes]
    patch = (size[0], size[1], size[2]) if contract.spatial_dims == 3 else None
    reader = Reader(samples, patch=patch, centred=True, shrink_to=max(size) if patch is None else None)
    views = Views(ViewOptions.still(), [Crop(1, size, varies="nothing")], samples, seed=0)
    requests = [(0, np.arange(at, min(at + batch_size, len(samples)))) for at in range(0, len(samples), batch_size)]
    for batch in load(reader, requests, workers=workers, device=where):
        own = [windows[number] for number in batch.volume.tolist()]
        batch.low, batch.high = (torch.tensor([ends[side] for ends in own], device=where) for side in (0, 1))
        yield views(batch)[0]


def _hold_against(contract: Contract, samples: Samples, *, force: bool) -> None:
    """Refuse prepared images that differ from those that an encoder was trained on; with `force`, warn.

    The window of CT is always the encoder's own, so it is not compared.
    """
    if contract.learnt is None:
        return
    volumes = [samples.volumes[number] for number in sorted(set(samples.volume.tolist()))]
    axes = {samples.volumes[number].volume_id: int(axis) for number, axis in zip(samples.volume, samples.axis, strict=True)}
    solid = contract.spatial_dims == 3
    found = contract.learnt.differences(volumes, axes, planes=not solid, depth=solid)
    found += [one for v in volumes if contract.window.of_volume(v) is None and (one := contract.window.difference(v)) is not None]
    if found:
        refuse_or_warn(found, "the encoder", force=force)
