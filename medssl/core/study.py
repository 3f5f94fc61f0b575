"""The study file: typed, checked before any work, resolved into one small JSON spec per job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from medssl.core import plugins
from medssl.core.bounds import Count, Fold, Fraction
from medssl.core.errors import StudyError, did_you_mean

CONTROLS = ("all", "every_n", "random_n")


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name: use small letters, digits and _ (it becomes a folder and a rule)")
    return name


def _check_window(window: tuple[float, float]) -> tuple[float, float]:
    if not window[0] < window[1]:
        raise ValueError(f"a window is [low, high]: the first number must be below the second, got {list(window)}")
    return window


Name = Annotated[str, AfterValidator(_check_name)]
Window = Annotated[tuple[float, float], AfterValidator(_check_window)]


class Settings(BaseModel):
    """Base of all sections: unknown keys are refused, values are frozen and checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class PluginChoice(Settings):
    """`simclr`, or `{simclr: {temperature: 0.1}}`: a file of a plug-in folder and its options, completed with defaults."""

    name: str
    options: dict[str, Any] = {}


def _parse_choice(kind: str) -> Callable[[Any], PluginChoice]:
    def parse(value: Any) -> PluginChoice:
        if isinstance(value, PluginChoice):
            return value
        if isinstance(value, str):
            name, options = value, {}
        elif isinstance(value, dict) and set(value) == {"name", "options"}:
            name, options = value["name"], value["options"]
        elif isinstance(value, dict) and len(value) == 1:
            name, options = next(iter(value.items()))
        else:
            raise ValueError(f"write a {kind} as its name, or as {{name: {{option: value}}}}")
        try:
            plugin = plugins.find(kind, name)
        except StudyError as error:
            raise ValueError(str(error)) from None
        try:
            return PluginChoice(name=name, options=plugin.check(options or {}))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                raise ValueError(
                    f"{kind} {name!r} has no option {key!r}.{did_you_mean(key, plugin.options.model_fields)}"
                ) from None
            raise ValueError(f"{kind} {name!r}, option {key!r}: {first['msg']}, got {first['input']!r}") from None

    return parse


Reducer = Annotated[PluginChoice, BeforeValidator(_parse_choice("reducer"))]
Objective = Annotated[PluginChoice, BeforeValidator(_parse_choice("objective"))]
Backbone = Annotated[PluginChoice, BeforeValidator(_parse_choice("backbone"))]
Metric = Annotated[PluginChoice, BeforeValidator(_parse_choice("metric"))]


class IngestSettings(Settings):
    """What is accepted from a source, and how."""

    tilt: Literal["resample", "refuse"] = "resample"
    uneven: Literal["resample", "refuse"] = "refuse"
    derived: Literal["refuse", "accept"] = "refuse"
    no_space: Literal["refuse", "pixdim"] = "refuse"
    modality: Literal["auto", "CT", "MR", "PT", "OT"] = "auto"
    masks: str | None = None
    subject_pattern: str | None = None
    skip: list[str] = []
    min_slices: Count = 3
    max_refused_frac: Fraction = 1.0
    shards: Count = 1


class SplitSettings(Settings):
    """Shares of subjects kept for validation and test; `file` (TSV: subject or image id, split) overrides."""

    val_frac: Fold = 0.1
    test_frac: Fold = 0.1
    file: str | None = None

    @model_validator(mode="after")
    def _train_is_left(self) -> SplitSettings:
        if self.val_frac + self.test_frac >= 1:
            raise ValueError(f"val_frac {self.val_frac} and test_frac {self.test_frac} leave nothing to train on")
        return self


