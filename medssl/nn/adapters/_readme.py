"""The README.md of an exported folder: how to load the weights, and what an image must look like for them."""

from __future__ import annotations

from medssl.artefacts.encoder import ExportedContract
from medssl.artefacts.training_images import HU, PERCENTILES, RANGE, Window

COMMANDS = "nnunet"
"""The library whose `code` are commands of a shell."""
CARD = "hf"
"""The one whose README is a model card with a header for the repository."""


def readme(contract: ExportedContract) -> str:
    """The text, in Markdown."""
    shell = contract.adapter == COMMANDS
    parts = [
        f"# {contract.backbone}, pre-trained with {contract.objective}",
        f"Written by medssl {contract.medssl} from run `{contract.data.run}` of study `{contract.data.study}`: "
        f"{contract.data.num_samples} slices or images of {contract.data.num_volumes} volumes or image sets"
        f"{f' ({words})' if (words := ', '.join(contract.modalities)) else ''}. `contract.json` has every detail.",
        "## Load the weights",
        "In this folder:",
        f"```{'bash' if shell else 'python'}\n{contract.code}```",
        *(_nnunet() if shell else []),
        "## Prepare the images",
        _images(contract),
        f"```python\n{window_code(contract.window)}```",
        "## Licence",
        f"Of the training data: {_licence(contract)}. Of the weights: for the authors to state.",
    ]
    head = "---\nlibrary_name: medssl\ntags:\n- medical-imaging\n- self-supervised\n---\n\n" if contract.adapter == CARD else ""
    limits = [
        "## Use and limits",
        "Starting weights for networks that are trained and tested on labelled images, in research. This is not a medical "
        "device. How the encoder does on data from other hospitals, scanners and populations is not known.",
    ]
    return head + "\n\n".join([*parts, *(limits if contract.adapter == CARD else [])]) + "\n"


def _nnunet() -> list[str]:
    return [
        "The commands for nnssl checkpoints are in nnU-Net's repository, and not in release 2.8.1. Plan the data set first: "
        "`nnUNetv2_plan_and_preprocess -d DATASET_ID --no_pp`. FOLD is 0 to 4 or `all`.",
        "The first command writes a plan that normalises each scan by its own mean and standard deviation. The encoder never "
        "saw such values. Copy the plan as `medssl.json`, with `plans_name` medssl, `normalization_schemes` [NoNormalization] "
        "and `data_identifier` medssl; the other two commands use that copy. `transpose_forward` must be [0, 1, 2].",
        "Before all of this, turn the images and masks of `nnUNet_raw` to RAS+ (`nibabel.as_closest_canonical`) and apply the "
        "window below to the images. nnU-Net reads axes as (k, j, i): the kernels, spacing and patch size of this checkpoint are "
        "in that order.",
    ]


def _images(contract: ExportedContract) -> str:
    size = " × ".join(map(str, contract.input_size))
    rows = [
        ("orientation", f"{contract.orientation}; " + _axes(contract)),
        ("size", f"{size} {'pixels' if contract.spatial_dims == 2 else 'voxels'} in pre-training"),
        ("spacing", _spacing(contract)),
        ("channels", f"{contract.in_channels}, one for each window"),
        ("window", window_words(contract.window)),
    ]
    return "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _axes(contract: ExportedContract) -> str:
    if contract.spatial_dims == 3:
        return "axes i, j, k"
    cut = ", ".join("ijk"[axis] for axis in contract.slice_axes)
    return f"slices across {cut}" if cut else "single images"


def _spacing(contract: ExportedContract) -> str:
    if contract.spacing_mm is None:
        return "not known (pictures)"
    return " × ".join(f"{size:.3g}" for size in contract.spacing_mm) + " mm along i, j, k (median of the training volumes)"


def window_words(window: Window) -> str:
    """Which values are seen as 0 and 1."""
    kinds = {
        HU: f"CT: {_span(window)} HU" if window.fixed else "CT: several windows; see the study",
        PERCENTILES: f"MR and others: percentiles {window.percentiles} of each volume's values above its least one",
        RANGE: "pictures: the whole range of their type",
    }
    return "; ".join(kinds[rule] for rule in window.rules) or _span(window)


def _span(window: Window) -> str:
    low, high = window.fixed or ([], [])
    return ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True)) or "of each volume its own"


def window_code(window: Window) -> str:
    """Lines that bring an array `values` (HU of CT) to what the network sees, a channel for each window."""
    lines = ["import numpy as np", ""]
    if window.fixed:
        low, high = window.fixed
        lines.append(f"low, high = np.array({low}), np.array({high})  # of each channel")
    elif window.percentiles:
        lines.append("above = values[values > values.min()]")
        lines.append(f'low, high = np.percentile(above, {window.percentiles}, method="inverted_cdf").reshape(2, 1)')
    else:
        lines.append("low, high = ...  # of each volume its own: see contract.json")
    lines.append("seen = np.stack([((values - a) / (b - a)).clip(0, 1) for a, b in zip(low, high)])  # (channel, *values.shape)")
    return "\n".join(lines) + "\n"


def _licence(contract: ExportedContract) -> str:
    licence = contract.data.licence
    return (
        licence if isinstance(licence, str) else "; ".join(f"{source}: {text}" for source, text in licence.items()) or "not given"
    )
