"""Options of stage finetune: which labels, from which starting weights, with how many of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from medssl.artefacts.encoder import OWN
from medssl.core import plugins
from medssl.core.bounds import Count, Distinct, Fold, Fraction, OneOrMore, Whole
from medssl.core.errors import StudyError, did_you_mean
from medssl.core.options import Backbone, Name, Options, PluginChoice, choice_of
from medssl.core.plugins import Plugin
from medssl.core.written import PathText, in_yaml
from medssl.finetune.recipe import Recipe
from medssl.nn.backbone_outline import in_words, patch_of
from medssl.nn.options import PlaceOptions

DEFAULT_BACKBONE = "resnet18"
"""The network of scratch if neither the task nor a run names one."""
DEFAULT_SIZE = [64]
"""The size of its images if neither says one."""
INFLATED = "inflated"
"""The word of `encoder` for a 2-D network with its kernels inflated for volumes."""
NEW_IMAGES = {
    "ingest": ("tilt", "uneven", "derived", "no_space", "offset_hu", "modality", "min_slices"),
    "prepare": ("window_hu", "percentiles", "spacing_mm", "slice_axis"),
}
"""By stage, the options that new images must share."""


class FinetuneOptions(Recipe, PlaceOptions):
    """One downstream task. Everything but the starting weights is one recipe, equal for every starting point."""

    task: str = "classification"
    """The kind of task."""
    source: str
    """The source whose labels are used."""
    options: dict[str, Any] = {}
    """The task's own options."""
    inits: Distinct[str] | None = None
    """Pre-trainings to start from; by default all of the study."""
    encoder: str = OWN
    """The network to start from: `own`, the pre-trained one; `inflated`, a 2-D one with its kernels inflated for volumes; or one
    in a
    wrapping backbone: `volume`, slices with a transformer between them; `common`, `salient`, one of two spaces.
    """
    scratch: bool = True
    """Also start from random weights: the control."""
    weights: dict[Name, PathText] = {}
    """Additional starting points: .safetensors files by name."""
    backbone: Backbone | None = None
    """The network of scratch and of given weights; by default that of the first run."""
    modes: OneOrMore[str] = Field(default_factory=list)
    """How a start is used; by default the task's own."""
    fractions: Distinct[Fraction] = [0.05, 0.1, 0.25, 1.0]
    """Shares of the training patients whose labels are used."""
    counts: Distinct[Count] = []
    """Numbers of training patients whose labels are used."""
    counts_per_class: Distinct[Count] = []
    """Numbers of training patients of each class whose labels are used, for a classification."""
    label_order: Literal["drawn", "listed"] = "drawn"
    """The order in which training patients enter the subsets: drawn for each seed, evenly over classes; or that of the column
    `order` of `prepare.split.file`, the same for all seeds.
    """
    seeds: OneOrMore[Whole] = [0, 1, 2]
    """Seeds of label subsets, order and head, a fit each."""
    pair_seeds: bool = False
    """Fine-tune a run with pre-training seed 1 only with seed 1, and so on; scratch and given weights with every seed."""
    size: list[Count] | None = Field(default=None, min_length=1, max_length=3)
    """Size of an image or patch; by default that of the pre-training."""
    parallel: Literal["auto"] | Count = "auto"
    """Fits that run in parallel, with equal results; `auto`: as many as the job has threads for, or a GPU memory."""
    threads_per_fit: Count = 1
    """Threads of a fit on processors. More threads make few fits faster, and change the last bits of results."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """The task's own options, modes and length, completed with its defaults."""
        if not isinstance(values, dict):
            return values
        task = values.get("task", "classification")
        if not isinstance(task, str):
            raise ValueError(f"write the task as its name, got {in_yaml(task)}")
        try:
            plugin = plugins.find("task", task)
        except StudyError as error:
            raise ValueError(str(error)) from None
        options = values.get("options") or {}
        if isinstance(options, dict):
            options = choice_of("task", {plugin.name: options}).options
        modes = plugin.constant("DEFAULT_MODES") if values.get("modes") is None else values["modes"]
        length = {} if values.get("max_steps") or values.get("epochs") else {"max_steps": plugin.constant("DEFAULT_STEPS")}
        usual, augment = plugin.constant("DEFAULT_AUGMENT", default={}), values.get("augment", True)
        if augment is True or isinstance(augment, dict):
            augment = {**usual, **({} if augment is True else augment)}
        return {**values, "options": options, "modes": modes, "augment": augment, **length}

    @field_validator("modes", mode="after")
    @classmethod
    def _beside(cls, modes: list[str], info: ValidationInfo) -> list[str]:
        """The modes, and beside each transductive one the mode that predicts each case by itself."""
        twins = plugins.find("task", info.data["task"]).constant("TRANSDUCTIVE", default={})
        return [*dict.fromkeys([*modes, *(twins[mode] for mode in modes if mode in twins)])]

    @model_validator(mode="after")
    def _known_modes(self) -> FinetuneOptions:
        plugin = plugins.find("task", self.task)
        known = plugin.constant("MODES")
        for mode in self.modes:
            if mode not in known:
                having = [other.name for other in plugins.all_of("task") if mode in other.constant("MODES")]
                hint = f" It is a mode of {' and '.join(having)}." if having else did_you_mean(mode, known)
                raise ValueError(f"task {self.task!r} has no mode {mode!r}.{hint}")
            for option, why in plugin.constant("MODE_REFUSES", default={}).get(mode, {}).items():
                if self.options.get(option):
                    raise ValueError(f"mode {mode!r} excludes the option {option}, as {why}. Take the mode off modes")
        return self

    @model_validator(mode="after")
    def _refused_by_the_task(self) -> FinetuneOptions:
        plugin = plugins.find("task", self.task)
        for name, why in plugin.constant("REFUSES", default={}).items():
            if getattr(self, name):
                raise ValueError(f"{name}: task {self.task!r} cannot have it: {why}. Leave {name} out")
        if self.counts_per_class and (predicts := plugin.constant("PREDICTS")) != "classes":
            raise ValueError(
                f"counts_per_class: task {self.task!r} predicts {predicts}, so its cases are not of one class each. Write "
                "counts, which are numbers of patients"
            )
        if self.counts_per_class and self.options.get("multilabel"):
            raise ValueError(
                "counts_per_class: with multilabel a case has several classes or none, and cases without any would never be "
                "chosen. Write counts, which are numbers of patients"
            )
        return self

    @model_validator(mode="after")
    def _some_gates(self) -> FinetuneOptions:
        if self.bottleneck is None:
            return self
        gated = {plugin.name: plugin.constant("GATED", default=None) for plugin in plugins.all_of("task")}
        if not gated[self.task]:
            having = " or ".join(name for name, reads in gated.items() if reads)
            why = "its price is in nats per case, and so is only the loss of some tasks"
            raise ValueError(f"bottleneck: task {self.task!r} cannot have it: {why} ({having}). Leave bottleneck out")
        if others := [mode for mode in self.modes if mode != "full"]:
            text = f"bottleneck is for mode 'full' alone, got [{', '.join(self.modes)}]. Set modes: [full]"
            raise ValueError(f"modes: {text}, and make a second task without bottleneck for {' and '.join(others)}")
        if gated[self.task] == "last" and (why := self.bottleneck.misfit(1)):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _some_labels(self) -> FinetuneOptions:
        if not self.fractions and not self.counts and not self.counts_per_class:
            raise ValueError(
                "fractions, counts and counts_per_class are all empty; expected at least 1 share of the labels in one of them"
            )
        return self

    @model_validator(mode="after")
    def _known_encoder(self) -> FinetuneOptions:
        if self.encoder not in encoders():
            raise ValueError(f"there is no encoder {self.encoder!r}.{did_you_mean(self.encoder, encoders())}")
        return self

    def plugins(self) -> Iterator[Plugin]:
        """The task, and the backbone that wraps the pre-trained one."""
        yield from super().plugins()
        yield from plugins.with_used("task", self.task, self.options)
        if wrapper := wrapper_of(self.encoder):
            yield plugins.find("backbone", wrapper)  # around the networks of the starts, which are in their own options