class PrepareSettings(Settings):
    """What the network sees: windows (HU for CT, percentiles elsewhere), spacing, slices, split, cache."""

    window_hu: list[Window] = Field(default=[(-1000.0, 1000.0)], min_length=1)
    percentiles: tuple[float, float] = (0.5, 99.5)
    spacing_mm: list[float | None] | None = None
    slice_axis: Literal["auto", "i", "j", "k"] = "auto"
    cache: Literal["memmap", "blosc2"] = "memmap"
    split: SplitSettings = SplitSettings()

    @field_validator("window_hu")
    @classmethod
    def _windows(cls, window_hu: list[tuple[float, float]]) -> list[tuple[float, float]]:
        for low, high in window_hu:
            if not low < high:
                raise ValueError(f"window [{low}, {high}]: the first number must be below the second")
        return window_hu

    @field_validator("spacing_mm")
    @classmethod
    def _spacing(cls, spacing_mm: list[float | None] | None) -> list[float | None] | None:
        if spacing_mm is not None and len(spacing_mm) != 3:
            raise ValueError("takes three numbers (null keeps an axis), or null")
        if any(step is not None and not 0 < step < float("inf") for step in spacing_mm or []):
            raise ValueError(f"{spacing_mm}: every number is a distance above 0, in mm")
        return spacing_mm

    @field_validator("percentiles")
    @classmethod
    def _percentiles(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(f"{list(percentiles)}: two ascending numbers from 0 to 100")
        return percentiles


class SourceSettings(Settings):
    """A folder of DICOM, NIfTI or images, or an NPZ image set; may override sections for itself.

    `labels`: a CSV or TSV of id and label, a folder of masks, or `folders`. `groups`: columns of that table for subgroups.
    `licence`: of the data, for the contract of encoders that learn from it.
    """

    path: str
    labels: str | None = None
    groups: list[str] = []
    licence: str | None = None
    ingest: dict[str, Any] = {}
    prepare: dict[str, Any] = {}


class ArmSettings(Settings):
    """One way of reducing a cohort; the reducer bears the arm's name unless stated."""

    reducer: Reducer | None = None
    traversal: Literal["greedy", "cover", "global", "balanced"] = "greedy"
    threshold: Annotated[float, Field(ge=0)] | None = None
    keep_frac: Fraction | None = None
    match: str | None = None
    encoder: str | None = None
    """For `embedding`: a pre-training run of the study (`simclr-all-seed0`) or a .safetensors file."""

    @model_validator(mode="after")
    def _one_budget(self) -> ArmSettings:
        given = [k for k in ("threshold", "keep_frac", "match") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"one budget at a time: {' and '.join(given)} are both set")
        return self


class ReduceSettings(Settings):
    """The arms to compare; `controls` adds `all`, `every_n` and `random_n`, the last two at the first arm's count."""

    arms: dict[Name, ArmSettings] = Field(default_factory=lambda: {"hash": ArmSettings()}, min_length=1)
    controls: bool = True
    leakage: Literal["exclude", "stop", "report"] = "exclude"

    def with_controls(self) -> dict[str, ArmSettings]:
        """All arms in order: the study's, then the controls that it does not define itself."""
        first = next((name for name in self.arms if name not in CONTROLS), next(iter(self.arms)))
        added = {} if not self.controls else {name: ArmSettings(match=None if name == "all" else first) for name in CONTROLS}
        return {**self.arms, **{name: arm for name, arm in added.items() if name not in self.arms}}


class ViewSettings(Settings):
    """What may vary between two views of one image. Flips only where anatomy allows: `flip: {CT: [i]}` names axes by modality."""

    scale: tuple[Fraction, Fraction] = (0.2, 1.0)
    ratio: Annotated[float, Field(ge=1)] = 1.33
    flip: dict[str, list[Literal["i", "j", "k"]]] = {}
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 15.0
    elastic_frac: Fold = 0.0
    window_jitter: Fold = 0.2
    gamma: Annotated[float, Field(ge=1)] = 1.5
    blur_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    blur_sigma_frac: Fold = 0.01
    noise: Fold = 0.05
    cutout_prob: Annotated[float, Field(ge=0, le=1)] = 0.0
    cutout_frac: Fraction = 0.25

    @model_validator(mode="after")
    def _scale_order(self) -> ViewSettings:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"views.scale {list(self.scale)}: the first share must not be above the second")
        return self

    def unmoved(self) -> ViewSettings:
        """Only intensities vary: every view shows the whole image."""
        return self.model_copy(update={"scale": (1.0, 1.0), "ratio": 1.0, "rotation_deg": 0.0, "elastic_frac": 0.0, "flip": {}})

    @classmethod
    def still(cls) -> ViewSettings:
        """Nothing varies: the whole image, as it is."""
        return cls(scale=(1.0, 1.0), ratio=1.0, rotation_deg=0, window_jitter=0, gamma=1, blur_prob=0, noise=0)


