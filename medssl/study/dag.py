"""The spec of every job of a study: its inputs, outputs, options and code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from medssl.artefacts.names import Run
from medssl.core import plugins
from medssl.core.code import PACKAGE, code_hash
from medssl.core.errors import StudyError
from medssl.core.files import sha256_file, write_if_changed
from medssl.core.job import Machine, Spec, paths_in
from medssl.core.options import Options
from medssl.core.record_table import place_of
from medssl.core.store import RECEIPT
from medssl.evaluate.options import EvaluationOptions
from medssl.finetune.options import StartOptions, TaskOptions, concerning_new_images
from medssl.ingest.options import LabelFileOptions, RecordOptions
from medssl.pretrain.options import RunOptions, WatchOptions
from medssl.reduce.options import DescribeOptions, FirewallOptions, ResolvedArmOptions, control_kinds
from medssl.report.options import PageOptions
from medssl.study.job_inputs import STUDY_PAGE, JobInputs


class Dag(JobInputs):
    """All jobs of a study by name, with their specs; pure, except for `write_specs`."""

    # Requests of jobs to a cluster

    def machine(self, run: str, what: str) -> int | str | None:
        """What a run requests from a cluster, by Snakemake's resource names; None for no request.

        A run on one node starts its own processes, so it is one task with its GPUs. A run on several nodes is one task per node
        and calls srun itself (core/launch.py), so the plug-in must not also make a task per GPU.
        """
        options = self.study.pretrain[Run.parse(run).name]
        if options.nodes == 1:
            return _one_node(options.device, options.devices, what)
        asked: dict[str, int | str | None] = {"nodes": options.nodes, "tasks": options.nodes, "mpi": "srun"}
        if options.device == "cuda":
            asked |= {"gres": f"gpu:{options.devices}", "tasks_per_gpu": 0}
        return asked.get(what)

    def task_machine(self, task: str, what: str) -> int | str | None:
        """What a fine-tuning task requests from a cluster: its fits run one after the other on one GPU."""
        return _one_node(self.study.finetune[task].device, 1, what)

    def reads(self, stage: str, name: str) -> list[str]:
        """The paths a job reads, as a flat list: the inputs of its rule beside the spec."""
        return list(dict.fromkeys(paths_in(self._by_path[self.layout.spec(stage, name)])))

    def artefacts(self, page: str) -> list[str]:
        """Every table and receipt that a page depends on, so that a target requests each and a deleted one is made again."""
        by_folder = {str(Path(spec.out)): path for path, spec in self._by_path.items()}
        found: set[str] = set()
        waiting = [self.layout.spec("report", page)]
        while waiting:
            for path in paths_in(self._by_path[waiting.pop()]):
                folder = str(Path(path).parent)
                if path not in found and folder in by_folder:
                    found |= {path, str(Path(folder) / RECEIPT)}
                    waiting.append(by_folder[folder])
        return sorted(found)

    # Specs

    @cached_property
    def _by_path(self) -> dict[str, Spec]:
        return dict(self.specs())

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

    def write_specs(self) -> None:
        """Write each spec whose content changed, so that exactly its job and later ones run again; remove specs of no job."""
        for path, spec in self._by_path.items():
            write_if_changed(path, spec.to_json())
        for written in (self.layout.root / "specs").rglob("*.json"):
            if str(written) not in self._by_path:
                written.unlink()

    def _source_specs(self, source: str) -> Iterator[tuple[str, Spec]]:
        study, layout = self.study, self.layout
        ingest = study.ingest_of(source)
        listed = {"listing": layout.private(source, "listing.jsonl")}
        yield self._spec("ingest", source, ingest, listed, layout.ingest(source))
        series = {"series": layout.ingest(source, "series.tsv"), "images": layout.ingest(source, "volumes")}
        if study.sources[source].labels:
            labels = LabelFileOptions(masks=ingest.masks, no_space=ingest.no_space, groups=study.sources[source].groups)
            read: dict[str, Any] = {**series, "listing": layout.label_listing(source)}
            read["groups"] = layout.private(source, "groups.jsonl.gz")
            if records := self.records_beside_labels(source):
                read["records"] = records
            yield self._spec("ingest", f"{source}/labels", labels, read, layout.labels(source))
        for column in self.columns_read(source):
            asked = RecordOptions(column=column, kind=study.sources[source].record_kinds.get(column))
            read = series | {"listing": layout.record_listing(source), "groups": layout.private(source, "groups.jsonl.gz")}
            place = place_of(column)
            yield self._spec("ingest", f"{source}/records/{place}", asked, read, layout.record(source, place))
        prepare = study.prepare_of(source)
        split = {"split": prepare.split.file} if prepare.split.file else {}
        given = {"split": self._given(f"source {source}: prepare.split.file", prepare.split.file)} if prepare.split.file else {}
        yield self._spec("prepare", source, prepare, series | split, layout.prepare(source), given=given)

    def _reduce_specs(self, cohort: str) -> Iterator[tuple[str, Spec]]:
        yield self._spec("reduce", f"{cohort}/describe", self.described(), self._prepared(cohort), self.layout.describe(cohort))
        if self.study.finetune:
            policy = FirewallOptions(leakage=self.study.reduce.leakage, look_up=self.study.reduce.look_up)
            yield self._spec("reduce", f"{cohort}/leakage", policy, self.leakage_inputs(cohort), self.layout.leakage(cohort))
        for arm in self.arms:
            resolved = self.resolved(arm)
            inputs, out = self.reduce_inputs(cohort, arm), self.layout.reduce(cohort, arm)
            given = {}
            if resolved.encoder and resolved.networks is None:
                given["encoder.weights"] = self._given(f"reduce.arms.{arm}.encoder", resolved.encoder)
            yield self._spec("reduce", f"{cohort}/{arm}", resolved, inputs, out, given=given)

    def resolved(self, arm: str) -> ResolvedArmOptions:
        """An arm with its reducer, and the network of its encoder where that is a run of the study."""
        options = self.arms[arm]
        runs = {str(run): run for _, run in self.runs()}
        networks = [self.study.pretrain[runs[options.encoder].name].backbone] if options.encoder in runs else None
        return ResolvedArmOptions(**options.model_dump(exclude={"reducer"}), reducer=self.reducer_of(arm), networks=networks)

    def described(self) -> DescribeOptions:
        """The descriptors of a slice that the reducers of all arms need (`DESCRIPTORS` of their files)."""
        usual = DescribeOptions()
        found: dict[str, set[Any]] = {"hash_sizes": set(usual.hash_sizes), "greys": set(usual.greys)}
        for arm in self.arms:
            reducer = self.reducer_of(arm)
            for name, option in plugins.find("reducer", reducer.name).constant("DESCRIPTORS", default={}).items():
                found[name].add(reducer.options[option])
        return DescribeOptions.model_validate({name: sorted(values) for name, values in found.items()})

    def _pretrain_spec(self, cohort: str, run: Run) -> tuple[str, Spec]:
        options = self.study.pretrain[run.name]
        sources = {source: self.study.sources[source].licence for source in self.study.all_cohorts[cohort]}
        licences = {source: licence or "not given" for source, licence in sources.items()} if any(sources.values()) else {}
        watch = set(WatchOptions.model_fields)
        values = options.model_dump(exclude={"arms", "seeds", "cohort", *watch})
        given = {}
        if options.init_weights:
            given["init_weights"] = self._given(f"pretrain.{run.name}.init_weights", options.init_weights)
        return self._spec(
            "pretrain",
            f"{cohort}/{run}",
            RunOptions(**values, seed=run.seed, licences=licences),
            self.pretrain_inputs(cohort, run),
            self.layout.pretrain(cohort, str(run)),
            given=given,
            machine=Machine(options.nodes, options.devices, options.device != "cpu", options.stop_before_deadline_s),
            watch=options.model_dump(mode="json", include=watch),
        )

    def _task_specs(self, task: str) -> Iterator[tuple[str, Spec]]:
        options, layout = self.study.finetune[task], self.layout
        runs = [run for _, run in self.runs_for(options)]
        starts = [StartOptions(run=str(run), backbone=self.study.pretrain[run.name].backbone) for run in runs]
        given = {
            f"weights.{name}": self._given(f"finetune.{task}.weights.{name}", path) for name, path in options.weights.items()
        }
        prepare = self.study.prepare_of(options.source)
        fitted = TaskOptions(
            **options.model_dump(),
            starts=starts,
            val_frac=prepare.split.val_frac,
            ingest=concerning_new_images("ingest", self.study.ingest_of(options.source).model_dump(mode="json")),
            prepare=concerning_new_images("prepare", prepare.model_dump(mode="json")),
        )
        machine = Machine(gpus=options.device != "cpu")
        yield self._spec(
            "finetune", task, fitted, self.finetune_inputs(task), layout.finetune(task), given=given, machine=machine
        )
        scored = EvaluationOptions(
            **self.study.evaluate.model_dump(),
            task=options.task,
            multilabel=options.options.get("multilabel"),
            controls={arm: names for arm in self.arms if (names := self.controls_of(arm))},
            whole=[arm for arm in self.arms if control_kinds().get(self.reducer_of(arm).name) == "whole"],
            sole=sum(plugins.find("task", other.task).constant("PREDICTS") == "classes" for other in self.study.finetune.values())
            == 1,
        )
        yield self._spec("evaluate", task, scored, self.evaluate_inputs(task), layout.evaluate(task))

    def _page_spec(self, page: str) -> tuple[str, Spec]:
        hidden: Any = {"sources": {"__all__": {"path", "labels", "records"}}, "id_key": True}
        if page != STUDY_PAGE:
            hidden |= {"finetune": True, "evaluate": True}
        study = self.study.model_dump(mode="json", exclude=hidden)
        shown = PageOptions(
            **self.study.report.model_dump(),
            study=study,
            declared=plugins.declared(),
        )
        return self._spec("report", page, shown, self.report_inputs(page), self.layout.report(page))

    def _spec(
        self,
        stage: str,
        name: str,
        options: Options,
        inputs: dict[str, Any],
        out: str,
        *,
        given: dict[str, str] | None = None,
        machine: Machine | None = None,
        watch: dict[str, Any] | None = None,
    ) -> tuple[str, Spec]:
        spec = Spec(
            stage=stage,
            name=name,
            study=self.study.study,
            root=str(self.layout.root),
            seed=self.study.seed,
            code=code_hash(PACKAGE / stage / "run.py", *(plugin.path for plugin in options.plugins())),
            options=options.model_dump(mode="json"),
            inputs=inputs,
            out=out,
            given=given or {},
            machine=machine or Machine(),
            watch=watch or {},
        )
        return self.layout.spec(stage, name), spec

    def _given(self, key: str, path: str) -> str:
        """Hash of a file that the study file names under `key`; after a change the jobs that read it run again.

        Raises:
            StudyError: it does not exist.
        """
        if not Path(path).is_file():
            raise StudyError(
                f"{key} does not exist (tried {Path(path).resolve()}). Correct the path in the study file; it is relative to the "
                "folder in which medssl runs."
            )
        info = Path(path).stat()
        return _sha256(str(Path(path).resolve()), info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed_ns: int) -> str:
    """Hash of a file, read once while it does not change: weights are large, and several tasks may start from them."""
    return sha256_file(path)


def _one_node(device: str, gpus: int, what: str) -> int | None:
    """What a job on one node requests; `--gpus` alone could be spread over several nodes."""
    return {"gpu": gpus, "nodes": 1}.get(what) if device == "cuda" else None
