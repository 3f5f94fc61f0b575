"""Methods: a paragraph ready to paste, from the options that were used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from markupsafe import Markup

from medssl.artefacts.names import in_cohort, is_scratch
from medssl.core import plugins
from medssl.report.checklist_items import CLAIM, answered_in
from medssl.report.evidence import Evidence, Named, run_of
from medssl.report.mixtures import mixture_rows, mixtures_in_words
from medssl.report.number_labels import drawn_evenly_over
from medssl.report.parts import num_folds, way_of_split
from medssl.report.section import Section, Text, count, counted
from medssl.report.shares import distinct, labels_of, ordered_shares, share_name, share_phrase
from medssl.report.words import holm_family, label_use, mode_name, ordered_modes, title_of

PLACE = 150
ANSWERS = {
    "CLAIM": {"9": "samples", "24": "curves", "26": "fits"},
    "TRIPOD+AI": {"7": "series", "12": "scores"},
    "MI-CLAIM": {"3": "fits"},
}
CITATIONS = {
    "bca": "Efron, J Am Stat Assoc 1987;82:171",
    "delong": "DeLong et al., Biometrics 1988;44:837",
    "obuchowski": "Obuchowski & Rockette, Commun Stat Simul Comput 1995;24:285",
    "zou": "Zou & Donner, Stat Med 2008;27:1693",
    "holm": "Holm, Scand J Stat 1979;6:65",
    "reduction": "Wolf et al., arXiv 2308.06534",
    "claim": "Tejani et al., Radiol Artif Intell 2024;6:e240300",
}
"""Beside those of plug-ins, which are the `SOURCE` of their files."""

INTERVALS = {
    "bca": "bias-corrected and accelerated (BCa) [bca]",
    "percentile": "percentile",
    "normal": "normal, where the bootstrap was far off the estimate",
    "none": "no interval",
}
"""What `method` in scores.tsv may say, each with `+seeds` where the spread over seeds is in it."""


def methods(evidence: Evidence) -> Section:
    """Data, reduction, pre-training, fine-tuning and statistics in prose with citations; gaps are named, not filled."""
    makers = (_data, _windows, _reduction, _pretraining, _finetuning, _statistics, _metrics)
    parts = [make(evidence) for make in makers]
    if any(parts) and evidence.on_page:
        parts.append(_checklist(evidence))
    text = " ".join(part for part in parts if part)
    if not text:
        return Section.not_given("Methods", "No stage left a receipt.")
    citations = CITATIONS | _citations_of_plugins()
    cited = sorted({citation for name, citation in citations.items() if f"[{name}]" in text})
    for place, citation in enumerate(cited, start=1):
        for name in (n for n, c in citations.items() if c == citation):
            text = text.replace(f"[{name}]", f"[{place}]")
    references = Markup("<ol class='references'>{}</ol>").format(Markup("").join(Markup("<li>{}</li>").format(c) for c in cited))
    lead = "Ready to paste. What is in double brackets is known to the authors only."
    facts = {"text": text, "references": cited, "counts": _counts(evidence)}
    return Section("Methods paragraph", lead, (Text(text, "copy"), Text(references, "html")), facts)


def _citations_of_plugins() -> dict[str, str]:
    """By name, the citation of each objective and metric that has one."""
    found = {
        plugin.name: plugin.constant("SOURCE", default=None)
        for kind in ("objective", "metric")
        for plugin in plugins.all_of(kind)
    }
    return {name: source for name, source in found.items() if source is not None}


def _counts(evidence: Evidence) -> dict[str, Any]:
    """What the paragraph counts; its other numbers are options of the study."""
    tables = {"series": evidence.series, "samples": evidence.samples, "keeps": evidence.keeps, "fits": evidence.fits}
    series = pd.concat([*evidence.series.values(), pd.DataFrame({"resampled": []})])
    methods_used = pd.concat([*(scores["method"] for scores in evidence.scores.values()), pd.Series(dtype=str)])
    numbers = ["fraction", "seed", "pretrain_seed", "num_val"]
    return {
        "rows": {kind: {name: len(table) for name, table in named.items()} for kind, named in tables.items()},
        "sources": len(evidence.series),
        "series": len(series),
        "straightened": int(series["resampled"].eq(True).sum()),
        "refused_files": {source: int(table["num_files"].sum()) for source, table in evidence.rejected.items()},
        "labels": {source: counts.plain() for source, counts in evidence.label_counts.items()},
        "refused_labels": {
            source: table.groupby("code")["num_files"].sum().to_dict() for source, table in evidence.label_rejected.items()
        },
        "mixtures": mixture_rows(evidence).to_dict("records"),
        "kept": {arm: int(keep["keep"].sum()) for arm, keep in evidence.keeps.items()},
        "runs": len(evidence.curves),
        "distinct": {task: fits.reindex(columns=numbers).nunique().to_dict() for task, fits in evidence.fits.items()},
        "fractions": {task: sorted(set(fits["fraction"])) for task, fits in evidence.fits.items()},
        "num_val": {task: fits["num_val"].max() for task, fits in evidence.fits.items() if "num_val" in fits},
        "intervals": methods_used.str.removesuffix("+seeds").value_counts().to_dict() | {"all": len(methods_used)},
        "answered": sum(answered_in(_with_methods(evidence), item) is not None for item in CLAIM),
        "items": len(CLAIM),
    }


def _data(evidence: Evidence) -> str:
    if not evidence.series:
        return ""
    parts = []
    for source, series in sorted(evidence.series.items()):
        samples = evidence.samples.get(source)
        slices = f" with {counted(len(samples), 'slice or image', 'slices or images')}" if samples is not None else ""
        refused = int(evidence.rejected[source]["num_files"].sum()) if source in evidence.rejected else 0
        volumes = counted(len(series), "volume or image set", "volumes or image sets")
        parts.append(f"{source}: {volumes}{slices}, {counted(refused, 'file')} refused")
    return (
        f"Images came from {counted(len(parts), 'source')} ({'; '.join(parts)}; [[setting, dates and eligibility]]). "
        "Each was checked for geometry, completeness and plausibility on ingestion, refused with a reason code "
        f"where a check failed, and reoriented to RAS+{_straightened(evidence)}.{_label_files(evidence)}{_mixed(evidence)} "
        f"Identifiers were replaced by keyed hashes.{_parts(evidence)}"
    )


def _label_files(evidence: Evidence) -> str:
    """What label files gave, and which were refused."""
    parts = []
    for source, counts in sorted(evidence.label_counts.items()):
        refused = evidence.label_rejected.get(source, pd.DataFrame({"code": [], "num_files": []}))
        by_code = refused.groupby("code")["num_files"].sum()
        codes = ", ".join(f"{code} {int(number)}" for code, number in by_code.items())
        strangers = counts.strangers - int(by_code.sum())
        aside = [f"{counted(int(by_code.sum()), 'label file')} refused" + (f" ({codes})" if codes else "")]
        aside += [f"{counted(strangers, 'label row')} for none of the images"] if strangers > 0 else []
        of_all = counted(counts.items, "volume or image", "volumes and images")
        parts.append(f"{source}: {count(counts.labelled)} of {of_all} labelled, {', '.join(aside)}")
    return f" Labels came from files ({'; '.join(parts)})." if parts else ""


def _mixed(evidence: Evidence) -> str:
    """That modalities were pre-trained on together, with their numbers."""
    found = mixtures_in_words(evidence)
    return f" Several modalities were used together ({'; '.join(found)})." if found else ""


def _straightened(evidence: Evidence) -> str:
    """Whether the way to RAS+ kept every voxel's value, as the tables of ingest say."""
    series = pd.concat(evidence.series.values())
    if "resampled" not in series or series["resampled"].isna().any():
        return ""
    num = int(series["resampled"].sum())
    if not num:
        return " without interpolation"
    return (
        f", without interpolation but for {num} of {counted(len(series), 'volume or image set', 'volumes or image sets')}, "
        "whose tilted or uneven slices were resampled to a regular grid by linear interpolation"
    )