class PretrainSettings(Settings):
    """One pre-training run per arm and seed."""

    objective: Objective = "simclr"  # type: ignore[assignment]
    backbone: Backbone = "resnet18"  # type: ignore[assignment]
    cohort: str | None = None
    arms: list[str] | None = None
    seeds: list[int] = [0]
    init_weights: str | None = None
    init_run: str | None = None
    """Another run of the study, at the same arm and seed, whose encoder and parts (a decoder) this one goes on from."""
    spatial_dims: Literal[2, 3] = 2
    size: list[Count] = [224]
    patch_margin: Annotated[float, Field(ge=1)] = 1.5
    views: ViewSettings = ViewSettings()
    epochs: Count = 100
    max_steps: Count | None = None
    batch_size: Count = 64
    accumulate: Count = 1
    optimizer: Literal["adamw", "sgd", "lars", "lamb"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    final_lr_frac: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup_frac: Fold = 0.1
    momentum: Fold = 0.9
    beta2: Fold = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    final_weight_decay: Annotated[float, Field(ge=0)] | None = None
    decay_norm_and_bias: bool = False
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    workers: Annotated[int, Field(ge=0)] = 0
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 60.0
    stop_before_deadline_s: Annotated[float, Field(ge=0)] = 120.0
    on_collapse: Literal["warn", "stop"] = "warn"
    tensorboard: bool = True

    @model_validator(mode="after")
    def _sizes(self) -> PretrainSettings:
        if len(self.size) not in (1, self.spatial_dims):
            raise ValueError(f"size takes one number or {self.spatial_dims} (spatial_dims), got {len(self.size)}")
        return self

    @model_validator(mode="after")
    def _one_beginning(self) -> PretrainSettings:
        if self.init_weights is not None and self.init_run is not None:
            raise ValueError("one beginning at a time: init_weights and init_run are both set")
        return self


class FinetuneSettings(Settings):
    """One downstream task: which labels, from which starting weights, with how many of them.

    Everything but the starting weights is one recipe, equal for every starting point.
    """

    task: str = "classification"
    source: str
    options: dict[str, Any] = {}
    inits: list[str] | None = None
    encoder: Literal["own", "volume", "inflated", "common", "salient"] = "own"
    """The network that starts: as it was pre-trained; a 2-D one on slices with the transformer between them, or with its kernels
    inflated, both for volumes; or one of the two spaces of a run that has learnt two."""
    scratch: bool = True
    weights: dict[Name, str] = {}
    backbone: Backbone | None = None
    modes: list[str] = []
    fractions: list[Fraction] = [0.05, 0.1, 0.25, 1.0]
    counts: list[Count] = []
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    pair_seeds: bool = False
    """Run 1 of a pre-training is fine-tuned with seed 1 alone, and so on; scratch and given weights with every seed."""
    size: list[Count] | None = Field(default=None, min_length=1, max_length=3)
    epochs: Count = 30
    max_steps: Count | None = None
    batch_size: Count = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_frac: Fold = 0.1
    layer_decay: Fraction = 1.0
    frozen_frac: Fold = 0.15
    evaluations: Count = 8
    augment: bool = True
    flips: bool = False
    mixup: Annotated[float, Field(ge=0)] = 0.0
    calibration_batches: Annotated[int, Field(ge=0)] = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """The task's own options and modes, completed with its defaults."""
        if not isinstance(values, dict) or not isinstance(values.get("task", "classification"), str):
            return values
        try:
            plugin = plugins.find("task", values.get("task", "classification"))
        except StudyError as error:
            raise ValueError(str(error)) from None
        options = values.get("options") or {}
        if isinstance(options, dict):
            options = _parse_choice("task")({plugin.name: options}).options
        known = plugin.constant("MODES")
        modes = values.get("modes") or plugin.constant("DEFAULT_MODES")
        for mode in modes if isinstance(modes, list) else []:
            if mode not in known:
                raise ValueError(f"task {plugin.name!r} has no mode {mode!r}.{did_you_mean(str(mode), known)}")
        return {**values, "options": options, "modes": modes}


class EvaluateSettings(Settings):
    """Intervals and tests."""

    bootstrap: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    positive: str | None = None
    metrics: list[Metric] | None = None
    holm_over: Literal["arms", "task"] = "arms"
    compare: list[tuple[str, str]] = []
    """Pairs of pre-trainings or given weights, the first against the second, beside each against scratch."""


class ReportSettings(Settings):
    """The page: its title, and which sections it has (all of the folder where none is named)."""

    title: str | None = None
    sections: list[str] | None = None

    @model_validator(mode="after")
    def _known_sections(self) -> ReportSettings:
        for name in self.sections or []:
            if name not in plugins.names("section"):
                raise ValueError(f"there is no section {name!r}.{did_you_mean(name, plugins.names('section'))}")
        return self


class Study(Settings):
    """A whole study file."""

    study: Name = "study"
    seed: Annotated[int, Field(ge=0)] = 0
    output: str = "results"
    id_key: str | None = None
    sources: dict[Name, SourceSettings] = Field(min_length=1)
    cohorts: dict[Name, list[str]] = {}
    ingest: IngestSettings = IngestSettings()
    prepare: PrepareSettings = PrepareSettings()
    reduce: ReduceSettings = Field(default_factory=ReduceSettings)
    pretrain: dict[Name, PretrainSettings] = Field(default_factory=lambda: {"simclr": PretrainSettings()})
    finetune: dict[Name, FinetuneSettings] = {}
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @property
    def all_cohorts(self) -> dict[str, list[str]]:
        """Cohort name to source names: each source is a cohort of its own, beside those the study defines."""
        return {**{name: [name] for name in self.sources}, **self.cohorts}

    def arms_of(self, run: PretrainSettings) -> list[str]:
        """The arms a pre-training run covers: those it names, else the study's first."""
        return run.arms or [next(iter(self.reduce.arms))]

    def cohort_of(self, run: PretrainSettings) -> str:
        """The cohort a pre-training run reads: the one it names, else the study's first source."""
        return run.cohort or next(iter(self.sources))

    def source_settings(self, source: str, section: Literal["ingest", "prepare"]) -> dict[str, Any]:
        """A section's settings with the source's own overrides."""
        base = self.ingest if section == "ingest" else self.prepare
        return type(base)(**_merge(base.model_dump(), getattr(self.sources[source], section))).model_dump()


def load_study(config: dict[str, Any] | None = None, files: list[str] | None = None) -> Study:
    """Check a study and complete it with defaults.

    Args:
        config: the merged study (what Snakemake read); None reads and merges `files`.
        files: the YAML files it came from, to name lines in errors; the last one names the study if it does not.

    Raises:
        StudyError: unknown keys, wrong values, names that refer to nothing; with file, line, key and a suggestion.
    """
    files = files or []
    lines: dict[tuple[str, ...], str] = {}
    merged: dict[str, Any] = {}
    for file in files:
        merged = _merge(merged, _read_yaml(file, lines))
    values = dict(merged if config is None else config)
    if files and "study" not in values:
        values["study"] = re.sub(r"[^a-z0-9_]+", "_", Path(files[-1]).stem.lower()).strip("_") or "study"
    try:
        study = Study(**values)
        for name, source in study.sources.items():
            for section in ("ingest", "prepare"):
                _check_override(study, name, section, getattr(source, section))
    except ValidationError as error:
        raise StudyError("\n".join(_sentence(problem, lines) for problem in error.errors())) from None
    problems = list(_dangling_names(study))
    if problems:
        raise StudyError("\n".join(f"{_where(loc, lines)}{text}" for loc, text in problems))
    return study


def _check_override(study: Study, source: str, section: Literal["ingest", "prepare"], given: dict[str, Any]) -> None:
    try:
        study.source_settings(source, section)
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            "Study",
            [
                {"type": e["type"], "loc": ("sources", source, section, *e["loc"]), "input": e["input"], "ctx": e.get("ctx", {})}  # type: ignore[typeddict-item]
                for e in error.errors()
            ],
        ) from None


