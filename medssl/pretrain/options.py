"""Options of stage pretrain: how an encoder is trained without labels."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medssl.core import plugins
from medssl.core.bounds import Count, Distinct, Fold, Fraction, OneOrMore, Part, Positive, Weight, Whole
from medssl.core.options import Backbone, Objective, Options
from medssl.core.record_table import Kind
from medssl.core.written import PathText
from medssl.nn.backbone_outline import has, in_words, misfit, patch_of, whole_patches
from medssl.nn.options import EngineOptions, PlaceOptions, ViewOptions
from medssl.pretrain import outlines


class TrainingOptions(EngineOptions, PlaceOptions):
    """How one encoder is trained: everything its weights depend on besides its data and its seed."""

    objective: Objective = "simclr"  # type: ignore[assignment]
    """The pretext task."""
    backbone: Backbone = "resnet18"  # type: ignore[assignment]
    """The network."""
    init_weights: PathText | None = None
    """A .safetensors file to start from."""
    init_run: str | None = None
    """Another run of the study, at the same arm and seed, whose encoder and parts (a decoder) this one continues."""
    spatial_dims: Literal[2, 3] = 2
    """Slices, or patches of volumes."""
    size: list[Count] = [224]
    """Size of a view in pixels or voxels: one number, or one for each dimension."""
    patch_margin: Annotated[float, Field(ge=1)] = 1.5
    """In 3-D, patches of this times `size` are read around each kept slice, and crops are taken inside."""
    views: ViewOptions = ViewOptions()
    """How two views of one image may differ."""
    epochs: Count = 100
    """Length in passes over the kept samples."""
    max_steps: Count | None = None
    """Length in steps, whatever the epochs, so that arms of different size see equally many views."""
    batch_size: Count = 64
    """Samples of one optimiser step over all devices."""
    accumulate: Count = 1
    """Number of parts in which a batch is computed; the loss stays that of the whole batch."""
    optimizer: Literal["adamw", "adam", "sgd", "lars", "lamb"] = "adamw"
    """The optimiser; `adam` adds the weight decay to the gradient, `adamw` subtracts it from the weights."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    layer_decay: Fraction = 1.0
    """Factor of the learning rate from each block of the backbone to the one below it, in a run that continues from weights."""
    stem_lr_frac: Fraction = 1.0
    """Share of that rate for what comes before the first block, such as the layer of patches; likewise."""
    final_lr_frac: Part = 0.0
    """Share of the peak at which the learning rate ends."""
    warmup_frac: Fold = 0.1
    """Share of the steps in which the learning rate rises to its peak."""
    momentum: Fold = 0.9
    """Momentum, or the first decay rate of Adam and LAMB."""
    beta2: Fold = 0.999
    """Second decay rate of Adam and LAMB."""
    weight_decay: Weight = 1e-4
    """Weight decay."""
    final_weight_decay: Weight | None = None
    """Weight decay at the end; null keeps it constant."""
    decay_norm_and_bias: bool = False
    """Apply weight decay to norms and biases too."""
    activation_checkpointing: bool = False
    """Recompute the maps inside the backbone's stages in the backward pass, which needs less memory and more time."""
    devices: Count = 1
    """Devices of one node."""
    nodes: Count = 1
    """Nodes of one run."""
    stop_before_deadline_s: Weight = 120.0
    """Seconds before the end of a SLURM job at which the run saves and stops."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What happens if the representation has collapsed."""

    @property
    def full_size(self) -> tuple[int, ...]:
        """The views' size, one number per dimension."""
        return tuple(self.size) * (self.spatial_dims if len(self.size) == 1 else 1)

    @field_validator("size")
    @classmethod
    def _sizes(cls, size: list[int], info: Any) -> list[int]:
        dims = info.data.get("spatial_dims")
        if dims is not None and len(size) not in (1, dims):
            raise ValueError(
                f"size {size} has {len(size)} numbers, and the network is {dims}-D (spatial_dims); expected one number, or {dims}"
            )
        return size

    @model_validator(mode="after")
    def _equal_parts(self) -> TrainingOptions:
        parts = self.accumulate * self.devices * self.nodes
        asked = {"accumulate": self.accumulate, "devices": self.devices, "nodes": self.nodes}
        why = " × ".join(f"{name} {count}" for name, count in asked.items() if count > 1)
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be computed in {parts} equal parts ({why}). Set it to a multiple of {parts}"
            )
        if self.batch_size < 2 * parts:
            among = f"in {parts} parts ({why}) leaves one sample for a part, and each" if why else "is one sample, and a step"
            raise ValueError(f"batch_size {self.batch_size} {among} needs two. Set batch_size to {2 * parts} or more")
        return self

    @model_validator(mode="after")
    def _compiles(self) -> TrainingOptions:
        why = plugins.find("objective", self.objective.name).constant("NOT_COMPILED", default=None) if self.compile else None
        if why is not None:
            raise ValueError(f"compile: true is not for the objective {self.objective.name}: {why} Set compile: false")
        return self

    @model_validator(mode="after")
    def _fitting_backbone(self) -> TrainingOptions:
        need = plugins.find("objective", self.objective.name).constant("NEEDS", default=None)
        if need is not None and not plugins.find("backbone", self.backbone.name).constant(need, default=False):
            fitting = [plugin.name for plugin in plugins.all_of("backbone") if plugin.constant(need, default=False)]
            raise ValueError(
                f"the objective {self.objective.name} needs another backbone than {self.backbone.name}: {' or '.join(fitting)}"
            )
        return self

    @model_validator(mode="after")
    def _possible_backbone(self) -> TrainingOptions:
        if why := misfit(self.backbone, self.spatial_dims):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _backbone_with_its_maps(self) -> TrainingOptions:
        for literal, why in plugins.find("objective", self.objective.name).constant("REFUSES", default={}).items():
            if has(self.backbone, literal):
                raise ValueError(f"the objective {self.objective.name} is not for the backbone {in_words(self.backbone)}: {why}")
        return self

    @model_validator(mode="after")
    def _backbone_of_options(self) -> TrainingOptions:
        for option, (need, why) in plugins.find("objective", self.objective.name).constant("NEEDS_WITH", default={}).items():
            fitting = [plugin.name for plugin in plugins.all_of("backbone") if plugin.constant(need, default=False)]
            if self.objective.options[option] and self.backbone.name not in fitting:
                raise ValueError(
                    f"{option} of the objective {self.objective.name} needs the backbone {' or '.join(fitting)}, got "
                    f"{self.backbone.name}: {why}. Change the backbone, or set {option}: 0"
                )
        return self

    @model_validator(mode="after")
    def _room_for_others(self) -> TrainingOptions:
        name, given = self.objective.name, self.objective.options
        for option, others in plugins.find("objective", name).constant("AT_LEAST", default={}).items():
            for other, times in others.items():
                value = given[other] if other in given else getattr(self, other)
                if value is not None and given[option] < times * value:
                    raise ValueError(
                        f"{option} of the objective {name} is {given[option]}, and must be {times * value} or more: {times} × "
                        f"{other} {value}. Raise {option}, or lower {other}"
                    )
        return self

    @model_validator(mode="after")
    def _whole_patches(self) -> TrainingOptions:
        nearest = whole_patches(self.backbone, self.spatial_dims, self.size)
        if nearest != list(self.size):
            raise ValueError(
                f"size {self.size} cuts the patches of the backbone {in_words(self.backbone)}, which have "
                f"{patch_of(self.backbone, self.spatial_dims)} pixels. The nearest size that does not: {nearest}. "
                "Change size, or the option patch of the backbone"
            )
        return self

    @model_validator(mode="after")
    def _possible_objective(self) -> TrainingOptions:
        if why := outlines.misfit(self.objective, self.backbone, self.full_size, self.max_steps):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _one_beginning(self) -> TrainingOptions:
        if self.init_weights is not None and self.init_run is not None:
            raise ValueError("one beginning at a time: init_weights and init_run are both set")
        return self

    @model_validator(mode="after")
    def _continues_somewhere(self) -> TrainingOptions:
        if (self.layer_decay, self.stem_lr_frac) != (1.0, 1.0) and self.init_weights is None and self.init_run is None:
            raise ValueError(
                f"layer_decay {self.layer_decay:g} and stem_lr_frac {self.stem_lr_frac:g} are for a run that continues from "
                "weights, and this one begins at random. Set both to 1, or give init_weights or init_run"
            )
        return self


