"""What all options have in common: unknown keys are refused, values are checked and frozen, every field has a description."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from medssl.core import plugins
from medssl.core.errors import StudyError, did_you_mean
from medssl.core.plugins import Plugin
from medssl.core.written import Written, explained, in_yaml


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is not a name: use small letters, digits and _ (it becomes a folder and a rule)")
    return name


def _check_window(window: tuple[float, float]) -> tuple[float, float]:
    if not window[0] < window[1]:
        raise ValueError(f"window {list(window)}: the first number must be below the second")
    return window


Name = Annotated[str, AfterValidator(_check_name)]
Window = Annotated[tuple[float, float], AfterValidator(_check_window)]
"""(low, high) in value units."""
Modality = Literal["CT", "MR", "PT", "OT"]
"""`OT`: another, or not known."""


class Options(Written):
    """Base of all options of a stage. The text below a field describes it in the schema and in docs/reference/options.md."""

    model_config = ConfigDict(validate_default=True, use_attribute_docstrings=True)

    def plugins(self) -> Iterator[Plugin]:
        """The plug-ins that a job with these options can load, including those that they load in turn.

        Options that stand for a whole folder of plug-ins add it here.
        """
        for value in self.__dict__.values():
            yield from _plugins_in(value)


def _plugins_in(value: Any) -> Iterator[Plugin]:
    if isinstance(value, Options):
        yield from value.plugins()
    elif isinstance(value, dict):
        for part in value.values():
            yield from _plugins_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _plugins_in(part)


class PluginChoice(Options):
    """`simclr`, or `{simclr: {temperature: 0.1}}`: a file of a plug-in folder and its options, completed with defaults."""

    name: str
    """The file of the plug-in folder."""
    options: dict[str, Any] = {}
    """Its options, completed with their defaults."""
    kind: str = Field(exclude=True)
    """The plug-in folder, set by the field that holds the choice."""

    def plugins(self) -> Iterator[Plugin]:
        """The plug-in itself and those that its options name."""
        yield from plugins.with_used(self.kind, self.name, self.options)


def choice_of(kind: str, value: Any) -> PluginChoice:
    """A plug-in and its options, from a study file or a spec.

    Raises:
        ValueError: neither form, no such plug-in, or a wrong option; as a sentence.
    """
    if isinstance(value, PluginChoice):
        return value
    if isinstance(value, str):
        name, options = value, {}
    elif isinstance(value, dict) and set(value) == {"name", "options"}:
        name, options = value["name"], value["options"]
    elif isinstance(value, dict) and len(value) == 1:
        name, options = next(iter(value.items()))
    else:
        raise ValueError(f"write the {kind} as its name, or as {{name: {{option: value}}}}, got {in_yaml(value)}")
    try:
        plugin = plugins.find(kind, name)
    except StudyError as error:
        raise ValueError(str(error)) from None
    try:
        return PluginChoice(name=name, options=plugin.check({} if options is None else options), kind=kind)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ValueError(f"{kind} {name!r} has no option {key!r}.{did_you_mean(key, plugin.options.model_fields)}") from None
        where = f"{kind} {name!r}, option {key!r}" if key else f"{kind} {name!r}"
        raise ValueError(f"{where}: {explained(first)}") from None


class ChoiceOf:
    """Marks a field that holds a plug-in, and names the plug-in's folder."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def kind_of(annotation: Any, metadata: list[Any]) -> str | None:
    """The plug-in folder that a field chooses from, alone or in a list; None if it holds something else."""
    marks = [mark.kind for mark in metadata if isinstance(mark, ChoiceOf)]
    if marks:
        return str(marks[0])
    return next((found for part in get_args(annotation) if (found := kind_of(part, _metadata(part)))), None)


def _metadata(annotation: Any) -> list[Any]:
    return list(getattr(annotation, "__metadata__", ()))


def _parser(kind: str) -> Callable[[Any], PluginChoice]:
    return lambda value: choice_of(kind, value)


Reducer = Annotated[PluginChoice, BeforeValidator(_parser("reducer")), ChoiceOf("reducer")]
Objective = Annotated[PluginChoice, BeforeValidator(_parser("objective")), ChoiceOf("objective")]
Backbone = Annotated[PluginChoice, BeforeValidator(_parser("backbone")), ChoiceOf("backbone")]
Metric = Annotated[PluginChoice, BeforeValidator(_parser("metric")), ChoiceOf("metric")]
