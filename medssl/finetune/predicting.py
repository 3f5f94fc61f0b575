"""A fine-tuned model applied to prepared images: a table of probabilities, or masks on the grids of the given images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl.core import plugins, tables
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.finetune.cases import MANY, Cases, unit_ids, volume_ids
from medssl.finetune.lifting import cuts_slices
from medssl.finetune.predictions import PROBABILITY, aggregated, rows_of
from medssl.finetune.reading import channels_sentence, plane_images, scan_of, source_grid, volume_images
from medssl.finetune.restoring import largest_components, restored_classes
from medssl.finetune.scans import Scan
from medssl.nn.backbone import build
from medssl.nn.determinism import use_deterministic_algorithms
from medssl.nn.loading import Samples, read_samples
from medssl.nn.weights import load_encoder
from medssl.volume.cache import open_array

MODEL_FORMAT = "medssl-model-1"


@dataclass(frozen=True)
class Model:
    """A fine-tuned network with its task and the contract of the images that it understands."""

    contract: dict[str, Any]
    task: Any
    network: torch.nn.Module

    @classmethod
    def open(cls, folder: Path) -> Model:
        """The model of a folder `5_finetune/<task>/models/<run>`, on the first device.

        Raises:
            StudyError: there is no model of medssl.
        """
        contract = contract_of(folder)
        task = plugins.find("task", contract["task"]).load()(**contract["options"])
        backbone = build(contract["backbone"], contract["backbone_options"], contract["spatial_dims"], contract["in_channels"])
        network = task.network(backbone, len(contract["classes"]) + ("mask_values" in contract))
        load_encoder(folder / "model.safetensors", network)
        return cls(contract, task, network.to(device()).eval())

    @property
    def size(self) -> tuple[int, ...]:
        """Of the images or patches that it sees."""
        return tuple(self.contract["input_size"])

    def check(self, samples: Samples, source: str) -> None:
        """Raises StudyError where prepared images have other channels or windows than the model learnt from."""
        if samples.num_channels != self.contract["in_channels"]:
            raise StudyError(channels_sentence(source, samples.num_channels, self.contract["in_channels"]))
        window = self.contract["window"]
        for volume in samples.volumes:
            if not window["differs_by_volume"] and (list(volume.low), list(volume.high)) != (window["low"], window["high"]):
                raise StudyError(
                    f"{volume.volume_id} was prepared with the window {list(volume.low)} to {list(volume.high)}, the model "
                    f"learnt from {window['low']} to {window['high']}. Prepare the source as the model's contract.json says."
                )


def contract_of(folder: Path) -> dict[str, Any]:
    """The contract of a fine-tuned model.

    Raises:
        StudyError: there is none, or it is an encoder's.
    """
    if not (folder / "contract.json").is_file():
        raise StudyError(
            f"{folder} holds no contract.json: name the folder of a fine-tuned model, 5_finetune/<task>/models/<run>."
        )
    contract = dict(read_json(folder / "contract.json"))
    if contract.get("format") != MODEL_FORMAT:
        raise StudyError(
            f"{folder} is {contract.get('format')!r}, expected {MODEL_FORMAT!r}: an encoder alone predicts nothing. Fine-tune it."
        )
    return contract


def probability_table(model: Model, samples_path: Path, volumes_path: Path) -> pd.DataFrame:
    """A row per case of a prepared source: `case_id unit_id unit predicted prob_<class>…`."""
    known = read_samples([samples_path], [volumes_path], split=None)
    model.check(known, samples_path.parent.name)
    classes, whole = model.contract["classes"], model.contract["spatial_dims"] == 3
    samples = tables.read_parquet(samples_path)
    rows = samples.assign(unit_id=unit_ids(samples, tables.read_tsv(volumes_path))).sort_values("sample_id", kind="stable")
    rows = rows.drop_duplicates("volume_id") if whole else rows
    place = {sample: row for row, sample in enumerate(known.ids)}
    chosen = np.array([place[sample] for sample in rows["sample_id"]], dtype=np.int64)
    cases = Cases(
        volume_id=volume_ids(rows),
        unit_id=rows["unit_id"].to_numpy(dtype=object),
        unit=rows["unit"].to_numpy(dtype=object),
        split=rows["split"].to_numpy(dtype=object),
        case_id=rows["volume_id" if whole else "sample_id"].to_numpy(dtype=object),
        label=np.full(len(rows), "", dtype=object),
        classes=classes,
        targets=np.zeros((len(rows), len(classes)), dtype=np.uint8),
        images=volume_images(known, chosen, model.size, cuts_slices(model.contract))
        if whole
        else plane_images(known, chosen, model.size),
    )
    everything = np.arange(len(cases))
    predicted = model.task.predict(model.network, cases, everything, device())
    table = aggregated(rows_of(cases, everything, predicted), model.task.aggregate)
    names = [PROBABILITY + name for name in classes]
    table["predicted"] = called(table[names].to_numpy(), classes, multilabel=model.task.multilabel)
    return table[["case_id", "unit_id", "unit", "predicted", *names]]


def called(probabilities: np.ndarray, classes: list[str], *, multilabel: bool) -> list[str]:
    """The likeliest class of each row `(n, classes)`; with several labels a case all from 0.5 on, joined by `|`."""
    if not multilabel:
        return [classes[k] for k in probabilities.argmax(axis=1)]
    return [MANY.join(name for name, value in zip(classes, row, strict=True) if value >= 0.5) for row in probabilities]


def masks(
    model: Model, samples_path: Path, volumes_path: Path, ingested: Path | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Volume id, mask of mask values and its affine of every volume of a prepared source, by volume id.

    Args:
        model: of a segmentation.
        samples_path, volumes_path: tables of the prepare stage.
        ingested: ingest's folder `volumes/`, which knows the source grids; without it masks are on the prepared grid.
    """
    known = read_samples([samples_path], [volumes_path], split=None)
    model.check(known, samples_path.parent.name)
    values, slices_last = model.contract["mask_values"], cuts_slices(model.contract)
    axes = tables.read_parquet(samples_path).drop_duplicates("volume_id").set_index("volume_id")["axis"]
    affines = tables.read_tsv(volumes_path, text=("affine",)).set_index("volume_id")["affine"]
    for volume in sorted(known.volumes, key=lambda volume: volume.volume_id):
        name = volume.volume_id
        scan = scan_of(volume, affines[name], open_array(volume.array), None, int(axes[name]), slices_last)
        probabilities = model.task.probabilities(model.network, scan, model.size, device())
        grid = (scan.affine, scan.shape) if ingested is None else source_grid(ingested, scan)
        yield name, *source_mask(model.task, probabilities, scan, values, grid)