def records_of(options: TrainingOptions) -> list[str]:
    """The columns of records that a run's objective reads: the names in its `RECORD_OPTIONS`."""
    return list(dict.fromkeys(column for _, column, _ in record_kinds_asked(options)))


def record_kinds_asked(options: TrainingOptions) -> list[tuple[str, str, Kind | None]]:
    """`(option, column, kind)` of each column of records that an objective reads; kind: what the column must hold, None for any.

    An objective declares it by option: `any`, `number`, `category`, or `width`: a category if the column's width is 0.
    """
    found: list[tuple[str, str, Kind | None]] = []
    for name, declared in plugins.find("objective", options.objective.name).constant("RECORD_OPTIONS", default={}).items():
        columns = options.objective.options[name]
        for column in columns:
            kind: Any = declared if declared != "width" else ("number" if columns[column] > 0 else "category")
            found.append((name, column, None if kind == "any" else kind))
    return found


LoggerName = Literal["wandb", "mlflow"]
DISTRIBUTIONS: dict[LoggerName, str] = {"wandb": "wandb", "mlflow": "mlflow-skinny"}
"""The package to install for each."""


class WatchOptions(Options):
    """Options for watching a run; no result depends on them, so changing them repeats no training."""

    tensorboard: bool = True
    """Write TensorBoard event files to `events/`."""
    loggers: Distinct[LoggerName] = []
    """Weights & Biases (`wandb`) or MLflow (`mlflow`) get the curve too: offline, in `events/`."""


def not_installed(loggers: list[LoggerName]) -> list[str]:
    """A sentence for each logger whose package is missing; no package is imported."""
    missing = [name for name in loggers if find_spec(name) is None]
    return [f"{name} is not installed. Run `pip install {DISTRIBUTIONS[name]}`, or take it off the list" for name in missing]


class PretrainOptions(TrainingOptions, WatchOptions):
    """One pre-training run per arm and seed."""

    cohort: str | None = None
    """The cohort to train on; by default the study's first source."""
    arms: OneOrMore[str] | None = None
    """Reduction arms, a run each; by default the study's first arm."""
    seeds: OneOrMore[Whole] = [0]
    """Seeds of weights, order and views, a run each."""


class RunOptions(TrainingOptions):
    """The options of one job of the stage: the training of one arm with one seed."""

    seed: Whole
    """Seed of weights, order and views."""
    licences: dict[str, str] = {}
    """Licence of the data by source, for the contract."""