def _parts(evidence: Evidence) -> str:
    """How each source was divided, where that is known."""
    sources: dict[str, list[str]] = {}
    folded: dict[str, list[str]] = {}
    for source, samples in sorted(evidence.samples.items()):
        if folds := num_folds(samples):
            units = " and ".join(sorted(set(samples["unit"].astype(str))))
            folded.setdefault(f"{folds}-fold cross-validation by {units}; predictions pooled over folds", []).append(source)
        elif way := way_of_split(source, samples, evidence.asked):
            sources.setdefault(way, []).append(source)
    ways = "; ".join(f"{', '.join(names)} {way}" for way, names in sources.items())
    text = f" Sources were split into training, validation and test parts: {ways}." if ways else ""
    return text + "".join(f" Tasks on {', '.join(names)}: {way}." for way, names in folded.items())


def _windows(evidence: Evidence) -> str:
    """What intensities the network sees, and on what grid, by the options of prepare."""
    options = evidence.asked.prepare
    if options is None or not evidence.series:
        return ""
    series = pd.concat(evidence.series.values()).reindex(columns=["modality", "kind"])
    modalities = set(series.loc[series["kind"] != "images", "modality"].dropna().astype(str))
    parts = []
    if "CT" in modalities:
        parts.append("CT to " + " and ".join(f"{low:g} to {high:g} HU" for low, high in options.window_hu))
    if (others := sorted(modalities - {"CT"})) and options.percentiles:
        low, high = options.percentiles
        parts.append(f"{' and '.join(others)} to the {low:g} to {high:g} percentiles of each volume's foreground")
    if (series["kind"] == "images").any():
        parts.append("8- or 16-bit pictures to the whole range of their type")
    own = {source: evidence.asked.own(source).model_fields_set for source in evidence.asked.sources}
    grids = {source: evidence.asked.spacing_of(source) for source in own if source in evidence.series}
    resampled = [f"{source} to {_grid(grid)} mm" for source, grid in sorted(grids.items()) if grid]
    moved = f"resampled: {', '.join(resampled)}; the others kept their spacing" if resampled else "kept their spacing"
    other = sorted(source for source, given in own.items() if {"window_hu", "percentiles"} & given)
    aside = f" (other settings for {', '.join(other)}: see the study file)" if other else ""
    return f"Intensities were windowed: {'; '.join(parts)}{aside}. Volumes were {moved}.".replace("were kept", "kept")


