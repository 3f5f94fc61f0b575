"""The JSON schema of the study file, from which editors complete it."""

from __future__ import annotations

from typing import Any

from medssl.core import plugins
from medssl.study.options import Study


def study_schema() -> dict[str, Any]:
    """The schema of a study file as a person writes it: a plug-in is a name, or `{name: {option: value}}`."""
    schema = Study.model_json_schema()
    for section in schema["$defs"].values():
        for field, kind in CHOICES.items():
            if "PluginChoice" in str(section.get("properties", {}).get(field, "")):
                section["properties"][field] = _choice(kind)
    for source_field in ("ingest", "prepare"):
        name = source_field.capitalize() + "Options"
        schema["$defs"]["SourceOptions"]["properties"][source_field] = {"$ref": f"#/$defs/{name}"}
    return schema


def _choice(kind: str) -> dict[str, Any]:
    found = [plugins.find(kind, name) for name in plugins.names(kind)]
    options = {p.name: p.options.model_json_schema() | {"description": p.summary} for p in found}
    by_name = {"type": "object", "properties": options, "additionalProperties": False, "minProperties": 1, "maxProperties": 1}
    return {"anyOf": [{"enum": [p.name for p in found]}, by_name, {"type": "null"}]}
