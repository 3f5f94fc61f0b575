"""What lies beside the page: the crate, the model card, and two studies side by side."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_study import contract, receipt

from medssl.artefacts.receipt import Receipt
from medssl.core.errors import StudyError
from medssl.report.comparison import score_pairs
from medssl.report.crate import crate, named
from medssl.report.evidence import Evidence
from medssl.report.model_card import model_card
from medssl.report.options import ReportOptions
from medssl.report.run import compare

SHA = {name: f"{i:064x}" for i, name in enumerate(["series", "volume", "samples", "weights"])}


def receipt_of(inputs: list[str], outputs: dict[str, str], **more: Any) -> Receipt:
    return receipt(
        inputs={f"/some/where/{name}": SHA[name] for name in inputs},
        outputs={file: {"sha256": SHA[name], "size": 7} for file, name in outputs.items()},
        **{"environment": {"python": "3.11.2", "medssl": "0.1", "numpy": "2.4.6", "platform": "linux"}, **more},
    )


RECEIPTS = {
    "ingest/ct": receipt_of([], {"series.tsv": "series", "volumes/v-1/image.npy": "volume"}),
    "prepare/ct": receipt_of(["series", "volume"], {"samples.parquet": "samples"}),
    "pretrain/ct/simclr-hash-seed0": receipt_of(["samples"], {"encoder.safetensors": "weights"}),
}


def test_the_crate_links_every_job_to_what_it_read_and_wrote() -> None:
    made = crate("Study demo", RECEIPTS, ["report.html"], "2026-01-31")
    graph = {thing["@id"]: thing for thing in made["@graph"]}
    assert len(graph) == len(made["@graph"])
    root = graph["./"]
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert root["datePublished"] == "2026-01-31"
    actions = [thing for thing in made["@graph"] if thing["@type"] == "CreateAction"]
    assert {link["@id"] for link in root["mentions"]} == {action["@id"] for action in actions}
    prepare = graph["#prepare-ct"]
    assert prepare["object"] == {"@id": named(SHA["series"])}
    assert prepare["result"] == {"@id": named(SHA["samples"])}
    assert "endTime" not in prepare
    for thing in made["@graph"]:
        for value in thing.values():
            for link in value if isinstance(value, list) else [value]:
                if isinstance(link, dict) and not link["@id"].startswith("https://w3id.org/"):
                    assert link["@id"] in graph, link


def test_the_crate_says_when_a_job_ended_and_where_its_software_is() -> None:
    environment = {"medssl": "0.1", "torch": "2.13.0+cpu", "python": "3.11.2", "platform": "linux"}
    made = crate("t", {"prepare/ct": receipt_of([], {}, date="2026-01-30", environment=environment)}, [], "2026-01-31")
    graph = {thing["@id"]: thing for thing in made["@graph"]}
    assert graph["#prepare-ct"]["endTime"] == "2026-01-30"
    assert graph["https://pypi.org/project/torch/2.13.0/#cpu"]["softwareVersion"] == "2.13.0+cpu"
    assert graph["https://www.python.org/downloads/release/python-3112/"]["name"] == "python"


def test_the_crate_names_no_path_of_the_machine() -> None:
    assert "/some/where" not in json.dumps(crate("t", RECEIPTS, [], "2026-01-31"))


def test_files_are_named_by_their_content() -> None:
    # the example of RFC 6920, §3
    hello = hashlib.sha256(b"Hello World!").hexdigest()
    assert named(hello) == "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk"
    name = named(SHA["weights"])
    digest = name.removeprefix("ni:///sha-256;")
    assert base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex() == SHA["weights"]


def test_the_card_names_weights_and_what_is_not_known() -> None:
    keep = pd.DataFrame({"keep": [True, True, False]})
    evidence = Evidence(
        title="Study demo",
        contracts={"ct/simclr-hash-seed0": contract()},
        keeps={"ct/hash": keep},
        receipts=RECEIPTS,
    )
    text = model_card(evidence)
    assert SHA["weights"] in text
    assert "| ct/simclr-hash-seed0 | resnet18 | 2 | 2 |" in text
    assert "Not given: no task was evaluated" in text
    assert "Not a medical device" in text


def test_the_card_gives_the_licence_that_the_study_file_gives() -> None:
    series = pd.DataFrame({"volume_id": ["v-0"], "unit": "patient"})
    study = {"sources": {"ct": {"licence": "CC-BY-4.0"}, "mr": {}}}
    card = model_card(Evidence(title="t", series={"ct": series, "mr": series}, study=study))
    lines = {line.split(" | ")[0]: line for line in card.splitlines() if line.startswith("| ")}
    assert lines["| ct"].endswith("| CC-BY-4.0 |") and lines["| mr"].endswith("| *For the authors to state.* |")
    assert "licence of the data" not in card


def report(title: str, estimate: float, **options: object) -> dict[str, object]:
    row = {"init": "scratch", "mode": "full", "fraction": 1.0, "metric": "auc", "class": "macro", "estimate": estimate}
    row |= {"low": estimate - 0.02, "high": estimate + 0.02, "n": 60}
    versions = [{"what": "numpy", "version": str(options.get("numpy", "2.4.6"))}]
    sections = {"results": {"tables": {"scores-organs": [row]}}, "provenance": {"tables": {"versions": versions}}}
    return {"title": title, "study": {"pretrain": {"epochs": options.get("epochs", 100)}}, "sections": sections}


def written(folder: Path, name: str, value: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_two_studies_stand_side_by_side(tmp_path: Path) -> None:
    a = written(tmp_path, "a.json", report("Study A", 0.9, epochs=100))
    b = written(tmp_path, "b.json", report("Study B", 0.95, epochs=200, numpy="2.5"))
    compare(a, b, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    for word in ("0.900 (0.880 to 0.920)", "0.950 (0.930 to 0.970)", "pretrain.epochs", "200", "numpy", "2.5"):
        assert word in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)


def test_scores_meet_only_where_everything_agrees() -> None:
    other = report("B", 0.95)
    other["sections"]["results"]["tables"]["scores-organs"][0]["fraction"] = 0.5  # type: ignore[index]
    assert score_pairs(report("A", 0.9), other).empty
    assert len(score_pairs(report("A", 0.9), report("B", 0.95))) == 1


def test_studies_without_a_common_score_say_so(tmp_path: Path) -> None:
    a = written(tmp_path, "a.json", report("Study A", 0.9))
    b = written(tmp_path, "b.json", {"title": "Study B", "sections": {}})
    compare(a, b, tmp_path / "page.html")
    assert "share no task" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("content", ["[1, 2]", '{"title": "x"}'])
def test_a_file_that_is_not_a_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(StudyError, match=r"report\.json"):
        compare(tmp_path / "a.json", tmp_path / "a.json", tmp_path / "page.html")
    with pytest.raises(StudyError, match=r"report\.json"):
        compare(tmp_path / "none.json", tmp_path / "a.json", tmp_path / "page.html")


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'results'"):
        ReportOptions(sections=["result"])
