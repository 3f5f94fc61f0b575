"""From a study to the spec of every job: what it reads, where it writes, with which options and which code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from medssl.core import listing, plugins
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, sha256_file, write_if_changed
from medssl.core.job import RECEIPT, Spec, paths_in
from medssl.core.label_table import FOLDERS
from medssl.core.layout import Layout
from medssl.core.sources import PACKAGE, code_hash
from medssl.core.study import CONTROLS, FinetuneSettings, PretrainSettings, Study

STUDY_PAGE = "study"
"""The report page of everything; the other pages bear the name of their cohort."""


class Dag:
    """All jobs of a study by name; pure, except for `refresh_sources` and `write_specs`."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.layout = Layout.of(study.output, study.study)
        self.arms = study.reduce.with_controls()

    # Names

    def runs(self, cohort: str | None = None) -> list[tuple[str, str]]:
        """(cohort, run) of every pre-training job, or those of one cohort; a run is `name-arm-seedN`."""
        found = [
            (self.study.cohort_of(settings), f"{name}-{arm}-seed{seed}")
            for name, settings in self.study.pretrain.items()
            for arm in self.study.arms_of(settings)
            for seed in settings.seeds
        ]
        return [pair for pair in found if cohort in (None, pair[0])]

    def pretrain_of(self, run: str) -> tuple[PretrainSettings, str, int]:
        """Settings, arm and seed of a run name."""
        name, arm, seed = run.split("-")
        return self.study.pretrain[name], arm, int(seed.removeprefix("seed"))

    def machine(self, run: str, what: str) -> int | str | None:
        """What a run asks a cluster for, by Snakemake's resource names; None where the run does not care.

        A run on one node starts its own processes, so it is one task with its GPUs. A run on several is one task a node,
        and says its own srun (core/ranks.py): there the plug-in is told not to make tasks of the GPUs as well.
        """
        settings, _, _ = self.pretrain_of(run)
        if settings.nodes == 1:
            return _one_node(settings.device, settings.devices, what)
        asked: dict[str, int | str | None] = {"nodes": settings.nodes, "tasks": settings.nodes, "mpi": "srun"}
        if settings.device == "cuda":
            asked |= {"gres": f"gpu:{settings.devices}", "tasks_per_gpu": 0}
        return asked.get(what)

    def task_machine(self, task: str, what: str) -> int | str | None:
        """What a task of fine-tuning asks a cluster for: its fits follow one another on one GPU."""
        return _one_node(self.study.finetune[task].device, 1, what)

    def cohorts(self) -> list[str]:
        """The cohorts that some run pre-trains on, in the study's order."""
        return list(dict.fromkeys(cohort for cohort, _ in self.runs()))

    def reduced_cohorts(self) -> list[str]:
        """The cohorts that have reduction arms: every one, so that an arm can be looked at before a run is defined."""
        return list(self.study.all_cohorts)

    def runs_for(self, task: FinetuneSettings) -> list[tuple[str, str]]:
        """The pre-training runs a task starts from."""
        wanted = self.study.pretrain if task.inits is None else task.inits
        return [(cohort, run) for cohort, run in self.runs() if run.split("-")[0] in wanted]

    def controls_of(self, arm: str) -> list[str]:
        """The arms that keep as many slices as this one and choose them without looking: what its choice is judged by."""
        if self._reducer(arm) in CONTROLS:
            return []
        counted = self.arms[arm].match or arm
        return [name for name, other in self.arms.items() if self._reducer(name) in CONTROLS and other.match == counted]

    def _reducer(self, arm: str) -> str:
        reducer = self.arms[arm].reducer
        return arm if reducer is None else reducer.name

    # Inputs, by name, of one job

    def reduce_inputs(self, cohort: str, arm: str) -> dict[str, Any]:
        """What an arm reads."""
        match = self.arms[arm].match
        return {
            **self._prepared(cohort),
            "descriptors": self.layout.describe(cohort, "descriptors.parquet"),
            **({"leakage": self.layout.leakage(cohort, "leakage.parquet")} if self._excludes() else {}),
            **({"encoder": self._encoder(encoder)} if (encoder := self.arms[arm].encoder) else {}),
            **({"match": self.layout.reduce(cohort, match, "keep.parquet")} if match else {}),
        }

    def _excludes(self) -> bool:
        """Whether what the firewall finds keeps slices out, or stops the study; a mere report waits for nothing."""
        return bool(self.study.finetune) and self.study.reduce.leakage != "report"

    def _encoder(self, encoder: str) -> str:
        """The weights that an arm embeds with: a pre-training run of this study, or a file."""
        cohorts = {run: cohort for cohort, run in self.runs()}
        return self.layout.pretrain(cohorts[encoder], encoder, "encoder.safetensors") if encoder in cohorts else encoder

    def leakage_inputs(self, cohort: str) -> dict[str, Any]:
        """What the firewall reads: the pool, and every source of a downstream task."""
        held = list(dict.fromkeys(task.source for task in self.study.finetune.values()))
        return {
            **self._prepared(cohort),
            "held_samples": [self.layout.prepare(source, "samples.parquet") for source in held],
            "held_volumes": [self.layout.prepare(source, "volumes.tsv") for source in held],
        }

    def pretrain_inputs(self, cohort: str, run: str) -> dict[str, Any]:
        """What a pre-training run reads."""
        settings, arm, seed = self.pretrain_of(run)
        inputs: dict[str, Any] = {**self._prepared(cohort), "keep": self.layout.reduce(cohort, arm, "keep.parquet")}
        if labels := self._labels_told(settings, cohort):
            inputs["labels"] = labels
        if settings.init_weights:
            inputs["init_weights"] = settings.init_weights
        if settings.init_run:
            before = (self.study.cohort_of(self.study.pretrain[settings.init_run]), f"{settings.init_run}-{arm}-seed{seed}")
            inputs["init_run"] = {name: self.layout.pretrain(*before, f"{name}.safetensors") for name in ("encoder", "parts")}
        return inputs

    def _labels_told(self, settings: PretrainSettings, cohort: str) -> dict[str, str]:
        """By source, the labels from files that an objective looks at; nothing for most, and where its option names a source."""
        name, options = settings.objective.name, settings.objective.options
        option, sources = plugins.find("objective", name).constant("LABEL_OPTION", default=None), self.study.all_cohorts[cohort]
        if option is None or options[option] in sources:
            return {}
        return {source: self.layout.labels(source, "labels.parquet") for source in sources if self.study.sources[source].labels}

    def finetune_inputs(self, task: str) -> dict[str, Any]:
        """What a task reads."""
        settings = self.study.finetune[task]
        runs = self.runs_for(settings)
        given = self.study.sources[settings.source].labels
        return {
            **({"labels": self.layout.labels(settings.source, "labels.parquet")} if given else {}),
            "samples": self.layout.prepare(settings.source, "samples.parquet"),
            "volumes": self.layout.prepare(settings.source, "volumes.tsv"),
            "encoders": {run: self.layout.pretrain(cohort, run, "encoder.safetensors") for cohort, run in runs},
            "parts": {run: self.layout.pretrain(cohort, run, "parts.safetensors") for cohort, run in runs},
            "contracts": {run: self.layout.pretrain(cohort, run, "contract.json") for cohort, run in runs},
        }

    def evaluate_inputs(self, task: str) -> dict[str, Any]:
        """What the evaluation of a task reads."""
        return {
            "predictions": self.layout.finetune(task, "predictions.parquet"),
            "fits": self.layout.finetune(task, "fits.tsv"),
        }

    def report_inputs(self, page: str) -> dict[str, Any]:
        """What a page reads: a cohort's page ends at pre-training, the page `study` holds everything."""
        layout = self.layout
        cohorts = self.cohorts() if page == STUDY_PAGE else [page]
        tasks = list(self.study.finetune) if page == STUDY_PAGE else []
        sources = list(dict.fromkeys(source for cohort in cohorts for source in self.study.all_cohorts[cohort]))
        held = list(dict.fromkeys(self.study.finetune[task].source for task in tasks))
        sources += [source for source in held if source not in sources]
        runs = [pair for cohort in cohorts for pair in self.runs(cohort)]
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
            "views": [layout.pretrain(c, r, "views.png") for c, r in runs],
            "labels": [layout.labels(s, "labels.parquet") for s in held if self.study.sources[s].labels],
            "fits": [layout.finetune(t, "fits.tsv") for t in tasks],
            "scores": [layout.evaluate(t, "scores.tsv") for t in tasks],
            "comparisons": [layout.evaluate(t, "comparisons.tsv") for t in tasks],
            "cases": [layout.evaluate(t, "cases.parquet") for t in tasks],
        }

    def shards(self, source: str) -> list[str]:
        """The tables of a source's shards."""
        count = self.study.source_settings(source, "ingest")["shards"]
        return [self.layout.ingest(source, f"shards/{index}-of-{count}/series.tsv") for index in range(count)]

    def reads(self, stage: str, name: str) -> list[str]:
        """The paths a job reads, as a flat list: the inputs of its rule beside the spec."""
        return list(paths_in(self._by_name[self.layout.spec(stage, name)].inputs))

    def artefacts(self, page: str) -> list[str]:
        """Every table and receipt that a page rests on, so that a target asks for each and a deleted one is made again."""
        by_folder = {str(Path(spec.out)): path for path, spec in self._by_name.items()}
        found: set[str] = set()
        waiting = [self.layout.spec("report", page)]
        while waiting:
            for path in paths_in(self._by_name[waiting.pop()].inputs):
                folder = str(Path(path).parent)
                if path not in found and folder in by_folder:
                    found |= {path, str(Path(folder) / RECEIPT)}
                    waiting.append(by_folder[folder])
        return sorted(found)

    @cached_property
    def _by_name(self) -> dict[str, Spec]:
        return dict(self.specs())

    def _prepared(self, cohort: str) -> dict[str, Any]:
        sources = self.study.all_cohorts[cohort]
        return {
            "samples": [self.layout.prepare(source, "samples.parquet") for source in sources],
            "volumes": [self.layout.prepare(source, "volumes.tsv") for source in sources],
        }

    # Specs

    def specs(self) -> Iterator[tuple[str, Spec]]:
        """(path, spec) of every job, in the order of the stages."""
        for source in self.study.sources:
            yield from self._source_specs(source)
        for cohort in self.reduced_cohorts():
            yield from self._reduce_specs(cohort)
        for cohort, run in self.runs():
            yield self._pretrain_spec(cohort, run)
        for task in self.study.finetune:
            yield from self._task_specs(task)
        for page in self.pages():
            yield self._page_spec(page)

    def _source_specs(self, source: str) -> Iterator[tuple[str, Spec]]:
        study, layout = self.study, self.layout
        checks = sorted((PACKAGE / "ingest").rglob("*.py"))
        listed = {"listing": layout.private(source, "listing.jsonl")}
        yield self._spec("ingest", source, study.source_settings(source, "ingest"), listed, layout.ingest(source), checks)
        series = {"series": layout.ingest(source, "series.tsv")}
        if study.sources[source].labels:
            wanted = {name: study.source_settings(source, "ingest")[name] for name in ("masks", "no_space")}
            wanted["groups"] = study.sources[source].groups
            read = series | {"listing": layout.label_listing(source), "groups": layout.private(source, "groups.parquet")}
            yield self._spec("ingest", f"{source}/labels", wanted, read, layout.labels(source), checks)
        prepare = study.source_settings(source, "prepare")
        if prepare["split"]["file"]:
            prepare["split"]["sha256"] = _given(f"source {source}: prepare.split.file", prepare["split"]["file"])
        yield self._spec("prepare", source, prepare, series, layout.prepare(source))

    def _reduce_specs(self, cohort: str) -> Iterator[tuple[str, Spec]]:
        hashes = [arm.reducer.options for arm in self.arms.values() if arm.reducer and arm.reducer.name == "hash"]
        described = {
            "hash_sizes": sorted({8, *(options["size"] for options in hashes)}),
            "greys": sorted({"window", *(options["grey"] for options in hashes)}),
        }
        yield self._spec("reduce", f"{cohort}/describe", described, self._prepared(cohort), self.layout.describe(cohort))
        if self.study.finetune:
            policy = {"leakage": self.study.reduce.leakage}
            yield self._spec("reduce", f"{cohort}/leakage", policy, self.leakage_inputs(cohort), self.layout.leakage(cohort))
        for arm, settings in self.arms.items():
            chosen = plugins.find("reducer", settings.reducer.name if settings.reducer else arm)
            options = settings.reducer.options if settings.reducer else chosen.check({})
            values = settings.model_dump() | {"reducer": {"name": chosen.name, "options": options}}
            inputs, out = self.reduce_inputs(cohort, arm), self.layout.reduce(cohort, arm)
            yield self._spec("reduce", f"{cohort}/{arm}", values, inputs, out, [chosen.path])

    def _pretrain_spec(self, cohort: str, run: str) -> tuple[str, Spec]:
        settings, _, seed = self.pretrain_of(run)
        values = settings.model_dump(exclude={"arms", "seeds", "cohort"}) | {"pretrain_seed": seed}
        if settings.init_weights:
            values["init_sha256"] = _given(f"pretrain.{run.split('-')[0]}.init_weights", settings.init_weights)
        sources = {source: self.study.sources[source].licence for source in self.study.all_cohorts[cohort]}
        if any(sources.values()):
            values["licences"] = {source: licence or "not given" for source, licence in sources.items()}
        inputs, out = self.pretrain_inputs(cohort, run), self.layout.pretrain(cohort, run)
        code = [plugins.find("objective", settings.objective.name).path, plugins.find("backbone", settings.backbone.name).path]
        return self._spec("pretrain", f"{cohort}/{run}", values, inputs, out, code)

    def _task_specs(self, task: str) -> Iterator[tuple[str, Spec]]:
        settings, layout = self.study.finetune[task], self.layout
        backbones = sorted({self.pretrain_of(run)[0].backbone.name for _, run in self.runs_for(settings)})
        around = {"volume": ["slicewise"], "common": ["bottleneck"], "salient": ["bottleneck"]}
        backbones += around.get(settings.encoder, [])
        code = [plugins.find("task", settings.task).path, *(plugins.find("backbone", name).path for name in backbones)]
        fitted = settings.model_dump()
        if settings.weights:
            fitted["weights_sha256"] = {
                name: _given(f"finetune.{task}.weights.{name}", path) for name, path in settings.weights.items()
            }
        yield self._spec("finetune", task, fitted, self.finetune_inputs(task), layout.finetune(task), code)
        values = self.study.evaluate.model_dump() | {"task": settings.task, "name": task}
        values |= {"multilabel": settings.options.get("multilabel")}
        values |= {"controls": {arm: names for arm in self.arms if (names := self.controls_of(arm))}}
        values |= {"sole": sum(other.task != "segmentation" for other in self.study.finetune.values()) == 1}
        metrics = [plugins.find("metric", name).path for name in plugins.names("metric")]
        yield self._spec("evaluate", task, values, self.evaluate_inputs(task), layout.evaluate(task), metrics)

    def _page_spec(self, page: str) -> tuple[str, Spec]:
        hidden: Any = {"sources": {"__all__": {"path", "labels"}}, "id_key": True}
        if page != STUDY_PAGE:
            hidden |= {"finetune": True, "evaluate": True}
        values = self.study.report.model_dump() | {"study": self.study.model_dump(exclude=hidden)}
        sections = [plugins.find("section", name).path for name in plugins.names("section")]
        return self._spec("report", page, values, self.report_inputs(page), self.layout.report(page), sections)

    def pages(self) -> list[str]:
        """The report pages: one per pre-trained cohort, and `study` for everything."""
        return [*self.cohorts(), STUDY_PAGE]

    def write_specs(self) -> None:
        """Write each spec whose content changed, so that exactly its job and those after it run again."""
        for path, spec in self._by_name.items():
            write_if_changed(path, spec.to_json())

    def refresh_sources(self) -> None:
        """List every source folder again: names, sizes, times; and leave the real paths where only ingest reads them."""
        key = listing.load_key(self.study.id_key)
        for source, settings in self.study.sources.items():
            place = {
                "path": str(Path(settings.path).resolve()),
                "labels": settings.labels if settings.labels in (None, FOLDERS) else str(Path(settings.labels).resolve()),
                "id_key": str(Path(self.study.id_key or listing.PRIVATE / "id_key").resolve()),
                "folder": str(Path(self.layout.private(source, "")).resolve()),
            }
            listing.refresh(self.layout, source, settings.path, key, labels=settings.labels)
            write_if_changed(self.layout.private(source, "place.json"), canonical_json(place) + "\n")

    def _spec(
        self, stage: str, name: str, settings: dict[str, Any], inputs: dict[str, Any], out: str, code: list[Path] | None = None
    ) -> tuple[str, Spec]:
        spec = Spec(
            stage=stage,
            name=name,
            study=self.study.study,
            root=str(self.layout.root),
            seed=self.study.seed,
            code=code_hash(PACKAGE / stage / "run.py", *(code or [])),
            settings=settings,
            inputs=inputs,
            out=out,
        )
        return self.layout.spec(stage, name), spec


def _given(key: str, path: str) -> str:
    """Hash of a file that the study file names under `key`: edited, it must rerun the jobs that read it.

    Raises:
        StudyError: it is not there.
    """
    if not Path(path).is_file():
        raise StudyError(f"{key} is not there. Correct the path in the study file (it is relative to where snakemake runs).")
    info = Path(path).stat()
    return _sha256(str(Path(path).resolve()), info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed_ns: int) -> str:
    """Hash of a file, read once as long as it stays the same: weights are large, and several tasks may begin from them."""
    return sha256_file(path)


def _one_node(device: str, gpus: int, what: str) -> int | None:
    """What a job on one node asks for; `--gpus` alone could be spread over several."""
    return {"gpu": gpus, "nodes": 1}.get(what) if device == "cuda" else None