def class_volumes(name: str, mask: np.ndarray, affine: np.ndarray, contract: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per class of a predicted mask: its value, voxels and millilitres."""
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3])) / 1000)
    counts = [int((mask == value).sum()) for value in contract["mask_values"][1:]]
    return [
        {
            **{"volume_id": name, "mask": f"masks/{name}.nii.gz", "value": value, "class": label},
            **{"voxels": count, "volume_ml": count * voxel_ml},
        }
        for value, label, count in zip(contract["mask_values"][1:], contract["classes"], counts, strict=True)
    ]


def source_mask(task: Any, probabilities: np.ndarray, scan: Scan, values: list[int], grid: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mask of mask values on the source grid, and its affine."""
    affine, shape = grid
    classes = restored_classes(probabilities, scan.affine, affine, shape)
    if task.largest_component:
        classes = largest_components(classes, len(values))
    return np.array(values, dtype=np.uint8 if max(values) < 256 else np.uint16)[classes], affine


def device(asked: str = "auto") -> torch.device:
    """The first CUDA device, with deterministic algorithms, or the processor.

    Raises:
        StudyError: `cuda` is asked for and not there.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StudyError("finetune.device is 'cuda', and no CUDA device is here. Set device: auto or cpu, or run where a GPU is.")
    use_deterministic_algorithms(True)
    return torch.device("cuda")
