"""A fine-tuned network as ONNX, compared with torch: images in, probabilities of the classes or numbers out."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medssl.core.errors import StudyError
from medssl.core.files import refuse_existing, write_json, write_text, writing_folder
from medssl.finetune.predicting import Model
from medssl.nn.adapters._readme import window_code, window_words

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
PARITY = 1e-4
"""Largest difference of a probability from torch's, or of a number above 1 relative to it."""
CHECKED_IMAGES = 3
OF_CLASSES = ("classes", "masks")
"""Kinds of predictions whose network gives logits of classes."""


def export_onnx(model: Path, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write a fine-tuned model (its folder) as `model.onnx`, with contract and README.md beside it; returns the files.

    Raises:
        StudyError: no fine-tuned model is there, a package is missing, or the file would not answer as torch does. Or `out`
            holds files of these names and `overwrite` is off, or is the model itself.
    """
    fitted = Model.open(model)
    if out.resolve() == model.resolve():
        raise StudyError(f"{out} is the model itself, which stays as it is. Name another folder with --out.")
    files = [out / name for name in ("model.onnx", "contract.json", "README.md")]
    refuse_existing(files, overwrite=overwrite)
    written, difference = onnx_model(fitted)
    with writing_folder(out, overwrite=overwrite) as folder:
        (folder / files[0].name).write_bytes(written)
        write_json(folder / files[1].name, fitted.contract | {"adapter": "onnx"})
        write_text(folder / files[2].name, onnx_readme(fitted, difference))
    return files


class Answers(nn.Module):
    """A network with what makes probabilities of its logits `(n, classes, …)`; outputs of other kinds `(n, 1)` stay.

    name: of the output: `probabilities`, or what the task predicts.
    """

    def __init__(self, network: nn.Module, *, predicts: str, multilabel: bool) -> None:
        super().__init__()
        self.network, self.multilabel = network, multilabel
        self.name = "probabilities" if predicts in OF_CLASSES else predicts

    @classmethod
    def of(cls, model: Model) -> Answers:
        """Those of a fine-tuned model, on the processor."""
        multilabel = bool(getattr(model.task, "multilabel", False))
        return cls(model.network, predicts=model.plugin.constant("PREDICTS"), multilabel=multilabel).cpu().eval()

    def forward(self, images: Tensor) -> Tensor:
        """Of images `(n, c, *size)` in [0, 1]."""
        outputs: Tensor = self.network(images)
        if self.name != "probabilities":
            return outputs
        return outputs.sigmoid() if self.multilabel else outputs.softmax(dim=1)


def onnx_model(model: Model) -> tuple[bytes, float]:
    """The bytes of the file, and the largest difference from torch over images that were drawn.

    Raises:
        StudyError: the packages of the extra `onnx` are missing, torch cannot export the network, or the two differ.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise StudyError(f"ONNX needs packages that are not here ({', '.join(missing)}): pip install {' '.join(missing)}.")
    network = Answers.of(model)
    shape = (model.expected.in_channels, *model.expected.size)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((CHECKED_IMAGES, *shape), generator=generator)
    written = exported(network, images)
    return written, checked(written, network, images)


def exported(network: Answers, images: Tensor) -> bytes:
    """The bytes of a network, for any number of images.

    Raises:
        StudyError: torch cannot export it.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names libraries that are neither here nor needed
    try:
        program: Any = torch.onnx.export(
            network,
            (images[:2],),
            input_names=["images"],
            output_names=[network.name],
            dynamic_shapes={"images": {0: torch.export.Dim("n")}},
            dynamo=True,
            verbose=False,
        )
        written: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # torch raises what it likes for what it cannot export
        raise StudyError(f"torch cannot export this network as ONNX ({type(error).__name__}). Use its safetensors.") from error
    return written


def checked(written: bytes, network: nn.Module, images: Tensor) -> float:
    """The largest difference of a file's answers from those of a network.

    Raises:
        StudyError: it is not below `PARITY`.
    """
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        expected = network(images).numpy()
    difference = float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())
    if not difference < PARITY:
        raise StudyError(
            f"the ONNX file differs from torch by {difference:.2g} in an answer; expected less than {PARITY:g}. It was not "
            "written. Use model.safetensors."
        )
    return difference


def onnx_readme(model: Model, difference: float) -> str:
    """The README.md beside the file."""
    contract, expected = model.contract, model.expected
    masks = contract.get("mask_values")
    size = ", ".join(map(str, expected.size))
    name = Answers.of(model).name
    names = ["background", *contract["classes"]] if masks else contract["classes"] or [name]
    out = f"(n, {len(masks)}, {size})" if masks else f"(n, {len(names)})"
    parts = [
        f"# {contract['backbone']}, fine-tuned for {model.plugin.constant('TITLE')}",
        f"`model.onnx` takes one or more `images` (n, {expected.in_channels}, {size}), float32 in [0, 1], and gives `{name}` "
        f"{out}: "
        f"{', '.join(names)}. It differs from torch by at most {difference:.1g} over {CHECKED_IMAGES} images that were drawn.",
        "```python\nimport onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("model.onnx")\n'
        f'{name} = session.run(None, {{"images": images}})[0]\n```',
        "## Prepare the images",
        f"Orientation {contract['orientation']}. Window: {window_words(model.window)}. `contract.json` has the rest.",
        f"```python\n{window_code(model.window)}```",
    ]
    if masks:
        parts += [
            "## Whole scans",
            "The network sees windows of this size. `medssl predict` lets them overlap, weights them by a Gaussian, takes the "
            f"likeliest class and gives it its mask value: {', '.join(map(str, masks))}.",
        ]
    return "\n\n".join(parts) + "\n"
