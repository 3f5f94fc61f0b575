"""Items of CLAIM (2024), TRIPOD+AI and MI-CLAIM in short words, and who must answer what the page does not.

Sources: Tejani et al., Radiology: AI 6:e240300 (2024); Collins et al., BMJ 385:e078378 (2024); Norgeot et al., Nature
Medicine 26:1320 (2020).
"""

from __future__ import annotations

from typing import NamedTuple

from medssl.core import plugins
from medssl.report.evidence import Evidence

AUTHORS, CLINICIANS, DATA_HOLDER = "authors", "clinical lead", "data holder"


class ChecklistItem(NamedTuple):
    """What is asked, and the owner who must answer where the page does not."""

    list_name: str
    number: str
    asks: str
    owner: str


def answered_in(evidence: Evidence, item: ChecklistItem) -> str | None:
    """The first section that answers an item: it is on the page, says so (`ANSWERS`, see `sections/__init__.py`), and was given
    the evidence that the item needs; None where there is none.
    """
    sections = [plugins.find("section", name) for name in evidence.on_page]
    for section in sorted(sections, key=lambda plugin: plugin.constant("PLACE")):
        needs = section.constant("ANSWERS", default={}).get(item.list_name, {}).get(item.number)
        if needs is not None and getattr(evidence, needs):
            return section.name
    return None


def _items(list_name: str, rows: list[tuple[str, str, str]]) -> tuple[ChecklistItem, ...]:
    return tuple(ChecklistItem(list_name, *row) for row in rows)


CLAIM = _items(
    "CLAIM",
    [
        ("1", "Title or abstract names the AI method", AUTHORS),
        ("2", "Structured abstract", AUTHORS),
        ("3", "Background, intended use and clinical role", CLINICIANS),
        ("4", "Aims and hypotheses", AUTHORS),
        ("5", "Prospective or retrospective", DATA_HOLDER),
        ("6", "Goal of the study", AUTHORS),
        ("7", "Sources of data", DATA_HOLDER),
        ("8", "Inclusion and exclusion", DATA_HOLDER),
        ("9", "Preprocessing", AUTHORS),
        ("10", "Selection of data subsets", AUTHORS),
        ("11", "De-identification", DATA_HOLDER),
        ("12", "Missing data", AUTHORS),
        ("13", "Image acquisition protocol", DATA_HOLDER),
        ("14", "Definition of the reference standard", CLINICIANS),
        ("15", "Why this reference standard", CLINICIANS),
        ("16", "Who annotated, and how qualified", CLINICIANS),
        ("17", "Annotation of the test set", CLINICIANS),
        ("18", "Variability between and within annotators", CLINICIANS),
        ("19", "How data were assigned to partitions", AUTHORS),
        ("20", "Level at which partitions are disjoint", AUTHORS),
        ("21", "Intended sample size", AUTHORS),
        ("22", "Description of the model", AUTHORS),
        ("23", "Software, libraries, versions", AUTHORS),
        ("24", "Initial parameters", AUTHORS),
        ("25", "Training in detail", AUTHORS),
        ("26", "How the final model was chosen", AUTHORS),
        ("27", "Ensembling", AUTHORS),
        ("28", "Metrics of performance", AUTHORS),
        ("29", "Significance and uncertainty", AUTHORS),
        ("30", "Robustness or sensitivity", AUTHORS),
        ("31", "Explainability", AUTHORS),
        ("32", "Evaluation on internal data", AUTHORS),
        ("33", "Test on external data", DATA_HOLDER),
        ("34", "Registration of a trial", CLINICIANS),
        ("35", "Numbers included and excluded", AUTHORS),
        ("36", "Characteristics of the cases by partition", DATA_HOLDER),
        ("37", "Performance with uncertainty", AUTHORS),
        ("38", "Diagnostic performance and its precision", AUTHORS),
        ("39", "Failure analysis", AUTHORS),
        ("40", "Limitations", AUTHORS),
        ("41", "Implications for practice", CLINICIANS),
        ("42", "Protocol and further technical detail", AUTHORS),
        ("43", "Availability of software, model and data", AUTHORS),
        ("44", "Funding and the role of funders", AUTHORS),
    ],
)

TRIPOD = _items(
    "TRIPOD+AI",
    [
        ("1", "Title", AUTHORS),
        ("2", "Abstract", AUTHORS),
        ("3", "Context, target population, known inequalities", CLINICIANS),
        ("4", "Objectives", AUTHORS),
        ("5", "Sources and dates of data", DATA_HOLDER),
        ("6", "Setting, eligibility, treatments", DATA_HOLDER),
        ("7", "Data preparation and quality checks", AUTHORS),
        ("8", "Outcome: definition, assessors, blinding", CLINICIANS),
        ("9", "Predictors: choice and measurement", AUTHORS),
        ("10", "Sample size", AUTHORS),
        ("11", "Missing data", AUTHORS),
        ("12", "Analytical methods", AUTHORS),
        ("13", "Class imbalance", AUTHORS),
        ("14", "Fairness", CLINICIANS),
        ("15", "Output of the model", AUTHORS),
        ("16", "Differences of training and test data", AUTHORS),
        ("17", "Ethical approval", DATA_HOLDER),
        ("18", "Funding, conflicts, protocol, registration, data and code", AUTHORS),
        ("19", "Involvement of patients and the public", CLINICIANS),
        ("20", "Participants: flow and characteristics", DATA_HOLDER),
        ("21", "Numbers in each analysis", AUTHORS),
        ("22", "Specification of the model", AUTHORS),
        ("23", "Performance with intervals, also in subgroups", AUTHORS),
        ("24", "Updating of the model", AUTHORS),
        ("25", "Interpretation", AUTHORS),
        ("26", "Limitations", AUTHORS),
        ("27", "Usability: input quality, users, next steps", CLINICIANS),
    ],
)

MI_CLAIM = _items(
    "MI-CLAIM",
    [
        ("1", "Study design: clinical setting and question", CLINICIANS),
        ("2", "Data and partitions", AUTHORS),
        ("3", "Optimisation and choice of the model", AUTHORS),
        ("4", "Performance and its comparison", AUTHORS),
        ("5", "Examination of the model", AUTHORS),
        ("6", "Reproducible pipeline", AUTHORS),
    ],
)
