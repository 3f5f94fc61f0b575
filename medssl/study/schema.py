"""The JSON schema of the study file, from which editors complete it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from medssl.core import plugins
from medssl.core.options import kind_of
from medssl.ingest.options import IngestOptions
from medssl.prepare.options import PrepareOptions
from medssl.study.options import Study


def study_schema() -> dict[str, Any]:
    """The schema of a study file as a user writes it: a plug-in is a name, or `{name: {option: value}}`."""
    schema = Study.model_json_schema()
    definitions = schema["$defs"]
    for model in models(Study):
        section = schema if model is Study else definitions[model.__name__]
        for name, field in model.model_fields.items():
            if kind := kind_of(field.annotation, field.metadata):
                section["properties"][name] = _as_written(section["properties"][name], _choice(kind))
            section["properties"][name].setdefault("description", field.description)  # pydantic loses that of inherited sections
    definitions.pop("PluginChoice", None)
    own = definitions["SourceOptions"]["properties"]
    for name, model in (("ingest", IngestOptions), ("prepare", PrepareOptions)):
        own[name] = {"$ref": f"#/$defs/{model.__name__}", "description": own[name]["description"]}
    tasks = {plugin.name: _options(plugin) for plugin in plugins.all_of("task")}
    task = definitions["FinetuneOptions"]["properties"]
    task["task"]["enum"] = list(tasks)
    task["options"] = {"anyOf": list(tasks.values()), "description": task["options"]["description"]}
    return dict(_or_alone(schema))


def _or_alone(schema: Any) -> Any:
    """A schema in which a value may stand alone for a list of one (`core/written.py`): a number, a word or a plug-in."""
    if isinstance(schema, list):
        return [_or_alone(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _or_alone(part) for name, part in schema.items()}
    item = schema.get("items", {})
    if schema.get("type") != "array" or not (item.get("type") in ("string", "integer", "number") or "enum" in str(item)):
        return found
    said = {name: found.pop(name) for name in ("title", "description", "default") if name in found}
    return {"anyOf": [found["items"], found], **said}


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A section and all sections below it, each once."""
    found: list[type[BaseModel]] = [model]
    for name in model.model_json_schema().get("$defs", {}):
        found += [kind for kind in _subclasses(BaseModel) if kind.__name__ == name and kind.__module__.startswith("medssl.")]
    return [kind for kind in dict.fromkeys(found) if kind.__name__ != "PluginChoice"]


def _subclasses(kind: type) -> list[type]:
    found: list[type] = []
    children: list[type] = kind.__subclasses__()
    for child in children:
        found += [child, *_subclasses(child)]
    return found


def _choice(kind: str) -> dict[str, Any]:
    found = list(plugins.all_of(kind))
    by_name = {
        "type": "object",
        "properties": {plugin.name: _options(plugin) for plugin in found},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [{"enum": [plugin.name for plugin in found]}, by_name]}


def _options(plugin: plugins.Plugin) -> dict[str, Any]:
    return plugin.options.model_json_schema() | {"title": plugin.name, "description": plugin.summary}


def _as_written(generated: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """A generated property with the choice in place of the checked form."""
    if generated.get("$ref") == "#/$defs/PluginChoice":
        kept = {name: value for name, value in generated.items() if name != "$ref"}
        return choice | kept
    return {
        key: (
            _as_written(value, choice)
            if isinstance(value, dict)
            else [_as_written(part, choice) if isinstance(part, dict) else part for part in value]
            if isinstance(value, list)
            else value
        )
        for key, value in generated.items()
    }
