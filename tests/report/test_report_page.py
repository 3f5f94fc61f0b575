"""The page is whole, offline, equal for equal tables, and every number on it is in a table or in report.json."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from markupsafe import escape
from shown_numbers import cell_is_wrong, falsified, statements, wrong_numbers
from synthetic_study import STUDY, job_of, spec, write_study

import medssl
from medssl.api.results import TABLES
from medssl.core import job as jobs
from medssl.core import plugins, tables
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.report.options import PageOptions
from medssl.report.run import _read, _sections, run
from medssl.report.section import Section, Table

SECTIONS = plugins.names("section")


class Page(HTMLParser):
    """What the tests look at: tags with attributes, ids, and the visible text without axis ticks and code."""

    SILENT = ("style", "script", "pre", "title", "desc")
    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag not in self.VOID and tag not in ("path", "line", "circle", "rect"):
            self.open.append((tag, tag in self.SILENT or values.get("class") == "tick"))

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not any(silent for _, silent in self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def made(root: Path, inputs: dict[str, Any], page: str = "study", **settings: Any) -> Path:
    with jobs.job(spec(root, inputs, page, **settings)) as job:
        run(job)
    return root / "7_report" / page


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("study") / "demo"
    return root, write_study(root, num_test=60)


@pytest.fixture(scope="session")
def folder(study: tuple[Path, dict[str, Any]]) -> Path:
    return made(*study)


@pytest.fixture(scope="session")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_elsewhere(folder: Path, page: Page) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for _, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            if name in attrs:
                assert attrs[name].startswith(("data:", "#")), (name, attrs[name][:80])
        assert not any(name.startswith("on") for name in attrs)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not page.all("script")
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_section_is_on_the_page_and_links_lead_somewhere(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs and attrs["id"] != "arrow"]
    assert len(ids) == len(set(ids))
    assert set(SECTIONS) <= set(ids)
    for link in page.all("a"):
        if link["href"].startswith("#"):
            assert link["href"][1:] in ids


def test_the_page_can_be_read_without_eyes(page: Page) -> None:
    assert all(image.get("alt") for image in page.all("img"))
    drawn = [svg for svg in page.all("svg") if svg.get("class") != "key"]  # of a legend, whose words stand beside it
    assert drawn and all(svg.get("role") == "img" and svg.get("aria-label") for svg in drawn)
    assert all(svg.get("aria-hidden") == "true" for svg in page.all("svg") if svg not in drawn)
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"


def test_every_figure_and_table_has_its_tsv(page: Page, tmp_path: Path) -> None:
    downloads = [link for link in page.all("a") if "download" in link]
    assert len(downloads) == len(page.all("figure")) + len(page.all("table"))
    for link in downloads:
        content = base64.b64decode(link["href"].split("base64,")[1])
        (tmp_path / "table.tsv").write_bytes(content)
        assert len(tables.read_tsv(tmp_path / "table.tsv").columns), link["download"]


@pytest.fixture(scope="session")
def sections(study: tuple[Path, dict[str, Any]], folder: Path) -> dict[str, Section]:
    """The sections that the page is made of."""
    with jobs.job(spec(*study)) as job:
        options = job.options(PageOptions)
        return dict(_sections(job, _read(job, options)[0], options.sections))


def tables_of(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_cell_says_what_its_own_row_holds(sections: dict[str, Section], folder: Path, name: str) -> None:
    tables_shown = tables_of(sections[name])
    assert [(table.name, head) for table in tables_shown for head in table.shown if cell_is_wrong(table, str(head))] == []
    html = (folder / "report.html").read_text(encoding="utf-8").split(f'<section id="{name}"')[1].split("</section>")[0]
    on_page = re.findall(r'<(?:td(?: class="n")?|th scope="row")>(.*?)</t[dh]>', html, re.DOTALL)
    assert on_page == [str(escape(cell)) for table in tables_shown for cell in table.shown.to_numpy().ravel()]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_number_of_a_sentence_is_in_its_facts(sections: dict[str, Section], name: str) -> None:
    wrong = {text: found for text, known in statements(name, sections[name], STUDY) if (found := wrong_numbers(text, known))}
    assert wrong == {}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_wrong_cell_is_caught(sections: dict[str, Section], name: str) -> None:
    for table in tables_of(sections[name]):
        middle = len(table.shown) // 2
        for column, heading in enumerate(table.shown):
            for text in falsified(table.shown.iloc[middle, column]) if len(table.shown) else ():
                shown = table.shown.astype(object)
                shown.iloc[middle, column] = text
                assert cell_is_wrong(replace(table, shown=shown), str(heading)), (table.name, heading, text)


def test_a_wrong_number_in_a_sentence_is_caught(sections: dict[str, Section]) -> None:
    missed = [
        not wrong_numbers(wrong, known)
        for name, section in sections.items()
        for text, known in statements(name, section, STUDY)
        for wrong in falsified(text)
    ]
    assert len(missed) > 200 and sum(missed) <= len(missed) / 6, "some other number of the same facts ends alike"


def test_report_json_holds_no_rounded_and_no_infinite_number(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    rows = report["sections"]["results"]["tables"]["scores-organs"]
    assert any(len(repr(row["estimate"])) > 10 for row in rows)
    assert all(math.isfinite(row["estimate"]) for row in rows)


def test_equal_tables_give_equal_bytes(study: tuple[Path, dict[str, Any]], folder: Path) -> None:
    before = [(folder / name).read_bytes() for name in ("report.html", "report.json")]
    again = made(*study)
    assert [(again / name).read_bytes() for name in ("report.html", "report.json")] == before


def test_the_page_is_small(folder: Path) -> None:
    assert (folder / "report.html").stat().st_size < 15e6


def test_the_page_of_a_cohort_says_what_is_not_given(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    folder = made(root, write_study(root, tasks=False, num_test=12), "ct")
    report = json.loads((folder / "report.json").read_text())["sections"]
    absent = {name for name, section in report.items() if not section["answered"]}
    assert absent == {
        "label_efficiency",
        "length_of_fits",
        "results",
        "paired_tests",
        "calibration",
        "predicted_values",
        "survival_curves",
        "operating_points",
        "subgroups",
        "failures",
        "worth",
    }
    assert all(report[name]["lead"].startswith("Not given.") for name in absent)
    assert "The encoders were trained without labels" in " ".join(report["answer"]["texts"])


def test_a_page_of_nothing_is_still_a_page(tmp_path: Path) -> None:
    report = json.loads((made(tmp_path / "demo", {}) / "report.json").read_text())
    assert set(report["sections"]) == set(SECTIONS)


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    inputs = write_study(root, tasks=False, num_test=12)
    series = Path(inputs["series"][0])
    series.write_text(series.read_text().replace("dicom", "nifti"))
    with pytest.raises(CorruptArtefactError, match="ingest"):
        made(root, inputs, "ct")


def test_text_from_tables_cannot_become_markup(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    inputs = write_study(root, tasks=False, num_test=12)
    text = (made(root, inputs, "ct", title="<script>alert(1)</script>") / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_sections_can_be_chosen(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, inputs = study
    folder = made(root, inputs, "short", sections=["answer", "results"])
    assert list(json.loads((folder / "report.json").read_text())["sections"]) == ["answer", "results"]


def test_every_step_of_a_stage_counts_towards_its_time(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    inputs = write_study(root, tasks=False, num_test=12)
    for stage, folder, file in (("ingest", "1_ingest/ct/shards/0-of-2", "series.tsv"), ("reduce", "3_reduce/ct", "d.parquet")):
        step = job_of(root, stage, folder.partition("/")[2], folder)
        step.notes["wall_s"] = 100.0
        step.out.mkdir(parents=True, exist_ok=True)
        step.path(file).write_text("what the step made\n")
        step.wrote(step.path(file))
        step.write_receipt()
    stale = root / "1_ingest/ct/shards/0-of-1/receipt.json"
    stale.parent.mkdir()
    stale.write_text("{}")
    for receipt, step in (("1_ingest/ct", "shards/0-of-2/series.tsv"), ("3_reduce/ct/all", "../d.parquet")):
        path = root / receipt / "receipt.json"
        told = json.loads(path.read_text())
        told["inputs"][str((root / receipt / step).resolve())] = "0" * 64
        path.write_text(json.dumps(told))
    scan = root / "benchmarks/ingest/ct-scan.tsv"
    scan.parent.mkdir(parents=True)
    scan.write_text("s\th:m:s\n7.5\t0:00:07\n")
    section = json.loads((made(root, inputs, "ct") / "report.json").read_text())["sections"]["compute"]
    times = {f"{row['stage']}/{row['name']}": row["wall_s"] for row in section["tables"]["jobs"]}
    assert {"ingest/ct/shards/0-of-2": 100.0, "reduce/ct": 100.0, "ingest/ct/scan": 7.5}.items() <= times.items()
    assert "ingest/ct/shards/0-of-1" not in times, "a shard that the merge did not read is of an older run"
    assert section["facts"]["wall_s"] == pytest.approx(sum(times.values()))
    assert "last attempt" in section["lead"]


def test_a_section_that_was_left_out_answers_no_item(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, inputs = study
    folder = made(root, inputs, "short", sections=["checklists", "results", "subgroups"])
    lists = json.loads((folder / "report.json").read_text())["sections"]["checklists"]
    rows = [row for table in lists["tables"].values() for row in table]
    assert {row["where"] for row in rows if row["state"] == "answered"} == {"#results"}, "subgroups were not given"
    assert lists["facts"]["CLAIM"] == {"answered": 4, "owned": 40, "items": 44}
    links = [link["href"] for link in Page((folder / "report.html").read_text()).all("a")]
    assert {link for link in links if link.startswith("#")} <= {"#checklists", "#results", "#subgroups", "#main"}


ANSWERS = {
    "7": "Sources.", "8": "Refused", "9": "reoriented to RAS+", "10": "of 85 kept", "11": "keyed hashes", "12": "Refused",
    "19": "Training part", "20": "Subjects in two splits", "22": "backbone", "23": "torch", "24": "random weights",
    "25": "batch_size", "26": "was chosen", "28": "AUC", "29": "p (Holm)", "30": "grows with the labels",
    "32": "intervals over test cases", "35": "Refused", "36": "Cases by part", "37": "intervals below each score",
    "38": "Sensitivity", "39": "worst", "42": "weight_decay",
}  # fmt: skip
"""What a reader finds in the section that an item of CLAIM points to."""


def test_every_answered_item_of_claim_is_answered_by_the_words_of_its_section(folder: Path) -> None:
    rows = json.loads((folder / "report.json").read_text())["sections"]["checklists"]["tables"]["checklist-claim"]
    places = {row["item"]: row["where"][1:] for row in rows if row["state"] == "answered"}
    assert places.keys() == ANSWERS.keys()
    html = (folder / "report.html").read_text(encoding="utf-8")
    for item, words in ANSWERS.items():
        section = re.sub(r"<[^>]+>", " ", html.split(f'<section id="{places[item]}"')[1].split("</section>")[0])
        assert words in " ".join(section.split()), f"CLAIM {item} in {places[item]}"


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
BROWSER_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --window-size=1200,2000 --dump-dom"
)
MEASURE = """<script>
document.body.dataset.boxes = JSON.stringify([...document.querySelectorAll("figure, figure svg:not(.key), figure img")].map(e => {
  const box = e.getBoundingClientRect();
  return [e.tagName.toLowerCase(), box.width, box.height, e.naturalWidth ?? 1];
}));
</script>"""


def opened(file: Path, profile: Path) -> tuple[str, str]:
    """The page's document and messages after a browser has opened it."""
    command = [BROWSER, *BROWSER_OPTIONS.split(), f"--user-data-dir={profile}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed here")
