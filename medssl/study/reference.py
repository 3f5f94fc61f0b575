"""docs/reference/options.md: the type, default and meaning of every option; printed when run as a program."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from medssl.core import plugins
from medssl.core.options import kind_of
from medssl.evaluate.options import EvaluateOptions
from medssl.finetune.options import FinetuneOptions
from medssl.finetune.recipe import BottleneckOptions
from medssl.ingest.options import IngestOptions
from medssl.nn.options import AugmentOptions, ViewOptions
from medssl.prepare.options import PrepareOptions, SplitOptions
from medssl.pretrain.options import PretrainOptions
from medssl.reduce.options import ArmOptions, ReduceOptions
from medssl.report.options import ReportOptions
from medssl.study.options import SourceOptions, Study

SECTIONS: list[tuple[str, type[BaseModel], tuple[str, ...]]] = [
    ("The study", Study, ()),
    ("sources.<name>", SourceOptions, ()),
    ("ingest", IngestOptions, ("check",)),
    ("prepare", PrepareOptions, ()),
    ("prepare.split", SplitOptions, ()),
    ("reduce", ReduceOptions, ()),
    ("reduce.arms.<name>", ArmOptions, ("reducer",)),
    ("pretrain.<name>", PretrainOptions, ("objective", "backbone")),
    ("pretrain.<name>.views", ViewOptions, ()),
    ("finetune.<name>", FinetuneOptions, ("task",)),
    ("finetune.<name>.augment", AugmentOptions, ()),
    ("finetune.<name>.bottleneck", BottleneckOptions, ()),
    ("evaluate", EvaluateOptions, ("metric",)),
    ("report", ReportOptions, ("section",)),
]
FIXED = ("check",)
"""Plug-ins that always run, with the options in their files: a study file sets none."""
HEAD = """# Options

Every option of a study file, with its type, default and meaning. This page is made from the code
(`python -m medssl.study.reference`), as is `configs/study.schema.json`, from which editors complete a study file.
A plug-in is written as its name, or with options: `objective: {simclr: {temperature: 0.1}}`. A value alone is a list of
one: `size: 32`. *By name* means that you choose the names: `sources: {ct: {path: scans}}`. In a path, `~` is your home folder.
"""


def page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_section(*section) for section in SECTIONS)


def _section(title: str, model: type[BaseModel], kinds: tuple[str, ...]) -> str:
    heading = f"`{title}`" if "<" in title else title  # bare, <name> would be a tag of HTML
    text = f"\n## {heading}\n\n{_sentence(model.__doc__)}\n\n{_table(model)}"
    for kind in kinds:
        for plugin in plugins.all_of(kind):
            text += f"\n### {kind} `{plugin.name}`\n\n{plugin.summary}\n"
            text += f"\n{_table(plugin.options)}" if plugin.options.model_fields and kind not in FIXED else ""
    return text


def _table(model: type[BaseModel]) -> str:
    return "| option | type | default | meaning |\n|---|---|---|---|\n" + "".join(_rows(model))


def _rows(model: type[BaseModel]) -> Iterator[str]:
    properties = model.model_json_schema()["properties"]
    for name in _own_first(model):
        field = model.model_fields[name]
        kind = kind_of(field.annotation, field.metadata)
        form = kind or form_of(properties[name])
        default = "required" if field.is_required() else f"`{_default(field.get_default(call_default_factory=True))}`"
        cells = (f"`{name}`", form, default, _sentence(field.description))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _own_first(model: type[BaseModel]) -> list[str]:
    """The options of a section: its own, then those that it shares with others."""
    written = (name for owner in model.__mro__ for name in inspect.get_annotations(owner))
    return [name for name in dict.fromkeys(written) if name in model.model_fields]


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _default(value: Any) -> str:
    """A default as it would be written in a study file."""
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, dict) and any(isinstance(part, BaseModel) for part in value.values()):
        return "{" + ", ".join(f"{name}: {{}}" for name in value) + "}"
    return value if isinstance(value, str) else json.dumps(value)


def form_of(schema: dict[str, Any]) -> str:
    """A type and its bounds in words, from its JSON schema: `number, > 0 and ≤ 1`."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(form_of(part) for part in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{_default(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return "section"
    kind = schema.get("type", "any")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(form_of(part) for part in schema['prefixItems'])}]"
        said = [words for name, words in (("minItems", "at least one"), ("uniqueItems", "each once")) if schema.get(name)]
        return f"list of {form_of(schema.get('items', {}))}" + (f" ({', '.join(said)})" if said else "")
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"{form_of(inner)}, by name" if isinstance(inner, dict) and inner else "mapping"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = " and ".join(f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema)
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
    return words.get(kind, "any") + (f", {bounds}" if bounds else "")


if __name__ == "__main__":
    print(page(), end="")
