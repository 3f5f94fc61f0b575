"""Methods: a paragraph ready to paste, from the options that were used."""

from __future__ import annotations

from markupsafe import Markup

from medssl.report.evidence import Evidence
from medssl.report.section import Section, Text
from medssl.report.words import mode_name, ordered_modes, ordered_shares, share_name

PLACE = 150
CITATIONS = {
    "simclr": "Chen et al., ICML 2020, arXiv 2002.05709",
    "swav": "Caron et al., NeurIPS 2020, arXiv 2006.09882",
    "moco": "He et al., CVPR 2020, arXiv 1911.05722",
    "spark": "Tian et al., ICLR 2023, arXiv 2301.03580",
    "global_contrast": "Chaitanya et al., NeurIPS 2020, arXiv 2006.10511",
    "local_contrast": "Chaitanya et al., NeurIPS 2020, arXiv 2006.10511",
    "bca": "Efron, J Am Stat Assoc 1987;82:171",
    "delong": "DeLong et al., Biometrics 1988;44:837",
    "holm": "Holm, Scand J Stat 1979;6:65",
    "reduction": "Wolf et al., arXiv 2308.06534",
    "claim": "Tejani et al., Radiol Artif Intell 2024;6:e240300",
}


def methods(evidence: Evidence) -> Section:
    """Data, reduction, pre-training, fine-tuning and statistics in prose with citations; gaps are named, not filled."""
    parts = [_data(evidence), _reduction(evidence), _pretraining(evidence), _finetuning(evidence), _statistics(evidence)]
    text = " ".join(part for part in parts if part)
    if not text:
        return Section.not_given("Methods", "No stage left a receipt.")
    cited = sorted({citation for name, citation in CITATIONS.items() if f"[{name}]" in text})
    for place, citation in enumerate(cited, start=1):
        for name in (n for n, c in CITATIONS.items() if c == citation):
            text = text.replace(f"[{name}]", f"[{place}]")
    references = Markup("<ol class='references'>{}</ol>").format(Markup("").join(Markup("<li>{}</li>").format(c) for c in cited))
    lead = "Ready to paste. What is in double brackets is known to the authors only."
    return Section("Methods paragraph", lead, (Text(text, "copy"), Text(references, "html")), {"text": text, "references": cited})


def _data(evidence: Evidence) -> str:
    if not evidence.series:
        return ""
    parts = []
    for source, series in sorted(evidence.series.items()):
        samples = evidence.samples.get(source)
        slices = f" with {len(samples)} slices or images" if samples is not None else ""
        refused = int(evidence.rejected[source]["num_files"].sum()) if source in evidence.rejected else 0
        parts.append(f"{source}: {len(series)} volumes or image sets{slices}, {refused} files refused")
    return (
        f"Images came from {len(parts)} source{'s' if len(parts) > 1 else ''} ({'; '.join(parts)}; [[setting, "
        f"dates and eligibility]]). "
        "Each was checked for geometry, completeness and plausibility on ingestion, refused with a reason code "
        "where a check failed, and "
        "reoriented to RAS+ without interpolation. Identifiers were replaced by keyed hashes. Splits were made "
        "by patient where patient "
        "ids exist, otherwise by image."
    )


def _reduction(evidence: Evidence) -> str:
    arms = [
        f"{name.split('/')[1]} ({int(keep['keep'].sum())} of {len(keep)} slices)" for name, keep in sorted(evidence.keeps.items())
    ]
    return f"Training slices were reduced before pre-training in these arms: {', '.join(arms)} [reduction]." if arms else ""


def _pretraining(evidence: Evidence) -> str:
    if not evidence.curves:
        return ""
    recipes = []
    for name, options in sorted(evidence.study.get("pretrain", {}).items()):
        objective, backbone = _name(options.get("objective")), _name(options.get("backbone"))
        cite = f" [{objective}]" if objective in CITATIONS else ""
        steps = options.get("max_steps")
        length = f"{options.get('epochs')} epochs" if steps is None else f"{steps} steps"
        begun = f", begun from {options['init_run']}" if options.get("init_run") else ""
        recipes.append(
            f"{name}: {objective}{cite}, {backbone}{begun}, {length}, batch {options.get('batch_size')}, "
            f"{options.get('optimizer')} at {options.get('lr')}, weight decay {options.get('weight_decay')}, "
            f"{options.get('precision')}"
        )
    what = f" ({'; '.join(recipes)})" if recipes else ""
    return (
        f"Encoders were pre-trained without labels in {len(evidence.curves)} run{'s' if len(evidence.curves) > 1 else ''}{what}."
    )


def _finetuning(evidence: Evidence) -> str:
    parts = []
    for task, fits in sorted(evidence.fits.items()):
        modes = ", ".join(mode_name(mode) for mode in ordered_modes(fits["mode"]))
        shares = ", ".join(share_name(share) for share in ordered_shares(fits["fraction"]))
        parts.append(f"{task}: {len(fits)} fits ({modes}; {shares} of the labels; {fits['seed'].nunique()} seeds)")
    if not parts:
        return ""
    return (
        f"Each encoder and a network of the same architecture from random weights were fine-tuned with one recipe "
        f"({'; '.join(parts)}); label "
        "subsets were nested and drawn by patient and class, and the model was chosen on the validation part only."
    )


def _statistics(evidence: Evidence) -> str:
    if not evidence.scores:
        return ""
    first = next(iter(evidence.scores.values())).iloc[0]
    level = f"{round(100 * first['confidence'])} %"
    draws = evidence.study.get("evaluate", {}).get("bootstrap")
    resamples = f"{draws} " if draws else ""
    delong = any((table["method"] == "delong").any() for table in evidence.comparisons.values() if len(table))
    return (
        f"Scores are means over seeds with {level} bias-corrected and accelerated bootstrap intervals over test "
        f"units ({resamples}resamples) [bca]; "
        "differences between arms were bootstrapped in pairs on the same units"
        + (", binary AUCs also compared by DeLong's test [delong]" if delong else "")
        + ", case scores by Wilcoxon's signed ranks, with Holm's correction over arms [holm]. Reporting follows CLAIM [claim]."
    )


def _name(choice: object) -> str:
    return str(choice.get("name", "")) if isinstance(choice, dict) else str(choice)