class StartOptions(Options):
    """A pre-training run that a task starts from."""

    run: str
    """Its name, with arm and seed."""
    backbone: Backbone
    """Its network."""


class TaskOptions(FinetuneOptions):
    """The options of one job of the stage: the task, and the networks of the runs that it starts from."""

    starts: list[StartOptions] = []
    """The runs."""
    val_frac: Fold = 0.1
    """Share of the patients outside a fold that is its validation part, if the source has folds."""
    ingest: dict[str, Any] | None = None
    """How the source is ingested, for the same treatment of new images; null if unknown."""
    prepare: dict[str, Any] | None = None
    """How it is prepared, likewise."""

    def plugins(self) -> Iterator[Plugin]:
        """Those of the task, and the network of scratch if none is named."""
        yield from super().plugins()
        if self.backbone is None and not self.starts:
            yield plugins.find("backbone", DEFAULT_BACKBONE)


def concerning_new_images(stage: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of ingest or prepare that new images must share."""
    return {name: value for name, value in options.items() if name in NEW_IMAGES[stage]}


def encoders() -> list[str]:
    """The values of `encoder`: two words of the stage, and those that wrapping backbones declare."""
    return [OWN, INFLATED, *(word for words in _wrappers().values() for word in words)]


def wrapper_of(encoder: str) -> str | None:
    """The backbone that wraps the pre-trained one for a word of `encoder`; None if none does."""
    return next((name for name, words in _wrappers().items() if encoder in words), None)


def no_inflation(backbone: PluginChoice) -> str:
    """Why a 2-D backbone cannot be inflated; empty if it can."""
    if not patch_of(backbone, 2):
        return ""
    return f"kernels are repeated along the third axis, and the positions of the patches of {in_words(backbone)} have none"


def _wrappers() -> dict[str, list[str]]:
    """By backbone, the words of `encoder` that select it (`LIFTS` of its file)."""
    found = {name: plugins.find("backbone", name).constant("LIFTS", default=[]) for name in plugins.names("backbone")}
    return {name: words for name, words in found.items() if words}
