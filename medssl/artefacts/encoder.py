"""What a pre-training run writes beside its weights: the contract of the encoder, its reusable parts, the curve.

A part is a network that was trained together with the encoder: `parts.safetensors` holds its tensors as `<part>.<name>`. The
contract declares how each part is reused, so fine-tuning needs to know no objective by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from medssl.artefacts.column import Column
from medssl.artefacts.document import Document, meant
from medssl.artefacts.schema import Family, Table
from medssl.artefacts.training_images import TrainingImages, Window
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import read_json

ENCODER_FORMAT = "medssl-encoder-1"
ENCODER = "encoder"
"""In `Part.places`: the tensors of `encoder.safetensors`."""
OWN = "own"
"""The word of `finetune.<task>.encoder` for the encoder without changes."""

CURVE = Table(
    file="curve.tsv",
    folder="4_pretrain/<cohort>/<run>",
    meaning="A row per logged step; what is measured at an epoch's end alone is missing in the others.",
    columns=(
        Column("epoch", "int64", "from 0 on"),
        Column("step", "int64", "optimiser steps done"),
        Column("loss", "float64", "mean since the row before"),
        Column("lr", "float64", "learning rate"),
        Column("images_per_s", "float64", "since the row before", "1/s"),
        Column("grad_norm", "float64", "of the step; missing if it was not finite", nullable=True),
        Column("effective_rank", "float64", "of the features", "dimensions", nullable=True, optional=True),
        Column("rankme", "float64", "of the features", "dimensions", nullable=True, optional=True),
        Column("alignment", "float64", "of the features of two views", nullable=True, optional=True),
        Column("uniformity", "float64", "of the features", nullable=True, optional=True),
    ),
    others="what the objective and the health of the representation add, by name",
    unique=("step",),
)


FEATURE = "f"
"""Begins the name of the column of a feature."""
EMBEDDINGS = Table(
    file="embeddings.parquet",
    folder="4_pretrain/<cohort>/<run>",
    meaning="A row for each of some training samples, at even steps through their ids: what the finished encoder makes of it.",
    columns=(Column("sample_id", "str", "of `samples.parquet`"),),
    families=(Family(FEATURE, Column("<number>", "float32", "a feature, the mean over the deepest map")),),
    sorted_by=("sample_id",),
    unique=("sample_id",),
)


class Network(Document):
    """The arguments that build a network, so that weights fit."""

    backbone: str = meant("its plug-in")
    backbone_options: dict[str, Any] = meant("of the backbone, completed")
    spatial_dims: int = meant("2 for slices, 3 for volumes")
    in_channels: int = meant("one per window")
    input_size: list[int] = meant("of the views or patches that it was trained on", "voxels")

    @classmethod
    def of(cls, contract: Mapping[str, Any], where: str = "contract.json") -> Network:
        """The network in a contract's plain values, whatever else they hold: of an encoder, a model, or written by hand.

        Raises:
            CorruptArtefactError: a field is missing or wrong.
        """
        return Network.check({name: contract[name] for name in Network.model_fields if name in contract}, where)


class Data(Document):
    """The data that an encoder was trained on."""

    study: str = meant("name of the study")
    run: str = meant("`<cohort>/<run>`")
    num_volumes: int = meant("volumes and image sets")
    num_subjects: int = meant("patients that are known")
    num_samples: int = meant("slices and images")
    volume_ids: list[str] = meant("keyed ids, for leakage checks")
    licence: str | dict[str, str] = meant("of the data, by source")


class Part(Document):
    """A network that a run left beside its encoder, and how fine-tuning reuses it.

    A task asks for it by a word (`encoder`). Its network is then `backbone`, wrapped around the run's own, with `options`;
    `places` maps tensors to submodules. Parts with the same word are used together. Without a `backbone` the submodules are those
    of the task's network: for example, a decoder initialises that of a segmentation.
    """

    encoder: str = meant("the word of `finetune.<task>.encoder` that selects it; `own`: the encoder unchanged")
    places: dict[str, str] = meant("part, or `encoder` → the submodule that its tensors go into")
    backbone: str = meant("the backbone that wraps the encoder's own and uses it; empty: none", default="")
    inner: str = meant("that backbone's option that names the encoder's own; its options are `<inner>_options`", default="")
    spatial_dims: int | None = meant("rank of that backbone; null: the encoder's own", default=None)
    options: dict[str, Any] = meant("options of that backbone in the part's training", default={})
    required: bool = meant("whether a task needs it for this word; if not, a missing part starts at random", default=True)


class KnownOf(Document):
    """How much a column of records says of the training samples; no value of it."""

    kind: str = meant("`number` or `category`")
    known: int = meant("samples with a value")
    missing: int = meant("samples without one")


class Contract(Network):
    """`contract.json` of an encoder: what input images must look like, and where its weights come from."""

    FILE: ClassVar[str] = "contract.json"
    FOLDER: ClassVar[str] = "4_pretrain/<cohort>/<run>"
    MEANING: ClassVar[str] = "What an importer of `encoder.safetensors` needs, and nothing about a person."

    format: str = meant(f"`{ENCODER_FORMAT}`")
    medssl: str = meant("version of the program")
    num_tensors: int = meant("in `encoder.safetensors`")
    orientation: str = meant("`RAS+`")
    axes: list[str] | str = meant("order of the axes of its input")
    slice_axes: list[int] = meant("axes along which slices were cut")
    spacing_mm: list[float] | None = meant("median of the volumes; null for images", "mm")
    window: Window = meant("of the volumes")
    normalisation: str = meant("from values to inputs, in words")
    modalities: list[str] = meant("of the volumes")
    objective: str = meant("its plug-in")
    objective_options: dict[str, Any] = meant("of the objective, completed")
    init_weights: bool = meant("whether it started from given weights")
    init_run: str | None = meant("the run of the study that it continued")
    ema: float | None = meant("decay of the averaged weights; null if they are the last step's")
    data: Data = meant("what it was trained on")
    learnt: TrainingImages | None = meant(
        "what the training images were like, for comparison with new ones; absent in older contracts", default=None
    )
    spec: str = meant("hash of the job's options")
    seed: int = meant("of the run")
    parts: dict[str, Part] = meant("the content of `parts.safetensors`, by name; absent without parts", default={})
    records: dict[str, KnownOf] = meant("the columns of records that it was trained with; absent without any", default={})

    @classmethod
    def check(cls, value: Any, where: Any = "") -> Self:
        """The contract made from plain values.

        Raises:
            CorruptArtefactError: a field is missing or wrong, or parts that are used together contradict each other.
        """
        contract = super().check(value, where)
        if contract.format != ENCODER_FORMAT:
            raise CorruptArtefactError(
                f"{where or cls.FILE} is {contract.format!r}; expected {ENCODER_FORMAT!r}. Name the contract of an encoder."
            )
        for word in {part.encoder for part in contract.parts.values()}:
            taken_up(contract.parts, word)
        return contract

    def plain(self) -> dict[str, Any]:
        """The fields as plain values; without parts, or without records, their field is absent."""
        return {name: value for name, value in super().plain().items() if name not in ("parts", "records") or value}


class ExportedContract(Contract):
    """`contract.json` of a folder that `medssl export` wrote: the encoder's own, and how the other library takes its weights."""

    adapter: str = meant("the library, a file of `nn/adapters`")
    network: str = meant("the expression of Python that makes its network; of nnU-Net the command that does")
    code: str = meant("lines of Python that make the network and load the weights, run in that folder; of nnU-Net its commands")
    weights: str = meant("file of the weights, in that folder")
    weights_key: str = meant("entry of that file that holds them; empty: the file holds them alone", default="")

    @classmethod
    def read_any(cls, path: Path | str) -> Contract:
        """The contract of a run or of an exported folder, whichever it is.

        Raises:
            CorruptArtefactError: it is neither.
        """
        try:
            exported = "adapter" in read_json(path)
        except (ValueError, OSError, TypeError):
            exported = False
        return cls.read(path) if exported else Contract.read(path)


