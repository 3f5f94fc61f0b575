"""Whether runs and tasks can start: networks of one rank that fit their images, and existing pairs to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from medssl.artefacts.encoder import OWN
from medssl.artefacts.names import SCRATCH, Arm, Run, asked_pairs
from medssl.core import plugins
from medssl.core.options import PluginChoice, choice_of
from medssl.finetune.options import DEFAULT_BACKBONE, DEFAULT_SIZE, INFLATED, FinetuneOptions, no_inflation, wrapper_of
from medssl.nn.backbone_outline import attention_of, has, in_words, misfit, num_blocks, num_maps, patch_of, whole_patches, wrapped
from medssl.pretrain.options import not_installed
from medssl.pretrain.outlines import leaves_parts
from medssl.study.check_ranks import deepens, rank_of, without_part
from medssl.study.dag import Dag
from medssl.study.file import Loc
from medssl.study.options import Study

Problem = tuple[Loc, str]
UNFREEZES = {"full", "gradual"}
"""Modes that train the backbone, or its last `unfrozen_blocks`."""
ADAPTS = "lora"
"""The mode that trains low-rank adapters of attention."""


def start_problems(dag: Dag) -> Iterator[Problem]:
    """Problems of the starting points of runs, tasks and arms, and of the pairs to compare."""
    for name, run in dag.study.pretrain.items():
        yield from ((("pretrain", name, "loggers"), text) for text in not_installed(run.loggers))
    for name, task in dag.study.finetune.items():
        runs = [run for _, run in dag.runs_for(task)]
        yield from _nothing_to_start_from(name, task, runs)
        yield from _seeds_without_partner(name, task, runs)
        yield from _unlike_networks(dag.study, name, task, runs)
        yield from _modes_without_backbone(dag.study, name, task, runs)
        yield from _impossible_networks(dag, name, task, runs)
    yield from _absent_pairs(dag)
    yield from _tasks_without_scores(dag.study)


def start_notes(dag: Dag, tasks: Iterable[str]) -> Iterator[Problem]:
    """Tasks with more volumes in a step than fit, and those whose modes train nothing of a network that starts at random: a
    wrapping backbone around runs that left no part for it.
    """
    yield from _whole_batches_of_volumes(dag, tasks)
    for name in tasks:
        task, wrapper = dag.study.finetune[name], wrapper_of(dag.study.finetune[name].encoder)
        frozen = plugins.find("task", task.task).constant("FROZEN_MODES", default=[])
        modes = [mode for mode in task.modes if mode in frozen]
        if wrapper is None or not modes or without_part(wrapper).get("required", True):
            continue
        bare = [run.name for _, run in dag.runs_for(task) if task.encoder not in _words(dag.study.pretrain[run.name].objective)]
        if bare := list(dict.fromkeys([*bare, *task.weights])):
            title = plugins.find("backbone", wrapper).constant("TITLE")
            text = f"{title}: what lies around the encoder of {', '.join(bare)} starts at random, as nothing was trained for it"
            yield ("finetune", name, "encoder"), f"{text}. {' and '.join(modes)} {'leave' if len(modes) > 1 else 'leaves'} it so"


def _whole_batches_of_volumes(dag: Dag, tasks: Iterable[str]) -> Iterator[Problem]:
    """3-D tasks whose networks are trained in batches that were meant for slices, as no other size is given."""
    for name in tasks:
        task = dag.study.finetune[name]
        trained = set(task.modes) & {*UNFREEZES, ADAPTS, "decoder"}
        if rank_of(dag, task) == 3 and trained and "batch_size" not in task.model_fields_set:
            text = f"it is not given, so a step trains on {task.batch_size} volumes or 3-D patches"
            yield ("finetune", name, "batch_size"), f"{text}, which few GPUs hold. 2 is usual (nnU-Net)"


def _words(objective: PluginChoice) -> set[str]:
    """The words of `encoder` for which an objective leaves a part."""
    if not leaves_parts(objective):
        return set()
    declared = plugins.find("objective", objective.name).constant("PARTS", default={})
    return {str(part["encoder"]) for part in declared.values()}


def _tasks_without_scores(study: Study) -> Iterator[Problem]:
    """Tasks without a metric for their predictions."""
    named = [metric.name for metric in study.evaluate.metrics or ()]
    for name, task in study.finetune.items() if named else ():
        predicts = plugins.find("task", task.task).constant("PREDICTS")
        fit = [plugin.name for plugin in plugins.all_of("metric") if plugin.constant("PREDICTS") == predicts]
        if not set(named) & set(fit):
            text = f"none of {', '.join(named)} scores the {predicts} of task {name!r}. Add one of {', '.join(fit)}"
            yield ("evaluate", "metrics"), text


def _nothing_to_start_from(name: str, task: FinetuneOptions, runs: list[Run]) -> Iterator[Problem]:
    if not runs and not task.weights and not task.scratch:
        yield (
            ("finetune", name),
            "it has nothing to start from. Name a pre-training in inits or a file in weights, or set scratch: true",
        )


def _seeds_without_partner(name: str, task: FinetuneOptions, runs: list[Run]) -> Iterator[Problem]:
    alone = [run for run in runs if task.pair_seeds and run.seed not in task.seeds]
    if alone:
        yield (
            ("finetune", name, "pair_seeds"),
            f"run {str(alone[0])!r} has no partner among the seeds {task.seeds}. Add {alone[0].seed} to finetune.{name}.seeds",
        )


def _unlike_networks(study: Study, name: str, task: FinetuneOptions, runs: list[Run]) -> Iterator[Problem]:
    """Networks of different ranks, or a size of another rank than that of the networks."""
    dims = {run.name: study.pretrain[run.name].spatial_dims for run in runs}
    deep = [run for run, rank in dims.items() if rank == 3]
    if deepens(task.encoder) and deep:
        yield (
            ("finetune", name, "encoder"),
            f"{task.encoder} makes a 3-D network of a 2-D one, and run {deep[0]!r} is 3-D already (spatial_dims). Set encoder: "
            f"{OWN}, or name 2-D runs in inits",
        )
        return
    if len(set(dims.values())) > 1:
        yield (
            ("finetune", name, "inits"),
            f"the runs that it starts from differ in spatial_dims: {dims}. One task compares like with like: name the runs of "
            "one rank in inits, and make a second task for the others",
        )
        return
    rank = 3 if deepens(task.encoder) else next(iter(dims.values()), None)
    size = task.size or []
    if len(size) < 2 or len(size) == rank:
        return
    if rank is not None:
        yield (
            ("finetune", name, "size"),
            f"size {size} has {len(size)} numbers, and its networks are {rank}-D"
            f"{f' (encoder: {task.encoder})' if deepens(task.encoder) else ''}; expected one number, or {rank}",
        )


def _modes_without_backbone(study: Study, name: str, task: FinetuneOptions, runs: list[Run]) -> Iterator[Problem]:
    """Modes that a backbone of the starting points cannot have."""
    needs = plugins.find("task", task.task).constant("MODE_NEEDS", default={})
    for mode in [mode for mode in task.modes if mode in needs]:
        need, why = needs[mode]
        fitting = [plugin.name for plugin in plugins.all_of("backbone") if plugin.constant(need, default=False)]
        for unfit in [backbone for backbone in _backbones(study, task, runs) if not has(backbone, need)][:1]:
            text = f"mode {mode!r} is not for the backbone {in_words(unfit)}, as {why}"
            yield ("finetune", name, "modes"), f"{text}. Take it off modes, or start from {' or '.join(fitting)}"


def _impossible_networks(dag: Dag, name: str, task: FinetuneOptions, runs: list[Run]) -> Iterator[Problem]:
    """A backbone whose options do not fit each other, images that it cuts, and features of more blocks than a start has."""
    rank = rank_of(dag, task) or 2
    if task.backbone is not None and (why := misfit(_around(task.backbone, task), rank)):
        yield ("finetune", name, "backbone"), why
        return
    found = [_around(dag.study.pretrain[run.name].backbone, task) for run in runs]
    found += [] if task.backbone is None else [_around(task.backbone, task)]
    for backbone in found if task.encoder == INFLATED else []:
        if why := no_inflation(backbone):
            yield ("finetune", name, "encoder"), f"{why}. Set encoder: volume, or pre-train with spatial_dims: 3"
            return
    size = task.size or max((list(dag.study.pretrain[run.name].full_size) for run in runs), default=DEFAULT_SIZE)
    for backbone in found:
        nearest = whole_patches(backbone, rank, size)
        if nearest != list(size):
            cut = f"the patches of the backbone {in_words(backbone)}, which have {patch_of(backbone, rank)} pixels"
            yield ("finetune", name, "size"), f"size {size} cuts {cut}. The nearest size that does not: {nearest}"
            break
    for backbone in found:
        there = num_maps(backbone, rank)
        if there is not None and task.bottleneck is not None and (why := task.bottleneck.misfit(there)):
            yield ("finetune", name, "bottleneck"), why
            break
    probes = set(plugins.find("task", task.task).constant("PROBES", default=[]))
    asked = (
        ("options", "blocks", task.options.get("blocks"), probes, num_maps),
        ("unfrozen_blocks", "unfrozen_blocks", task.unfrozen_blocks, UNFREEZES, num_blocks),
    )
    for place, option, count, modes, number_in in asked:
        for backbone in found if count and set(task.modes) & modes else []:
            there = number_in(backbone, rank)
            if there is not None and (count or 0) > there:
                text = f"{option} is {count}, and the backbone {in_words(backbone)} has {there}. Lower it to {there} or less"
                yield ("finetune", name, place), text
                break
    for backbone in found if ADAPTS in task.modes else []:
        attention = attention_of(backbone, rank)
        if attention is not None and task.lora_rank >= attention.width:
            text = f"lora_rank is {task.lora_rank}, and the backbone {in_words(backbone)} has {attention.width} channels"
            yield ("finetune", name, "lora_rank"), f"{text}. Set it below that: 4 to 16 is usual"
            break
    if task.layer_decay != 1 and not set(task.modes) & {*UNFREEZES, ADAPTS}:
        text = f"it is for modes {', '.join(sorted(UNFREEZES))} and {ADAPTS}, and modes is {task.modes}"
        yield ("finetune", name, "layer_decay"), f"{text}. Leave it out, or add one of them"
    if task.unfrozen_blocks and not set(task.modes) & UNFREEZES:
        text = f"it is for modes {' and '.join(sorted(UNFREEZES))}, and modes is {task.modes}. Leave it out, or add one of them"
        yield ("finetune", name, "unfrozen_blocks"), text


def _backbones(study: Study, task: FinetuneOptions, runs: list[Run]) -> list[PluginChoice]:
    """The backbones of a task's networks: those of its starting points, in the wrapping one if there is one."""
    found = [study.pretrain[run.name].backbone for run in runs]
    if task.backbone is not None or not found:
        found.append(choice_of("backbone", DEFAULT_BACKBONE) if task.backbone is None else task.backbone)
    return [_around(backbone, task) for backbone in found]


