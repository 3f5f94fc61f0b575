"""What every section of the folder keeps, picked up without being named: silent on nothing, and no number without its table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report.shown_numbers import statements, values_of, wrong_numbers
from report.synthetic_study import STUDY, spec, write_study

from medssl.core import job as jobs
from medssl.core import plugins
from medssl.core.plugins import Plugin
from medssl.report.checklist_items import CLAIM, MI_CLAIM, TRIPOD
from medssl.report.evidence import Evidence
from medssl.report.options import PageOptions
from medssl.report.page_text import page_html, plain
from medssl.report.run import PAGE, _read, _sections
from medssl.report.section import Section, Table, Text

SECTIONS = list(plugins.all_of("section"))
ITEMS = {items[0].list_name: {item.number for item in items} for items in (CLAIM, TRIPOD, MI_CLAIM)}

every = pytest.mark.parametrize("section", SECTIONS, ids=lambda plugin: plugin.name)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """A whole study, with every section on the page that has something to say."""
    root = tmp_path_factory.mktemp("sections") / "demo"
    with jobs.job(spec(root, write_study(root, num_test=40))) as job:
        options = job.options(PageOptions)
        found, _ = _read(job, options)
        made = _sections(job, found, options.sections)
    return dataclasses.replace(found, on_page=frozenset(name for name, section in made if section.answered))


def made(section: Plugin, evidence: Evidence) -> Section:
    return section.load()(evidence)


@every
def test_a_section_says_of_itself_where_it_stands_and_what_it_answers(section: Plugin) -> None:
    assert isinstance(section.constant("PLACE"), int)
    assert not section.options.model_fields or all(f.description for f in section.options.model_fields.values())
    fields = {field.name for field in dataclasses.fields(Evidence)}
    for name, items in section.constant("ANSWERS", default={}).items():
        assert set(items) <= ITEMS[name]
        assert set(items.values()) <= fields - {"title", "on_page"}


def test_no_two_sections_stand_in_one_place_and_one_is_made_last() -> None:
    places = [section.constant("PLACE") for section in SECTIONS]
    assert len(set(places)) == len(places)
    assert sum(section.constant("LAST_MADE", default=False) for section in SECTIONS) == 1


@every
def test_of_nothing_a_section_says_nothing(section: Plugin) -> None:
    found = made(section, Evidence(title="empty"))
    assert found.title and found.lead
    if not found.answered:
        assert not found.blocks and not found.facts
        assert not wrong_numbers(found.lead, [])
    for block in found.blocks:
        text = str(block.html) if isinstance(block, Text) else block.caption
        rows = [] if isinstance(block, Text) else values_of(block.rows.to_dict("records"))
        assert wrong_numbers(text, [*values_of(found.facts), *rows]) == [], text


@every
def test_every_number_of_a_section_is_in_its_facts_and_tables(section: Plugin, evidence: Evidence) -> None:
    found = made(section, evidence)
    wrong = {text: numbers for text, known in statements(section.name, found, STUDY) if (numbers := wrong_numbers(text, known))}
    assert wrong == {}


@every
def test_every_block_has_a_name_of_its_own_and_a_table_behind_it(section: Plugin, evidence: Evidence) -> None:
    blocks = [block for block in made(section, evidence).blocks if hasattr(block, "rows")]
    names = [block.name for block in blocks]
    assert len(names) == len(set(names))
    assert all(len(block.rows.columns) for block in blocks)
    assert all(block.caption for block in blocks)
    assert all(len(block.shown) or not len(block.rows) for block in blocks if isinstance(block, Table))


@every
def test_equal_evidence_gives_an_equal_section_and_is_left_as_it_was(section: Plugin, evidence: Evidence) -> None:
    template = (Path(PAGE) / "page.html.j2").read_text(encoding="utf-8")
    before = {name: table.copy() for name, table in evidence.scores.items()}
    first, second = (made(section, evidence) for _ in range(2))
    assert plain(first) == plain(second)
    pages = [page_html(template, "", "t", [(section.name, one)]) for one in (first, second)]
    assert pages[0] == pages[1]
    assert all(table.equals(evidence.scores[name]) for name, table in before.items())


@every
def test_a_section_of_part_of_a_study_does_not_fail(section: Plugin, evidence: Evidence) -> None:
    """Whatever one stage left out, the page is made: each kind of evidence that the section looks at is taken away in turn."""
    names = health_outputs(section, evidence) - {"title", "on_page"}
    assert names
    for name in sorted(names):
        part = dataclasses.replace(evidence, **{name: {}})
        assert made(section, part).title, name


def health_outputs(section: Plugin, evidence: Evidence) -> set[str]:
    """The fields of the evidence that a section reads."""
    fields = {field.name for field in dataclasses.fields(Evidence)}
    read: set[str] = set()

    class Watched(Evidence):
        def __getattribute__(self, name: str) -> object:
            if name in fields:
                read.add(name)
            return super().__getattribute__(name)

    watched = Watched(**{name: getattr(evidence, name) for name in fields})
    read.clear()
    made(section, watched)
    return read
