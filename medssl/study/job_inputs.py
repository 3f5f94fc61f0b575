"""The names of a study's jobs, and the inputs of each: what it reads of the jobs before it."""

from __future__ import annotations

from typing import Any

from medssl.artefacts.names import Run
from medssl.core import plugins
from medssl.core.layout import Layout
from medssl.core.options import choice_of
from medssl.core.record_table import place_of
from medssl.finetune.options import FinetuneOptions
from medssl.pretrain.options import PretrainOptions, records_of
from medssl.reduce.options import control_kinds
from medssl.study.options import Study

STUDY_PAGE = "study"
"""The report page of the whole study; each other page has the name of its cohort."""
OF_LABELS = {"labels": "labels.parquet", "label_counts": "labels.json", "label_rejected": "rejected.tsv"}
"""Inputs of a page from the label files of a source, by name."""


class JobInputs:
    """The jobs of a study by name, and the paths that each reads; nothing on disk is touched."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.layout = Layout.of(study.output, study.study)
        self.arms = study.reduce.with_controls()

    # Names

    def runs(self, cohort: str | None = None) -> list[tuple[str, Run]]:
        """(cohort, run) of every pre-training job, or those of one cohort."""
        found = [
            (self.study.cohort_of(options), Run(name, arm, seed))
            for name, options in self.study.pretrain.items()
            for arm in self.study.arms_of(options)
            for seed in options.seeds
        ]
        return [pair for pair in found if cohort in (None, pair[0])]

    def cohorts(self) -> list[str]:
        """The cohorts with a pre-training run, in the order of the study."""
        return list(dict.fromkeys(self.study.cohort_of(options) for options in self.study.pretrain.values()))

    def reduced_cohorts(self) -> list[str]:
        """The cohorts with reduction arms: all, so that an arm can be inspected before a run is defined."""
        return list(self.study.all_cohorts)

    def runs_for(self, task: FinetuneOptions) -> list[tuple[str, Run]]:
        """The pre-training runs a task starts from."""
        wanted = self.study.pretrain if task.inits is None else task.inits
        return [(cohort, run) for cohort, run in self.runs() if run.name in wanted]

    def pages(self) -> list[str]:
        """The report pages: one per pre-trained cohort, and `study` for all."""
        return [*self.cohorts(), STUDY_PAGE]

    def controls_of(self, arm: str) -> list[str]:
        """The arms that keep as many slices as this one, chosen without content: its controls."""
        controls = control_kinds()
        if self.reducer_of(arm).name in controls:
            return []
        counted = self.arms[arm].match or arm
        return [name for name, other in self.arms.items() if self.reducer_of(name).name in controls and other.match == counted]

    def reducer_of(self, arm: str) -> Any:
        """The reducer of an arm with all its options; by default the name of the arm is that of its reducer."""
        return self.arms[arm].reducer or choice_of("reducer", arm)

    def embeds(self, arm: str) -> bool:
        """Whether an arm's reducer reads embeddings, which its job makes."""
        return plugins.find("reducer", self.reducer_of(arm).name).constant("VECTORS", default=None) is not None

    # Inputs, by name, of one job. A path without suffix is a folder of files that a receipt lists

    def reduce_inputs(self, cohort: str, arm: str) -> dict[str, Any]:
        """The inputs of an arm."""
        match = self.arms[arm].match
        return {
            **self._prepared(cohort),
            "descriptors": self.layout.describe(cohort, "descriptors.parquet"),
            **({"leakage": self.layout.leakage(cohort, "leakage.parquet")} if self._excludes() else {}),
            **({"encoder": self._encoder(encoder)} if (encoder := self.arms[arm].encoder) else {}),
            **({"match": self.layout.reduce(cohort, match, "keep.parquet")} if match else {}),
        }

    def _excludes(self) -> bool:
        """Whether findings of the firewall exclude slices or stop the study; if they are only reported, no job waits for them."""
        return bool(self.study.finetune) and self.study.reduce.leakage != "report"

    def _encoder(self, encoder: str) -> dict[str, str]:
        """The weights with which an arm embeds slices, and their contract: of a run of this study, or of a file."""
        cohorts = {str(run): cohort for cohort, run in self.runs()}
        if encoder in cohorts:
            names = {"weights": "encoder.safetensors", "contract": "contract.json"}
            return {what: self.layout.pretrain(cohorts[encoder], encoder, name) for what, name in names.items()}
        return {"weights": encoder}

    def leakage_inputs(self, cohort: str) -> dict[str, Any]:
        """The inputs of the firewall: the pool, and every source of a downstream task."""
        held = list(dict.fromkeys(task.source for task in self.study.finetune.values()))
        return {
            **self._prepared(cohort),
            **{f"held_{name}": paths for name, paths in self._prepared_sources(held).items()},
        }

    def pretrain_inputs(self, cohort: str, run: Run) -> dict[str, Any]:
        """The inputs of a pre-training run."""
        options = self.study.pretrain[run.name]
        inputs: dict[str, Any] = {**self._prepared(cohort), "keep": self.layout.reduce(cohort, run.arm, "keep.parquet")}
        if labels := self._labels_read(options, cohort):
            inputs["labels"] = labels
        if records := self._records_read(options, cohort):
            inputs["records"] = records
        if options.init_weights:
            inputs["init_weights"] = options.init_weights
        if options.init_run:
            before = Run(options.init_run, run.arm, run.seed)
            place = self.study.cohort_of(self.study.pretrain[options.init_run])
            inputs["init_run"] = {
                name: self.layout.pretrain(place, str(before), f"{name}.safetensors") for name in ("encoder", "parts")
            }
        return inputs

    def _labels_read(self, options: PretrainOptions, cohort: str) -> dict[str, str]:
        """By source, the label files that an objective reads; empty for most objectives."""
        plugin = plugins.find("objective", options.objective.name)
        option, sources = plugin.constant("LABEL_OPTION", default=None), self.study.all_cohorts[cohort]
        if option is None or options.objective.options[option] in (False, *sources):
            return {}
        return {source: self.layout.labels(source, "labels.parquet") for source in sources if self.study.sources[source].labels}

    def _records_read(self, options: PretrainOptions, cohort: str) -> dict[str, dict[str, str]]:
        """By source and column, what the records that an objective reads say of its images."""
        sources = [source for source in self.study.all_cohorts[cohort] if self.study.sources[source].records]
        columns = records_of(options)
        return {
            source: {column: self.layout.record(source, place_of(column), "record.parquet") for column in columns}
            for source in (sources if columns else [])
        }

    def columns_read(self, source: str) -> list[str]:
        """The columns of a source's records that some pre-training reads."""
        runs = [run for run in self.study.pretrain.values() if source in self.study.all_cohorts[self.study.cohort_of(run)]]
        found = [column for run in runs for column in records_of(run)] if self.study.sources[source].records else []
        return list(dict.fromkeys(found))

    def records_beside_labels(self, source: str) -> dict[str, str]:
        """By column, the records of a source that must not determine the label of a task on it."""
        allowed, asked = self.study.sources[source].label_as_feature, [task.source for task in self.study.finetune.values()]
        columns = [] if allowed or source not in asked else self.columns_read(source)
        return {column: self.layout.record(source, place_of(column), "record.parquet") for column in columns}

    def finetune_inputs(self, task: str) -> dict[str, Any]:
        """The inputs of a task."""
        options, layout = self.study.finetune[task], self.layout
        runs = self.runs_for(options)
        source = options.source
        given = {"labels": layout.labels(source, "labels.parquet"), "label_masks": layout.labels(source, "masks")}
        return {
            **(given if self.study.sources[source].labels else {}),
            "samples": layout.prepare(source, "samples.parquet"),
            "volumes": layout.prepare(source, "volumes.tsv"),
            "arrays": layout.prepare(source, "arrays"),
            "images": layout.ingest(source, "volumes"),
            "encoders": {str(run): layout.pretrain(cohort, str(run), "encoder.safetensors") for cohort, run in runs},
            "parts": {str(run): layout.pretrain(cohort, str(run), "parts.safetensors") for cohort, run in runs},
            "contracts": {str(run): layout.pretrain(cohort, str(run), "contract.json") for cohort, run in runs},
        }

    def evaluate_inputs(self, task: str) -> dict[str, Any]:
        """The inputs of the evaluation of a task."""
        return {
            "predictions": self.layout.finetune(task, "predictions.parquet"),
            "fits": self.layout.finetune(task, "fits.tsv"),
            "masks": self.layout.finetune(task, "masks"),
        }

    def report_inputs(self, page: str) -> dict[str, Any]:
        """The inputs of a page: the page of a cohort ends at pre-training, the page `study` has everything."""
        layout = self.layout
        cohorts = self.cohorts() if page == STUDY_PAGE else [page]
        tasks = list(self.study.finetune) if page == STUDY_PAGE else []
        sources = list(dict.fromkeys(source for cohort in cohorts for source in self.study.all_cohorts[cohort]))
        held = list(dict.fromkeys(self.study.finetune[task].source for task in tasks))
        sources += [source for source in held if source not in sources]
        runs = [(c, str(run)) for cohort in cohorts for c, run in self.runs(cohort)]
        arms = [(cohort, arm) for cohort in cohorts for arm in self.arms]
        return {
            "series": [layout.ingest(s, "series.tsv") for s in sources],
            "rejected": [layout.ingest(s, "rejected.tsv") for s in sources],
            "fingerprint": [layout.prepare(s, "fingerprint.json") for s in sources],
            "volumes": [layout.prepare(s, "volumes.tsv") for s in sources],
            "samples": [layout.prepare(s, "samples.parquet") for s in sources],
            "keeps": [layout.reduce(c, a, "keep.parquet") for c, a in arms],
            "summaries": [layout.reduce(c, a, "summary.json") for c, a in arms],
            "leaks": [layout.leakage(c, "leakage.json") for c in cohorts] if self.study.finetune else [],
            "curves": [layout.pretrain(c, r, "curve.tsv") for c, r in runs],
            "contracts": [layout.pretrain(c, r, "contract.json") for c, r in runs],
            "embeddings": [layout.pretrain(c, r, "embeddings.parquet") for c, r in runs],
            "views": [layout.pretrain(c, r, "views.png") for c, r in runs],
            **{kind: [layout.labels(s, name) for s in held if self.study.sources[s].labels] for kind, name in OF_LABELS.items()},
            "fits": [layout.finetune(t, "fits.tsv") for t in tasks],
            "scores": [layout.evaluate(t, "scores.tsv") for t in tasks],
            "comparisons": [layout.evaluate(t, "comparisons.tsv") for t in tasks],
            "cases": [layout.evaluate(t, "cases.parquet") for t in tasks],
        }

    def _prepared(self, cohort: str) -> dict[str, Any]:
        return self._prepared_sources(self.study.all_cohorts[cohort])

    def _prepared_sources(self, sources: list[str]) -> dict[str, Any]:
        names = {"samples": "samples.parquet", "volumes": "volumes.tsv", "arrays": "arrays"}
        return {what: [self.layout.prepare(source, name) for source in sources] for what, name in names.items()}

    def shards(self, source: str) -> list[str]:
        """The tables of a source's shards."""
        count = self.study.ingest_of(source).shards
        return [self.layout.ingest(source, f"shards/{index}-of-{count}/series.tsv") for index in range(count)]
