"""The options of a study: its sources and cohorts, and the options of every stage."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from medssl.core.bounds import Distinct, Whole
from medssl.core.options import Name, Options
from medssl.core.record_table import Kind
from medssl.core.written import PathText
from medssl.evaluate.options import EvaluateOptions
from medssl.finetune.options import FinetuneOptions
from medssl.ingest.options import IngestOptions
from medssl.prepare.options import PrepareOptions
from medssl.pretrain.options import PretrainOptions
from medssl.reduce.options import ReduceOptions
from medssl.report.options import ReportOptions


def _with_text_keys(given: Any) -> Any:
    """Labels that YAML reads as numbers, converted to the text of a label table."""
    if not isinstance(given, dict):
        return given
    return {
        str(label) if isinstance(label, int) and not isinstance(label, bool) else label: name for label, name in given.items()
    }


def _check_class_names(names: dict[str, str]) -> dict[str, str]:
    again = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if again:
        raise ValueError(f"two classes are named {again[0]!r}: give each class a name of its own")
    wrong = [name for name in names.values() if not name.strip() or "|" in name or name in ("macro", "all")]
    if wrong:
        raise ValueError(f"{wrong[0]!r} cannot name a class: expected a word or two, without a bar, and not macro or all")
    return names


ClassNames = Annotated[dict[str, str], BeforeValidator(_with_text_keys), AfterValidator(_check_class_names)]


class SourceOptions(Options):
    """A folder of DICOM, NIfTI or images, or an NPZ image set; it may override options of ingest and prepare."""

    path: PathText
    """The folder or file."""
    labels: PathText | None = None
    """A CSV or TSV of id and label, a folder of masks, or `folders` if the folder of an image is its class."""
    groups: Distinct[str] = []
    """Columns of the label table for scores of subgroups."""
    records: PathText | None = None
    """A CSV or TSV of id and any columns, such as age or scanner, for objectives that use them; kept in no result."""
    record_kinds: dict[str, Kind] = {}
    """What columns of the records are, where their cells leave doubt: `{stage: category}`."""
    label_as_feature: bool = False
    """Allow records that give the label of a downstream task away: its scores then do not show what images alone predict."""
    licence: str | None = None
    """Licence of the data, for the contract of encoders trained on it."""
    class_names: ClassNames = {}
    """Names of classes on the page, by label or mask value: `{6: liver}`. Only the page depends on it."""
    ingest: dict[str, Any] = {}
    """Options of stage ingest for this source alone."""
    prepare: dict[str, Any] = {}
    """Options of stage prepare for this source alone."""


class Study(Options):
    """A whole study file."""

    study: Name = "study"
    """Name of the study and of its results folder; default: the name of the file."""
    seed: Whole = 0
    """Seed of splits, reductions and intervals."""
    output: PathText = "results"
    """Folder of all results."""
    id_key: PathText | None = None
    """File with the key of the ids, on which all draws depend; default: a key made in `.medssl/`, another one in each folder."""
    sources: dict[Name, SourceOptions] = Field(min_length=1)
    """The images, by name."""
    cohorts: dict[Name, list[str]] = {}
    """Sources for one pre-training, by name; each source is also a cohort."""
    ingest: IngestOptions = IngestOptions()
    """Stage ingest, for all sources."""
    prepare: PrepareOptions = PrepareOptions()
    """Stage prepare, for all sources."""
    reduce: ReduceOptions = Field(default_factory=ReduceOptions)
    """Stage reduce."""
    pretrain: dict[Name, PretrainOptions] = Field(default_factory=lambda: {"simclr": PretrainOptions()})
    """Pre-trainings, by name."""
    finetune: dict[Name, FinetuneOptions] = {}
    """Downstream tasks, by name."""
    evaluate: EvaluateOptions = EvaluateOptions()
    """Stage evaluate, for all tasks."""
    report: ReportOptions = ReportOptions()
    """Stage report."""

    @property
    def all_cohorts(self) -> dict[str, list[str]]:
        """Source names by cohort: each source is a cohort, beside those that the study defines."""
        return {**{name: [name] for name in self.sources}, **self.cohorts}

    def arms_of(self, run: PretrainOptions) -> list[str]:
        """The arms of a pre-training run: those it names, else the first of the study."""
        return run.arms or [next(iter(self.reduce.arms))]

    def cohort_of(self, run: PretrainOptions) -> str:
        """The cohort of a pre-training run: the one it names, else the first source of the study."""
        return run.cohort or next(iter(self.sources))

    def ingest_of(self, source: str) -> IngestOptions:
        """The options of stage ingest, with those of the source."""
        return IngestOptions(**merged(self.ingest.model_dump(), self.sources[source].ingest))

    def prepare_of(self, source: str) -> PrepareOptions:
        """The options of stage prepare, with those of the source."""
        return PrepareOptions(**merged(self.prepare.model_dump(), self.sources[source].prepare))


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, section by section."""
    found = dict(base)
    for key, value in over.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found