def _grid(spacing_mm: list[float | None]) -> str:
    return " × ".join("unchanged" if step is None else f"{step:g}" for step in spacing_mm)


def _reduction(evidence: Evidence) -> str:
    arms = [
        f"{in_cohort(name)[1]} ({int(keep['keep'].sum())} of {len(keep)} slices)" for name, keep in sorted(evidence.keeps.items())
    ]
    return f"Training slices were reduced before pre-training in these arms: {', '.join(arms)} [reduction]." if arms else ""


def _arithmetic(evidence: Evidence, name: str, precision: str | None) -> str:
    """That of a run's network; `auto` is what the devices of its receipts make of it."""
    if precision != "auto":
        return str(precision)
    runs = {run: evidence.receipts.get(f"pretrain/{run}") for run in evidence.curves if run_of(run).name == name}
    ran = [str(receipt.notes.get("device")) for receipt in runs.values() if receipt is not None]
    return " and ".join(sorted({"bf16" if device.startswith("cuda") else "fp32" for device in ran})) or "fp32 or bf16"


def _pretraining(evidence: Evidence) -> str:
    if not evidence.curves:
        return ""
    recipes = []
    for name, options in sorted(evidence.asked.pretrain.items()):
        objective = options.objective.name
        cite = f" [{objective}]" if objective in _citations_of_plugins() else ""
        length = f"{options.epochs} epochs" if options.max_steps is None else f"{options.max_steps} steps"
        start = options.init_run or ("given weights" if options.init_weights else "random weights")
        network = title_of("backbone", options.backbone.name)
        recipes.append(
            f"{name}: {title_of('objective', objective)}{cite}, {network}, starting from {start}, {length}, "
            f"batch {options.batch_size}, {options.optimizer} at {options.lr}, weight decay {options.weight_decay}, "
            f"{_arithmetic(evidence, name, options.precision)}"
        )
    what = f" ({'; '.join(recipes)})" if recipes else ""
    runs = counted(len(evidence.curves), "run")
    return f"Encoders were pre-trained {label_use(evidence)} in {runs}{what}."


