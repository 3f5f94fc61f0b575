"""Items of CLAIM (2024), TRIPOD+AI and MI-CLAIM in short words: which part of the page answers them, or who must.

Sources: Tejani et al., Radiology: AI 6:e240300 (2024); Collins et al., BMJ 385:e078378 (2024); Norgeot et al., Nature
Medicine 26:1320 (2020).
"""

from __future__ import annotations

from typing import NamedTuple

from medssl.report.evidence import Evidence

AUTHORS, CLINICIANS, DATA_HOLDER = "authors", "clinical lead", "data holder"


class Item(NamedTuple):
    """What is asked; the section and evidence that answer it, or the owner who must (also where the evidence is absent)."""

    list_name: str
    number: str
    asks: str
    section: str
    needs: str
    owner: str


def is_answered(evidence: Evidence, item: Item) -> bool:
    """Whether the page answers an item: its section is on the page, was given, and read what the item needs."""
    return item.section in evidence.on_page and bool(getattr(evidence, item.needs))


def _items(list_name: str, rows: list[tuple[str, str, str, str, str]]) -> tuple[Item, ...]:
    return tuple(Item(list_name, *row) for row in rows)


CLAIM = _items(
    "CLAIM",
    [
        ("1", "Title or abstract names the AI method", "", "", AUTHORS),
        ("2", "Structured abstract", "", "", AUTHORS),
        ("3", "Background, intended use and clinical role", "", "", CLINICIANS),
        ("4", "Aims and hypotheses", "", "", AUTHORS),
        ("5", "Prospective or retrospective", "", "", DATA_HOLDER),
        ("6", "Goal of the study", "", "", AUTHORS),
        ("7", "Sources of data", "data", "series", DATA_HOLDER),
        ("8", "Inclusion and exclusion", "flow", "rejected", DATA_HOLDER),
        ("9", "Preprocessing", "methods", "samples", AUTHORS),
        ("10", "Selection of data subsets", "reduction", "keeps", AUTHORS),
        ("11", "De-identification", "data", "series", DATA_HOLDER),
        ("12", "Missing data", "flow", "rejected", AUTHORS),
        ("13", "Image acquisition protocol", "", "", DATA_HOLDER),
        ("14", "Definition of the reference standard", "", "", CLINICIANS),
        ("15", "Why this reference standard", "", "", CLINICIANS),
        ("16", "Who annotated, and how qualified", "", "", CLINICIANS),
        ("17", "Annotation of the test set", "", "", CLINICIANS),
        ("18", "Variability between and within annotators", "", "", CLINICIANS),
        ("19", "How data were assigned to partitions", "flow", "samples", AUTHORS),
        ("20", "Level at which partitions are disjoint", "leakage", "samples", AUTHORS),
        ("21", "Intended sample size", "", "", AUTHORS),
        ("22", "Description of the model", "provenance", "study", AUTHORS),
        ("23", "Software, libraries, versions", "provenance", "receipts", AUTHORS),
        ("24", "Initial parameters", "methods", "curves", AUTHORS),
        ("25", "Training in detail", "provenance", "study", AUTHORS),
        ("26", "How the final model was chosen", "methods", "fits", AUTHORS),
        ("27", "Ensembling", "", "", AUTHORS),
        ("28", "Metrics of performance", "results", "scores", AUTHORS),
        ("29", "Significance and uncertainty", "paired_tests", "comparisons", AUTHORS),
        ("30", "Robustness or sensitivity", "label_efficiency", "scores", AUTHORS),
        ("31", "Explainability", "", "", AUTHORS),
        ("32", "Evaluation on internal data", "results", "scores", AUTHORS),
        ("33", "Test on external data", "", "", DATA_HOLDER),
        ("34", "Registration of a trial", "", "", CLINICIANS),
        ("35", "Numbers included and excluded", "flow", "rejected", AUTHORS),
        ("36", "Characteristics of the cases by partition", "data", "samples", DATA_HOLDER),
        ("37", "Performance with uncertainty", "results", "scores", AUTHORS),
        ("38", "Diagnostic performance and its precision", "results", "scores", AUTHORS),
        ("39", "Failure analysis", "failures", "cases", AUTHORS),
        ("40", "Limitations", "", "", AUTHORS),
        ("41", "Implications for practice", "", "", CLINICIANS),
        ("42", "Protocol and further technical detail", "provenance", "study", AUTHORS),
        ("43", "Availability of software, model and data", "", "", AUTHORS),
        ("44", "Funding and the role of funders", "", "", AUTHORS),
    ],
)

TRIPOD = _items(
    "TRIPOD+AI",
    [
        ("1", "Title", "", "", AUTHORS),
        ("2", "Abstract", "", "", AUTHORS),
        ("3", "Context, target population, known inequalities", "", "", CLINICIANS),
        ("4", "Objectives", "", "", AUTHORS),
        ("5", "Sources and dates of data", "", "", DATA_HOLDER),
        ("6", "Setting, eligibility, treatments", "", "", DATA_HOLDER),
        ("7", "Data preparation and quality checks", "methods", "series", AUTHORS),
        ("8", "Outcome: definition, assessors, blinding", "", "", CLINICIANS),
        ("9", "Predictors: choice and measurement", "", "", AUTHORS),
        ("10", "Sample size", "", "", AUTHORS),
        ("11", "Missing data", "flow", "rejected", AUTHORS),
        ("12", "Analytical methods", "methods", "scores", AUTHORS),
        ("13", "Class imbalance", "", "", AUTHORS),
        ("14", "Fairness", "subgroups", "subgroups", CLINICIANS),
        ("15", "Output of the model", "calibration", "calibration", AUTHORS),
        ("16", "Differences of training and test data", "data", "samples", AUTHORS),
        ("17", "Ethical approval", "", "", DATA_HOLDER),
        ("18", "Funding, conflicts, protocol, registration, data and code", "", "", AUTHORS),
        ("19", "Involvement of patients and the public", "", "", CLINICIANS),
        ("20", "Participants: flow and characteristics", "flow", "series", DATA_HOLDER),
        ("21", "Numbers in each analysis", "results", "scores", AUTHORS),
        ("22", "Specification of the model", "provenance", "study", AUTHORS),
        ("23", "Performance with intervals, also in subgroups", "subgroups", "scores", AUTHORS),
        ("24", "Updating of the model", "", "", AUTHORS),
        ("25", "Interpretation", "answer", "comparisons", AUTHORS),
        ("26", "Limitations", "", "", AUTHORS),
        ("27", "Usability: input quality, users, next steps", "", "", CLINICIANS),
    ],
)

MI_CLAIM = _items(
    "MI-CLAIM",
    [
        ("1", "Study design: clinical setting and question", "", "", CLINICIANS),
        ("2", "Data and partitions", "leakage", "samples", AUTHORS),
        ("3", "Optimisation and choice of the model", "methods", "fits", AUTHORS),
        ("4", "Performance and its comparison", "results", "scores", AUTHORS),
        ("5", "Examination of the model", "failures", "cases", AUTHORS),
        ("6", "Reproducible pipeline", "provenance", "receipts", AUTHORS),
    ],
)
