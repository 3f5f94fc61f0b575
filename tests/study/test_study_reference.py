"""Every option has a description, a type and a default, and the pages that are made from them are fresh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medssl.core import plugins
from medssl.study.options import Study
from medssl.study.reference import FIXED, SECTIONS, form_of, page
from medssl.study.schema import models, study_schema

ROOT = Path(__file__).resolve().parent.parent.parent


def properties(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every property of a schema, however deep."""
    if isinstance(schema, dict):
        named = schema.get("properties")
        if isinstance(named, dict):
            yield from ((f"{path}/{name}", value) for name, value in named.items())
        for name, value in schema.items():
            yield from properties(value, f"{path}/{name}")
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from properties(value, f"{path}/{number}")


def test_every_property_of_the_schema_has_a_description() -> None:
    missing = [path for path, value in properties(study_schema()) if not value.get("description")]
    assert missing == []


def test_the_page_of_options_is_fresh_and_lists_every_option_of_every_section_and_plug_in() -> None:
    text = page()
    assert (ROOT / "docs" / "reference" / "options.md").read_text() == text
    listed = {model for _, model, _ in SECTIONS}
    assert {model for model in models(Study) if model.model_fields} == listed
    for kind in plugins.KINDS:
        for plugin in plugins.all_of(kind):
            part = text.split(f"### {kind} `{plugin.name}`")[1].split("\n#")[0]
            shown = [f"| `{name}` |" in part for name in plugin.options.model_fields]
            assert not any(shown) if kind in FIXED else all(shown), plugin.name


def test_a_plug_in_is_completed_by_name_or_with_its_options() -> None:
    choices = study_schema()["$defs"]["PretrainOptions"]["properties"]["objective"]["anyOf"]
    assert "simclr" in choices[0]["enum"]
    assert "temperature" in choices[1]["properties"]["simclr"]["properties"]
    assert "PluginChoice" not in json.dumps(study_schema())


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "whole number, ≥ 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number, > 0 and ≤ 1"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or null"),
        ({"enum": ["a", "b"], "type": "string"}, "`a` or `b`"),
        ({"type": "array", "items": {"type": "boolean"}}, "list of true or false"),
        ({"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]}, "[number, number]"),
    ],
)
def test_types_are_written_in_words(schema: dict, words: str) -> None:
    assert form_of(schema) == words