def _finetuning(evidence: Evidence) -> str:
    parts = []
    for task, fits in sorted(evidence.fits.items()):
        modes = ", ".join(mode_name(mode) for mode in ordered_modes(fits["mode"]))
        labels = labels_of(fits, evidence.scores.get(task))
        shares = ordered_shares(distinct(fits, labels)["fraction"])
        plain = [share for share in shares if share_phrase(share, labels) == f"{share_name(share)} of the labels"]
        given = [share_phrase(share, labels) for share in shares if share not in plain]
        given += [f"{', '.join(map(share_name, plain))} of the labels"] if plain else []
        parts.append(f"{task}: {counted(len(fits), 'fit')} ({modes}; {', '.join(given)}; {_seeds(fits)}; {_selection(fits)})")
    if not parts:
        return ""
    return f"{_started(evidence.fits)} fine-tuned with one recipe ({'; '.join(parts)}){_subsets(evidence)}."


def _subsets(evidence: Evidence) -> str:
    """How subsets of the labels were drawn, where there are any."""
    shares = {task: set(fits["fraction"]) for task, fits in evidence.fits.items() if (fits["fraction"] != 1).any()}
    if not shares:
        return ""
    nested = "nested and " if any(len(found) > 1 for found in shares.values()) else ""
    tasks = evidence.asked.finetune
    listed = [task for task in shares if task in tasks and tasks[task].label_order == "listed"]
    drawn = [task for task in shares if task not in listed]
    by = sorted({str(evidence.scores[task]["unit"].iloc[0]) if task in evidence.scores else "unit" for task in drawn})
    evenly = sorted({what for task in drawn if (what := drawn_evenly_over(tasks.get(task)))})
    how = [f"drawn by {' or '.join(by)}{' and ' if evenly else ''}{' or '.join(evenly)}"] if drawn else []
    how += ["taken in the order of the split file" + (f" ({', '.join(sorted(listed))})" if drawn else "")] if listed else []
    return f"; label subsets were {nested}{', or '.join(how)}"


def _started(fits: Named) -> str:
    """What was fine-tuned, by the starting points that the tables of fits name."""
    inits = {task: list(table["init"].astype(str)) if "init" in table else [] for task, table in sorted(fits.items())}
    beside = [task for task, names in inits.items() if any(map(is_scratch, names))]
    if not any(not is_scratch(name) for names in inits.values() for name in names):
        return "Networks from random weights were" if beside else "Each starting point was"
    if not beside:
        return "Each encoder was"
    of_tasks = "" if len(beside) == len(inits) else f" (in {', '.join(beside)})"
    return f"Each encoder and a network of the same architecture from random weights{of_tasks} were"


def _seeds(fits: pd.DataFrame) -> str:
    """`1 fine-tuning seed on each of 3 pre-training seeds`, or `3 fine-tuning seeds, one to each of 3 pre-training seeds`."""
    seeds = counted(fits["seed"].nunique(), "fine-tuning seed")
    if "pretrain_seed" not in fits:
        return seeds
    of_encoders = fits[~fits["init"].astype(str).map(is_scratch)] if "init" in fits else fits
    pairs = of_encoders[["pretrain_seed", "seed"]].dropna().drop_duplicates()
    runs = pairs["pretrain_seed"].nunique()
    if runs < 2:
        return seeds
    alone = (pairs["pretrain_seed"] == pairs["seed"]).all()
    return f"{seeds}{', one to' if alone else ' on'} each of {runs} pre-training seeds"