def _dangling_names(study: Study) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names in the study that refer to nothing."""

    def known(loc: tuple[str, ...], what: str, name: str, choices: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
        if name not in choices:
            yield loc, f"there is no {what} {name!r}.{did_you_mean(name, choices)}"

    sources, arms = list(study.sources), study.reduce.with_controls()
    for cohort, members in study.cohorts.items():
        for member in members:
            yield from known(("cohorts", cohort), "source", member, sources)
    for name, arm in arms.items():
        loc = ("reduce", "arms", name)
        if name in ("describe", "leakage"):
            yield loc, f"{name!r} is a step of this stage and cannot name an arm. Choose another name"
        if arm.reducer is None:
            yield from known((*loc, "reducer"), "reducer", name, plugins.names("reducer"))
        if arm.match is not None:
            yield from known((*loc, "match"), "arm", arm.match, list(arms))
            if arm.match == name or (arm.match in arms and arms[arm.match].match is not None):
                yield (*loc, "match"), f"arm {arm.match!r} has no count of its own to match (it matches another arm)"
    for name, run in study.pretrain.items():
        if run.cohort is not None:
            yield from known(("pretrain", name, "cohort"), "cohort", run.cohort, list(study.all_cohorts))
        for arm_name in run.arms or []:
            yield from known(("pretrain", name, "arms"), "arm", arm_name, list(arms))
        if run.init_run is not None:
            loc = ("pretrain", name, "init_run")
            yield from known(loc, "pre-training run", run.init_run, list(study.pretrain))
            yield from ((loc, problem) for problem in _broken_chain(study, name))
    for name, task in study.finetune.items():
        yield from known(("finetune", name, "source"), "source", task.source, sources)
        for init in task.inits or []:
            yield from known(("finetune", name, "inits"), "initialisation", init, ["scratch", *study.pretrain])
    starts = [*study.pretrain, *(weights for task in study.finetune.values() for weights in task.weights)]
    for pair in study.evaluate.compare:
        for name in pair:
            yield from known(("evaluate", "compare"), "initialisation", name, starts)
        if pair[0] == pair[1]:
            yield ("evaluate", "compare"), f"{pair[0]!r} is compared with itself"


def _broken_chain(study: Study, name: str) -> Iterator[str]:
    """Why the run `name` cannot begin from its `init_run`: it would wait for itself, or an arm or seed is not there."""
    run = study.pretrain[name]
    before = study.pretrain.get(run.init_run or "")
    if before is None:
        return
    chain = [name]
    while (following := study.pretrain[chain[-1]].init_run) in study.pretrain:
        chain.append(str(following))
        if following in chain[:-1]:
            if following == name:
                yield f"{' begins from '.join(chain)}: a run cannot wait for itself. Let one of them begin from fresh weights"
            return
    for what, wanted, there in (
        ("arm", study.arms_of(run), study.arms_of(before)),
        ("seed", run.seeds, before.seeds),
    ):
        missing = [value for value in wanted if value not in there]
        if missing:
            yield f"run {run.init_run!r} has no {what} {missing[0]!r} (it has {there}); a chain keeps arm and seed. Add it there"


def _sentence(problem: Any, lines: dict[tuple[str, ...], str]) -> str:
    loc = tuple(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{_where(loc, lines)}unknown key {loc[-1]!r}.{did_you_mean(loc[-1], _keys_at(loc[:-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if problem["type"] in ("value_error", "missing") else f", got {problem['input']!r}"
    return f"{_where(loc, lines)}{message[:1].lower() + message[1:]}{got}."


def _where(loc: tuple[str, ...], lines: dict[tuple[str, ...], str]) -> str:
    """`configs/mine.yaml:12: pretrain.simclr.epoch: `, with the line of the nearest key that is in a file."""
    for length in range(len(loc), 0, -1):
        if loc[:length] in lines:
            return f"{lines[loc[:length]]}: {'.'.join(loc)}: "
    return f"study: {'.'.join(loc)}: "


def _keys_at(loc: tuple[str, ...]) -> list[str]:
    """The keys that may stand in a section, found by walking the types of the study."""
    kind: Any = Study
    for part in loc:
        if kind is SourceSettings and part in ("ingest", "prepare"):
            kind = Study.model_fields[part].annotation
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _read_yaml(file: str, lines: dict[tuple[str, ...], str]) -> dict[str, Any]:
    """A YAML file as a dict, with the line of every key; duplicate keys are refused (YAML keeps the last in silence)."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except FileNotFoundError:
        raise StudyError(f"there is no study file {file}. Name one with --configfile, or start from configs/ct.yaml.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise StudyError(f"{file}{line}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(value, dict):
        raise StudyError(
            f"{file}: a study file is a mapping of sections (study, sources, reduce, …), got {type(value).__name__}."
        )

    def visit(node: yaml.Node | None, loc: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, child in node.value:
                place = f"{file}:{key.start_mark.line + 1}"
                if key.value in seen:
                    raise StudyError(f"{place}: {'.'.join((*loc, key.value))}: this key stands twice. Remove one.")
                seen.add(key.value)
                lines[(*loc, key.value)] = place
                visit(child, (*loc, key.value))

    visit(root, ())
    return value