def _around(backbone: PluginChoice, task: FinetuneOptions) -> PluginChoice:
    """The backbone of a task from that of a starting point."""
    wrapper = wrapper_of(task.encoder)
    return backbone if wrapper is None else wrapped(wrapper, backbone)


def arms_of(dag: Dag, task: FinetuneOptions) -> list[str]:
    """The arms in the scores of a task; scratch counts once, whatever its backbone."""
    arms = [Arm(run.name, reduction=run.arm) for _, run in dag.runs_for(task)]
    arms += [Arm(name) for name in task.weights]
    arms += [Arm(SCRATCH, backbone=DEFAULT_BACKBONE)] if task.scratch else []
    return list(dict.fromkeys(map(str, arms)))


def _absent_pairs(dag: Dag) -> Iterator[Problem]:
    """Pairs of `evaluate.compare` for which no task has both arms."""
    arms = {name: arms_of(dag, task) for name, task in dag.study.finetune.items()}
    for pair in dag.study.evaluate.compare if arms else []:
        if any(asked_pairs(of_task, [pair]) for of_task in arms.values()):
            continue
        found = "; ".join(f"finetune.{name} has {', '.join(of_task)}" for name, of_task in arms.items())
        yield (
            ("evaluate", "compare"),
            f"no task compares {pair[0]!r} with {pair[1]!r}: {found}. Both must start one task, and from the same reduction arm "
            "where they are pre-trainings",
        )