def test_a_browser_opens_it_without_an_error(folder: Path, tmp_path: Path) -> None:
    document, messages = opened(folder / "report.html", tmp_path / "profile")
    assert len(Page(document).all("section")) == len(SECTIONS)
    assert "CONSOLE" not in messages


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed here")
def test_every_figure_can_be_seen_in_a_browser(folder: Path, page: Page, tmp_path: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count("default-src 'none'") == 1
    text = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'").replace(
        "</body>", MEASURE + "</body>"
    )
    (tmp_path / "measured.html").write_text(text, encoding="utf-8")
    document, messages = opened(tmp_path / "measured.html", tmp_path / "profile")
    assert "CONSOLE" not in messages
    boxes = json.loads(Page(document).all("body")[0]["data-boxes"])
    assert sum(tag == "figure" for tag, *_ in boxes) == len(page.all("figure")) > 10
    assert [box for box in boxes if min(box[1:]) <= 0] == []
    assert [box for box in boxes if box[0] != "img" and min(box[1:3]) < 40] == []


# ---- the same results in Python: medssl.Study


def test_every_table_is_read_with_the_place_it_is_from(folder: Path) -> None:
    root = folder.parents[1]
    study = medssl.Study(root)
    assert study.name == "demo" and {"series", "samples", "keep", "curve", "fits", "scores", "comparisons"} <= set(study.tables)
    for name in study.tables:
        assert len(study.table(name))
    series = study.series
    assert list(series.columns[:2]) == ["source", "volume_id"] and set(series["source"]) == {"ct", "organs"}
    one = tables.read_tsv(root / "1_ingest" / "ct" / "series.tsv")
    assert study.table("series", source="ct")["volume_id"].tolist() == one["volume_id"].tolist()
    assert list(study.curves.columns[:3]) == ["cohort", "run", "epoch"]
    assert set(study.scores["task"]) == {"organs"} and len(study.comparisons)
    assert len(study.samples) == sum(len(study.table("samples", source=name)) for name in ("ct", "organs"))