def parts_of(declared: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any], left: Iterable[str]) -> dict[str, Part]:
    """The parts that a run left, from what its objective declares (`PARTS`, a literal at the top of its file).

    Args:
        declared: by part, the fields of a `Part`; its `options` map each option of the backbone to the objective's option with
            its value: `{"heads": "attention_heads"}`.
        options: of the objective; missing ones take the backbone's default.
        left: names of the parts that the run left.

    Raises:
        CorruptArtefactError: a part that was left is not declared, or is declared wrongly.
    """
    names = sorted(left)
    unknown = [name for name in names if name not in declared]
    if unknown:
        raise CorruptArtefactError(
            f"the objective left a part {unknown[0]!r}, and its PARTS declare {', '.join(sorted(declared)) or 'none'}. "
            "Declare at the top of its file what takes it up."
        )
    found = {}
    for name in names:
        fields = dict(declared[name])
        chosen = {own: options[its] for own, its in fields.get("options", {}).items() if its in options}
        found[name] = Part.check(fields | ({"options": chosen} if "options" in fields else {}), f"PARTS[{name!r}]")
    return found


def taken_up(parts: Mapping[str, Part], encoder: str) -> Part | None:
    """The combination of all parts with the same word: one backbone, all options, all places; None without any.

    Raises:
        CorruptArtefactError: two of them name different backbones, ranks, options or places.
    """
    asked = {name: part for name, part in sorted(parts.items()) if part.encoder == encoder}
    if not asked:
        return None
    whole = next(iter(asked.values())).plain()
    for name, part in asked.items():
        own = part.plain()
        for key in ("places", "options"):
            before, after = whole.get(key, {}), own.get(key, {})
            differs = [one for one in before.keys() & after.keys() if before[one] != after[one]]
            if differs:
                raise CorruptArtefactError(f"parts {', '.join(asked)} differ in {key} {differs[0]!r}. Correct their PARTS.")
            if before or after:
                whole[key] = before | after
        for key in ("backbone", "inner", "spatial_dims"):
            if getattr(part, key) != getattr(next(iter(asked.values())), key):
                raise CorruptArtefactError(f"parts {', '.join(asked)} differ in {key}: {name} has {own.get(key)!r}.")
        whole["required"] = bool(whole.get("required", True)) or part.required
    return Part(**whole)


def lifted(network: Network, part: Part) -> Network:
    """The network that reuses a part, wrapped around the pre-trained one; its options are not completed yet.

    A 2-D network in a 3-D one sees a volume that is as deep as its slices are wide.

    Raises:
        StudyError: the network is already 3-D.
    """
    if not part.backbone:
        return network
    dims = network.spatial_dims if part.spatial_dims is None else part.spatial_dims
    if part.spatial_dims is not None and network.spatial_dims >= part.spatial_dims:
        raise StudyError(
            f"encoder: {part.encoder} makes a {dims}-D network of a 2-D one, and {network.backbone!r} is {network.spatial_dims}-D"
            " already. Set encoder: own, or start from 2-D runs."
        )
    inner = {part.inner: network.backbone, f"{part.inner}_options": network.backbone_options}
    return Network(
        backbone=part.backbone,
        backbone_options=inner | part.options,
        spatial_dims=dims,
        in_channels=network.in_channels,
        input_size=[*network.input_size, *network.input_size[-1:] * (dims - network.spatial_dims)],
    )
