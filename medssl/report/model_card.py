"""A model card in Markdown: what the weights are, what they were made from, how they did, what is not known."""

from __future__ import annotations

import pandas as pd

from medssl.artefacts.names import reduction_of
from medssl.report.evidence import Evidence
from medssl.report.section import number, span
from medssl.report.shares import distinct, labels_of, share_name
from medssl.report.words import class_name, headline, label_use, mode_name, name_in

OWNERS = "*For the authors to state.*"


def model_card(evidence: Evidence) -> str:
    """The card of all encoders of a page.

    Source: Mitchell et al., FAT* 2019, arXiv 1810.03993.
    """
    parts = [
        f"# Model card: {evidence.title}",
        "## Models",
        _models(evidence),
        "## Intended use",
        "Starting weights for networks that are then trained and tested on labelled CT or MR images, in research. "
        f"Not a medical device; no clinical use without its own validation. Intended users and tasks: {OWNERS}",
        "## Training data",
        _data(evidence),
        "## Evaluation",
        _evaluation(evidence),
        "## Limits",
        "- The encoders were not tested on hospitals, scanners, protocols or populations outside the sources.",
        f"- The encoders were pre-trained {label_use(evidence)}; features may also encode where the images come from.",
        f"- Fairness and ethics: {OWNERS}",
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _models(evidence: Evidence) -> str:
    rows = []
    for run, contract in sorted(evidence.contracts.items()):
        receipt, keep = evidence.receipts.get(f"pretrain/{run}"), evidence.keeps.get(reduction_of(run))
        weights = None if receipt is None else receipt.outputs.get("encoder.safetensors")
        rows.append(
            {
                "run": run,
                "backbone": contract.backbone,
                "dimensions": contract.spatial_dims,
                "training slices": "n/a" if keep is None else int(keep["keep"].sum()),
                "sha256 of encoder.safetensors": "n/a" if weights is None else weights.sha256,
            }
        )
    text = _markdown(pd.DataFrame(rows)) if rows else "Not given."
    return text + "\n\nEach folder holds `encoder.safetensors` and `contract.json` (input size, window, spacing, orientation)."


def _data(evidence: Evidence) -> str:
    rows = [
        {
            "source": s,
            "volumes or image sets": len(t),
            "slices or images": len(evidence.samples.get(s, [])),
            "unit": _unit(t),
            "licence": _licence(evidence, s),
        }
        for s, t in sorted(evidence.series.items())
    ]
    return (_markdown(pd.DataFrame(rows)) if rows else "Not given.") + f"\n\nOrigin and consent: {OWNERS}"


def _licence(evidence: Evidence, source: str) -> str:
    """As the study file gives it, else as the contract of an encoder that was trained on the source alone."""
    options = evidence.asked.sources.get(source)
    return (options.licence if options else None) or OWNERS


def _evaluation(evidence: Evidence) -> str:
    rows = []
    for task, scores in sorted(evidence.scores.items()):
        metric, label = headline(scores)
        name, labels = name_in(scores, metric), labels_of(evidence.fits.get(task), scores)
        for row in distinct(scores[(scores["metric"] == metric) & (scores["class"] == label)], labels).itertuples():
            rows.append(
                {
                    "task": task,
                    "start": row.init,
                    "mode": mode_name(str(row.mode)),
                    "labels": share_name(row.fraction, labels),  # type: ignore[arg-type]
                    f"{name} ({class_name(label)})": number(row.estimate),
                    "interval": span(row.low, row.high),
                    "n": row.n,
                }
            )
    return _markdown(pd.DataFrame(rows)) if rows else "Not given: no task was evaluated on this page."


def _unit(series: pd.DataFrame) -> str:
    return ", ".join(sorted(set(series["unit"].astype(str)))) if "unit" in series else "n/a"


def _markdown(rows: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(map(str, rows.columns)) + " |", "|" + "---|" * len(rows.columns)]
    lines += ["| " + " | ".join(str(v).replace("|", "/") for v in row) + " |" for row in rows.itertuples(index=False)]
    return "\n".join(lines)
