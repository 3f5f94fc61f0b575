"""Flow of images: found, refused by reason, split, kept or dropped, used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pandas as pd

from medssl.artefacts.names import in_cohort, reduction_of
from medssl.report.drawings import one_chart
from medssl.report.evidence import Evidence, arm_of
from medssl.report.flow_chart import Step, flow_chart
from medssl.report.mixtures import sources_of
from medssl.report.parts import PARTS, num_subjects, ordered_parts, part_of, way_of_split
from medssl.report.section import Figure, Section, Table, Text, count, counted, shown

PLACE = 20
ANSWERS = {
    "CLAIM": {"8": "rejected", "12": "rejected", "19": "samples", "35": "rejected"},
    "TRIPOD+AI": {"11": "rejected", "20": "series"},
}
MOST_CODES = 6


def flow(evidence: Evidence) -> Section:
    """A diagram per cohort and per source that is in none, and the table of every refusal code."""
    if not evidence.series and not evidence.rejected:
        return Section.not_given("Flow of images", "No source was ingested for this page.")
    blocks: list[Figure | Table | Text] = []
    used: set[str] = set()
    for cohort in sorted({in_cohort(name)[0] for name in evidence.keeps}):
        sources = sources_of(evidence, cohort)
        used |= set(sources)
        blocks.append(_diagram(evidence, f"cohort {cohort}", f"flow-{cohort}", sources, cohort))
    for source in sorted(set(evidence.series) - used):
        blocks.append(_diagram(evidence, f"source {source}", f"flow-{source}", [source], None))
    refusals = refusal_rows(evidence)
    if len(refusals):
        columns = [
            ("source", "Source", None),
            ("code", "Reason", None),
            ("num_groups", "Items", count),
            ("num_files", "Files", count),
            ("example", "In words", None),
        ]
        blocks.append(Table("refusals", "Refused files, by reason.", refusals, shown(refusals, columns)))
    lead = (
        "Every file of every source is counted once: accepted, or refused with a reason. Results name no files. Where the study "
        "was run, the private table .medssl/<study>/<source>/items.tsv lists the files of each id."
    )
    return Section("Flow of images", lead, tuple(blocks))


def refusal_rows(evidence: Evidence) -> pd.DataFrame:
    """A row per source and refusal code; label files that are separate from the images are `<source>, label files`."""
    whole = {**evidence.rejected, **{f"{source}, label files": table for source, table in evidence.label_rejected.items()}}
    tables = [table.assign(source=source) for source, table in sorted(whole.items()) if len(table)]
    if not tables:
        return pd.DataFrame()
    grouped = pd.concat(tables).groupby(["source", "code"], sort=True)
    rows = grouped.agg(num_groups=("num_files", "size"), num_files=("num_files", "sum"), example=("sentence", "first"))
    return rows.reset_index()


def _diagram(evidence: Evidence, title: str, name: str, sources: list[str], cohort: str | None) -> Figure:
    steps, rows = [], []

    def note(step: str, what: str, value: int, unit: str) -> str:
        rows.append({"flow": title, "step": step, "what": what, "count": value, "unit": unit})
        return counted(value, unit)

    series = pd.concat([evidence.series[s] for s in sources if s in evidence.series] or [pd.DataFrame({"num_files": []})])
    refused = pd.concat(
        [evidence.rejected[s] for s in sources if s in evidence.rejected] or [pd.DataFrame({"num_files": [], "code": []})]
    )
    accepted_files, refused_files = int(series["num_files"].sum()), int(refused["num_files"].sum())
    by_code = refused.groupby("code")["num_files"].sum().sort_values(ascending=False, kind="stable")
    codes = [f"{code}: {note('refused', str(code), int(files), 'file')}" for code, files in by_code.items()]
    if len(codes) > MOST_CODES:
        codes = [*codes[: MOST_CODES - 1], f"and {len(codes) - MOST_CODES + 1} more reasons (table below)"]
    steps.append(
        Step(
            f"Found: {note('found', 'files', accepted_files + refused_files, 'file')}",
            (", ".join(sources),),
            f"Refused: {note('refused', 'all', refused_files, 'file')}",
            tuple(codes) or ("nothing was refused",),
        )
    )
    samples = pd.concat([evidence.samples[s] for s in sources if s in evidence.samples] or [pd.DataFrame()])
    subjects = num_subjects(series, samples)
    who = note("accepted", "subjects", subjects, "subject") if subjects else "no patient ids: the image is the unit"
    steps.append(Step(f"Accepted: {note('accepted', 'volumes', len(series), _things(series))}", (who,)))
    steps += [_labels_step(evidence, source, note) for source in sources if source in evidence.label_counts]
    if len(samples):
        splits, thing = part_of(samples).value_counts(), _thing(samples)
        folds = [part for part in ordered_parts(splits.index) if part not in PARTS]
        aside = [f"{part}: {note('split', part, int(splits.get(part, 0)), thing)}" for part in folds or ("val", "test")]
        whole = note("split", "all", len(samples), thing)
        train = note("split", "train", int(splits.get("train", 0)), thing)
        ways = [
            way_of_split(source, evidence.samples[source], evidence.asked) for source in sources if source in evidence.samples
        ]
        split = f", split {'; '.join(dict.fromkeys(ways))}" if all(ways) else ""
        if folds:
            others = [f"training part of the others: {train}"] if "train" in splits else []
            lines = (f"in {counted(len(folds), 'fold')}{split}", *others)
            steps.append(Step(f"Cross-validation: {whole}", lines, "Held out in turn", tuple(aside)))
        else:
            steps.append(Step(f"Training part: {train}", (f"of {whole}{split}",), "Held out", tuple(aside)))
    for arm, keep in sorted(evidence.keeps.items()):
        if cohort is None or in_cohort(arm)[0] != cohort:
            continue
        kept = note(arm, "kept", int(keep["keep"].sum()), "slice")
        why = keep.loc[~keep["keep"].astype(bool), "reason"].value_counts().sort_index()
        aside = [f"{reason}: {note(arm, str(reason), int(number), 'slice')}" for reason, number in why.items()]
        dropped = note(arm, "dropped", int((~keep["keep"].astype(bool)).sum()), "slice")
        runs = [run for run in evidence.curves if reduction_of(run) == arm]
        seeds = Counter(arm_of(run) for run in sorted(runs))
        named = ", ".join(f"{run} ({note(arm, f'pre-trains {run}', number, 'seed')})" for run, number in seeds.items())
        used = f"pre-trains {named}" if runs else "used by no run on this page"
        steps.append(
            Step(f"Arm {in_cohort(arm)[1]} keeps {kept}", (used,), f"Drops {dropped}", tuple(aside) or ("nothing",), True)
        )
    alt = f"Flow of {title}. " + ". ".join(f"{step.title}; {step.aside_title} {', '.join(step.aside)}" for step in steps)
    return Figure(name, f"Flow of {title}.", alt, one_chart(flow_chart(steps, alt=alt)), pd.DataFrame(rows))


def _labels_step(evidence: Evidence, source: str, note: Callable[[str, str, int, str], str]) -> Step:
    """What the label files of a source gave: how many images have one, which files were refused and why."""
    counts = evidence.label_counts[source]
    refused = evidence.label_rejected.get(source, pd.DataFrame({"code": [], "num_files": []}))
    by_code = refused.groupby("code")["num_files"].sum().sort_values(ascending=False, kind="stable")
    aside = [f"{code}: {note('label files', str(code), int(files), 'file')}" for code, files in by_code.items()]
    strangers = counts.strangers - int(by_code.sum())
    if strangers > 0:
        aside.append(f"for none of the images: {note('label rows', 'strangers', strangers, 'row')}")
    left = counts.items - counts.labelled
    without = (f"without a label: {note('labels', 'without', left, 'case')}",) if left else ()
    title = f"Labelled: {note('labels', 'with', counts.labelled, 'case')}"
    lines = (f"by the label files of {source}, of {note('labels', 'all', counts.items, 'case')}", *without)
    refusals = note("label files", "refused", int(by_code.sum()), "label file")
    return Step(title, lines, f"Refused: {refusals}", tuple(aside) or ("nothing was refused",))


def _thing(samples: pd.DataFrame) -> str:
    return "image" if set(samples["kind"]) == {"images"} else "slice"


def _things(series: pd.DataFrame) -> str:
    return "image set" if "kind" in series and set(series["kind"]) == {"images"} else "volume"
