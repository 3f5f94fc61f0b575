"""The text of a proposed study file: short, with a comment beside every assumption."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from medssl.core.file_names import UNKNOWN
from medssl.study.init_sources import FEW, FEWEST_TESTED, Proposal, Source, Task

WIDTH = 120
COLUMN = 46
"""The column of comments that stand beside a value."""


def study_text(proposal: Proposal, file: str) -> str:
    """The text of a study file; `file` is its name, for the commands at its top."""
    sources = proposal.sources
    lines = [*_head(proposal, file), "", "sources:"]
    for source in sources:
        lines += _source_lines(source)
    lines += [*_window_lines(sources), "", "pretrain:"]
    for source in sources:
        lines += _pretrain_lines(source, many=len(sources) > 1)
    tasks = [(source, task) for source in sources for task in source.tasks]
    lines += ["", *(_task_lines(tasks) if tasks else _no_task_lines(sources))]
    return "\n".join(lines) + "\n"


def _head(proposal: Proposal, file: str) -> Iterator[str]:
    source = proposal.sources[0]
    written = yaml_of(file)
    commands = [
        (f"medssl plan {written}", "its hours, memory and disk on this machine"),
        *((f"medssl run pretrain_{one.name} --config {written}", "an encoder and its page") for one in proposal.sources),
    ]
    if any(one.tasks for one in proposal.sources):
        commands.append((f"medssl run report --config {written}", "also fine-tuning, evaluation and the full page"))
    yield from comment(f"Written by `medssl init {source.path}`. It runs as it is, from the folder that it was written in:")
    width = max(len(command) for command, _ in commands) + 4
    yield from (f"#   {command:<{width}}{what}" for command, what in commands)
    yield from comment(
        "Comments mark what is assumed. Options that are left out have their recommended values (docs/reference/options.md)."
    )
    for note in proposal.notes:
        yield "#"
        yield from comment(note)


def _source_lines(source: Source) -> Iterator[str]:
    part = source.part
    yield beside(f"  {source.name}:", _holds(source))
    relative = not Path(source.path).expanduser().is_absolute()
    yield beside(f"    path: {yaml_of(source.path)}", "relative to the folder in which medssl runs" if relative else "")
    if source.labels:
        yield beside(f"    labels: {yaml_of(source.labels)}", _labels_hold(source))
    elif source.may_be_classes:
        yield from comment("If each folder of images is a class, and none is a patient, uncomment the next line:", 4)
        yield "    # labels: folders"
    if source.modality:
        also = source.modality[1:] if isinstance(source.modality, list) else []
        why = f"excludes files of unknown modality; no {also[0]} was found" if also else "excludes images of other modalities"
        yield beside(f"    ingest: {{modality: {yaml_of(source.modality)}}}", why)
    elif part.modality == UNKNOWN and part.num_volumes:
        yield from comment(
            "Assumed: not CT, because the files state no modality. For CT in Hounsfield units, uncomment the next line:",
            4,
        )
        yield "    # ingest: {modality: CT}"
    yield "    prepare:"
    yield from _split_lines(source)


def _split_lines(source: Source) -> Iterator[str]:
    part, share = source.part, source.share
    units, held = _counted(part.num_units, part.unit), round(share * part.num_units)
    if source.has_own_parts:
        said = "only for images whose part is not given by their folder or file"
    elif not source.tasks:
        said = "no task, so all images are used for pre-training"
    else:
        said = f"of {units}: {held} for validation, {held} for testing"
    yield beside(f"      split: {{val_frac: {share:g}, test_frac: {share:g}}}", said)
    if not source.tasks and not source.has_own_parts and part.num_units >= FEWEST_TESTED:
        yield from comment(
            "Will labels come later? Set both shares to 0.1 now. After the first run, pre-training would run again.", 6
        )
    if source.tasks and not source.has_own_parts and part.num_units < FEW:
        yield from comment(
            f"{units} are few: scores on {held} of them have wide intervals. With `split: {{folds: 5}}` each is tested once. "
            "This needs another source for pre-training, because all of these are then held out.",
            6,
        )


def _window_lines(sources: tuple[Source, ...]) -> Iterator[str]:
    modalities = {source.part.modality for source in sources if source.part.num_volumes}
    yield from ("", "prepare:") if modalities else ()
    if "CT" in modalities:
        what = "assumed, in HU: air to bone. Lung and soft tissue: [[-1000, 400]]"
        yield beside("  window_hu: [[-1000, 1000]]", what)
    if modalities - {"CT"}:
        yield beside("  percentiles: [0.5, 99.5]", "assumed: the network sees the grey values between these percentiles")


def _pretrain_lines(source: Source, *, many: bool) -> Iterator[str]:
    part = source.part
    yield f"  simclr{f'_{source.name}' if many else ''}:"
    yield f"    cohort: {source.name}"
    yield beside(f"    size: [{source.side}]", f"assumed: pixels of a view; a slice has about {part.side}")
    few = part.num_slices < 128
    why = f"assumed: {'small, for only' if few else 'per step, of'} {part.num_slices:,} slices"
    yield beside(f"    batch_size: {source.batch_size}", why)
    yield beside("    epochs: 100", "assumed: passes over the kept slices; fewer are faster")


def _task_lines(tasks: list[tuple[Source, Task]]) -> Iterator[str]:
    yield "finetune:"
    for source, task in tasks:
        yield f"  {task.name}:"
        yield beside(f"    task: {task.kind}", _learns(task))
        yield f"    source: {source.name}"
        if task.found.several:
            yield beside("    options: {multilabel: true}", "some images have several classes")
        yield beside(f"    fractions: {yaml_of(list(task.fractions))}", "assumed: shares of the training labels, one fit each")


def _no_task_lines(sources: tuple[Source, ...]) -> Iterator[str]:
    yield from comment(
        "No task. To add labels later: `labels: FILE` under a source (a table with id and label, or a folder of masks), shares "
        "above 0 in its split, and a section `finetune`."
    )
    for source in sources:
        part = source.part
        if part.labels and part.num_units < FEWEST_TESTED:
            what = " and ".join(dict.fromkeys(found.what for found in part.labels))
            units = f"{_counted(part.num_units, part.unit)} of {source.name}"
            yield from comment(f"There is no task on its {what}: {units} are too few for training, validation and testing.")


def _holds(source: Source) -> str:
    part = source.part
    if not part.num_volumes:
        return f"{part.num_slices:,} pictures"
    what = part.modality if part.modality != UNKNOWN else "unknown modality"
    volumes, slices = _counted(part.num_volumes, "volume"), _counted(part.num_slices, "slice")
    return f"{volumes} ({what}), {slices}, {_counted(part.num_units, part.unit)}"


def _labels_hold(source: Source) -> str:
    found = next(found for found in source.part.labels if found.labels)
    items = "volumes" if source.part.num_volumes else "pictures"
    what = f"{found.what} of {found.num_labelled} of {source.part.num_scans} {items}"
    return f"{what}: {_words(found.classes)}" if found.classes else what


def _learns(task: Task) -> str:
    found = task.found
    if found.labels is None:
        return "masks were found beside the images" if found.what == "masks" else "classes were found with the images"
    return "assumed: the masks are the target" if found.what == "masks" else f"assumed: the classes are {_words(found.classes)}"


def _words(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:6])
    return shown if len(classes) <= 6 else f"{shown}, … ({len(classes)})"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def yaml_of(value: object) -> str:
    """A value as YAML, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).splitlines()[0]


def comment(text: str, indent: int = 0) -> Iterator[str]:
    """Lines of a comment."""
    start = " " * indent + "# "
    for line in text.splitlines():
        yield from textwrap.wrap(line, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def beside(line: str, text: str) -> str:
    """A line and its comment."""
    return f"{line:<{COLUMN}}  # {text}" if text else line
