"""What was refused, mixed or doubtful stands on the page: in the flow chart, the data section and the methods paragraph."""

from __future__ import annotations

import pandas as pd
import pytest

from medssl.artefacts.labels import LabelCounts
from medssl.artefacts.receipt import Receipt
from medssl.report.evidence import Evidence
from medssl.report.mixtures import mixture_rows
from medssl.report.section import Figure, Table, Text
from medssl.report.sections.data import data
from medssl.report.sections.flow import flow, refusal_rows
from medssl.report.sections.methods import methods


def source_of(name: str, modalities: dict[str, tuple[int, int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """series.tsv and samples of a source: by modality its volumes, and the slices of each."""
    series, samples = [], []
    for modality, (volumes, slices) in modalities.items():
        for n in range(volumes):
            volume = f"v-{name}-{modality.lower()}-{n}"
            series.append({"volume_id": volume, "modality": modality, "kind": "volume", "num_files": slices})
            samples += [{"sample_id": f"{volume}-{k:04d}", "volume_id": volume} for k in range(slices)]
    shared = {"split": "train", "kind": "volume", "unit": "patient", "subject_id": None, "label": None}
    return pd.DataFrame(series).assign(subject_id=None), pd.DataFrame(samples).assign(**shared)


def evidence_of(sources: dict[str, dict[str, tuple[int, int]]], keeps: tuple[str, ...] = (), **more: object) -> Evidence:
    made = {name: source_of(name, held) for name, held in sources.items()}
    everything = pd.concat([samples for _, samples in made.values()])[["sample_id"]].assign(keep=True, reason=None)
    return Evidence(
        title="t",
        series={name: series for name, (series, _) in made.items()},
        samples={name: samples for name, (_, samples) in made.items()},
        keeps={f"{cohort}/all": everything for cohort in keeps},
        **more,  # type: ignore[arg-type]
    )


def texts(evidence: Evidence) -> str:
    return " ".join(str(block.html) for block in data(evidence).blocks if isinstance(block, Text))


# A mixture of modalities


@pytest.mark.parametrize("keeps", [(), ("ct",)])
def test_a_mixed_source_is_on_the_page_with_its_counts(keeps: tuple[str, ...]) -> None:
    evidence = evidence_of({"ct": {"CT": (2, 47), "MR": (3, 64)}}, keeps)
    (table,) = [block for block in data(evidence).blocks if isinstance(block, Table) and block.name == "mixtures"]
    assert [tuple(row) for row in table.rows[["modality", "slices", "volumes"]].itertuples(index=False)] == [
        *(("CT", 94, 2), ("MR", 192, 3)),
    ]
    text = methods(evidence).facts["text"]
    assert "Several modalities were used together" in text
    assert "CT 94 slices or images (2 volumes) and MR 192 slices or images (3 volumes)" in text


def test_a_cohort_of_two_sources_of_a_modality_each_is_mixed() -> None:
    evidence = evidence_of({"one": {"CT": (2, 5)}, "two": {"PT": (1, 4)}}, ("both",))
    assert set(mixture_rows(evidence)["of"]) == {"cohort both"}
    assert (
        "cohort both: CT 10 slices or images (2 volumes) and PT 4 slices or images (1 volume)" in methods(evidence).facts["text"]
    )


def test_one_modality_is_not_a_mixture() -> None:
    evidence = evidence_of({"one": {"CT": (2, 5)}, "two": {"PT": (1, 4)}})
    assert len(mixture_rows(evidence)) == 0 and "used together" not in methods(evidence).facts["text"]
    assert not [block for block in data(evidence).blocks if isinstance(block, Table) and block.name == "mixtures"]


# Refused label files


COUNTS = LabelCounts(items=6, labelled=2, strangers=4, names={})
REFUSED = pd.DataFrame(
    {
        "item_id": [f"i-{n}" for n in range(4)],
        "code": ["mask_mismatch", "mask_values", "mask_without_image", "mask_without_image"],
        "sentence": ["a", "b", "c", "c"],
        "num_files": [1, 1, 1, 1],
    }
)


def labelled(refused: pd.DataFrame, **counts: object) -> Evidence:
    return evidence_of(
        {"ct": {"CT": (6, 4)}}, label_counts={"ct": COUNTS.model_copy(update=counts)}, label_rejected={"ct": refused}
    )


def test_refused_masks_stand_in_the_flow_chart_the_table_and_the_methods() -> None:
    evidence = labelled(REFUSED)
    (chart,) = [block for block in flow(evidence).blocks if isinstance(block, Figure)]
    for words in ("Labelled: 2 cases", "without a label: 4 cases", "of 6 cases", "Refused: 4 label files"):
        assert words in str(chart.body), words
    for words in ("mask_mismatch: 1 file", "mask_values: 1 file", "mask_without_image: 2 files"):
        assert words in str(chart.body), words
    rows = refusal_rows(evidence).set_index("code")
    assert set(rows["source"]) == {"ct, label files"} and rows.loc["mask_without_image", "num_files"] == 2
    text = methods(evidence).facts["text"]
    assert "ct: 2 of 6 volumes and images labelled, 4 label files refused" in text
    assert "(mask_mismatch 1, mask_values 1, mask_without_image 2)" in text


def test_rows_of_a_table_for_no_image_are_distinguished_from_files() -> None:
    evidence = labelled(REFUSED.head(0), labelled=6, strangers=1)
    (chart,) = [block for block in flow(evidence).blocks if isinstance(block, Figure)]
    assert "for none of the images: 1 row" in str(chart.body) and "without a label" not in str(chart.body)
    assert "0 label files refused, 1 label row for none of the images" in methods(evidence).facts["text"]


# Remarks of ingest


def test_remarks_of_ingest_stand_in_the_data_section() -> None:
    remark = "All 8 series of 8 studies have one PatientID."
    receipt = Receipt(
        stage="ingest", name="ct", spec="0", code="0", seed=0, inputs={}, outputs={}, environment={}, remarks=[remark]
    )  # type: ignore[call-arg]
    section = data(evidence_of({"ct": {"CT": (1, 3)}}, receipts={"ingest/ct": receipt}))
    assert section.facts["notes"] == {"ct": [remark]}
    assert f"Source ct: {remark}" in texts(evidence_of({"ct": {"CT": (1, 3)}}, receipts={"ingest/ct": receipt}))