def _selection(fits: pd.DataFrame) -> str:
    """By what the model of a fit was chosen, as its table says."""
    rules = sorted(set(fits["selection"].dropna())) if "selection" in fits else []
    if not rules:
        return "[[how the model was chosen]]"
    num_val = int(fits["num_val"].max()) if "num_val" in fits and fits["num_val"].notna().any() else 0
    cases = f" ({counted(num_val, 'validation case')})" if num_val else ""
    return f"the model was chosen by: {' or '.join(rules)}{cases}"


def _statistics(evidence: Evidence) -> str:
    if not evidence.scores:
        return ""
    scores = pd.concat(evidence.scores.values())
    level = f"{100 * scores['confidence'].iloc[0]:g} %"
    draws = evidence.asked.evaluate.bootstrap
    resamples = f"{draws} resamples" if draws else "resamples"
    parts = [f"Scores are means over seeds with {level} bootstrap intervals over test units ({resamples}): {_intervals(scores)}"]
    if "seeds_in_interval" in scores and (scores["seeds_in_interval"] > 0).any():
        parts.append(
            "the spread over seeds is in the intervals wherever there are three or more, seeds crossed with test units as "
            "readers with cases [obuchowski], the arms of both joined in quadrature [zou]"
        )
    used = {str(method) for table in evidence.comparisons.values() for method in table["method"]}
    if used:
        parts.append(
            "differences between arms were bootstrapped in pairs on the same units"
            + (", binary AUCs also compared by DeLong's test [delong]" if "delong" in used else "")
            + (", case scores by Wilcoxon's signed ranks" if "wilcoxon" in used else "")
            + f", with Holm's correction over {holm_family(evidence.asked.evaluate)} [holm]"
        )
    return "; ".join(parts) + "."


def _intervals(scores: pd.DataFrame) -> str:
    """Which kinds of interval the scores have, and how many of each where there are several."""
    counts = scores["method"].str.removesuffix("+seeds").value_counts()
    found = [(words, int(counts[name])) for name, words in INTERVALS.items() if name in counts]
    found += [(str(name), int(number)) for name, number in sorted(counts.items()) if name not in INTERVALS]
    if len(found) == 1:
        return found[0][0]
    return ", ".join(f"{words} in {number}" for words, number in found) + f" of {len(scores)} scores"


def _metrics(evidence: Evidence) -> str:
    """What those scores mean that say so themselves (`IN_WORDS` of a metric), with the options that they were made with."""
    scores = pd.concat([*evidence.scores.values(), pd.DataFrame({"metric": []})])
    parts = []
    for plugin in plugins.all_of("metric"):
        rows, words = scores[scores["metric"] == plugin.name], plugin.constant("IN_WORDS", default=None)
        if words and len(rows):
            options = rows["options"].iloc[0] if "options" in rows else plugin.check({})
            cite = f" [{plugin.name}]" if plugin.constant("SOURCE", default=None) else ""
            parts.append(words.format(**options) + cite)
    if not parts:
        return ""
    measured = {1: "It is", 2: "Both are"}.get(len(parts), "All are")
    return (
        "; ".join(parts)
        + f". {measured} measured on the grid of the source; cases with an empty mask are counted in the results."
    )


def _checklist(evidence: Evidence) -> str:
    """How much of CLAIM the page answers, with this paragraph on it."""
    answered = sum(answered_in(_with_methods(evidence), item) is not None for item in CLAIM)
    return f"The page of this study answers {answered} of {len(CLAIM)} CLAIM items [claim]; the others name who must answer."


def _with_methods(evidence: Evidence) -> Evidence:
    return replace(evidence, on_page=evidence.on_page | {"methods"})