def test_runs_are_listed(folder: Path) -> None:
    runs = medssl.Study(folder.parents[1]).runs
    assert runs["run"].tolist() == [f"ct/simclr-{arm}-seed{seed}" for arm in ("all", "hash") for seed in (0, 1)]
    assert set(runs["backbone"]) and runs["seed"].tolist() == [0, 1, 0, 1]
    assert all(Path(folder).is_dir() for folder in runs["folder"])


def test_figures_are_whole_svg_files(folder: Path) -> None:
    root = folder.parents[1]
    figures = medssl.Study(root).figures()
    assert set(figures) == {path.stem for path in root.glob("7_report/study/figures/*.svg")} and len(figures) >= 3
    for text in figures.values():
        drawing = ElementTree.fromstring(text)
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg" and len(list(drawing.iter())) > 5


def test_errors_are_sentences_that_say_what_is_there(folder: Path, tmp_path: Path) -> None:
    root = folder.parents[1]
    study = medssl.Study(root)
    with pytest.raises(StudyError, match=r"there is no table 'score'\. Did you mean 'scores'"):
        study.table("score")
    with pytest.raises(StudyError, match="no table 'series' of source 'mr'; it has those of source='ct'; source='organs'"):
        study.table("series", source="mr")
    with pytest.raises(StudyError, match="is chosen by source, got 'task'"):
        study.table("series", task="organs")
    missing = next(name for name in TABLES if name not in study.tables)
    with pytest.raises(StudyError, match=f"no table {missing!r}. Run the stage that makes it: {TABLES[missing][0]}"):
        study.table(missing)
    with pytest.raises(StudyError, match="4 finished runs, and no run was named"):
        study.encoder()
    with pytest.raises(StudyError, match="no page 'mr'"):
        study.figures("mr")
    with pytest.raises(StudyError, match="holds no results of a study"):
        medssl.Study(tmp_path)
    with pytest.raises(StudyError, match=r"Did you mean '.*demo'"):
        medssl.Study(root.parent)


def test_a_damaged_table_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    write_study(root, tasks=False, num_test=20)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    study = medssl.Study(root)
    assert isinstance(study.series, pd.DataFrame) and len(study.runs)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    path = root / "1_ingest" / "ct" / "series.tsv"
    path.write_text(path.read_text().replace("volume_id", "volume"))
    with pytest.raises(CorruptArtefactError, match=r"series\.tsv"):
        study.table("series")
