"""Values as a person writes them in YAML: converted to the form of an option, or refused in plain words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import ErrorDetails


class Written(BaseModel):
    """Base of all options, of stages and of plug-ins. A single value becomes a list of one where a list is expected; the words
    that
    YAML reads as true and false are not numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        return as_meant(cls.model_fields[str(info.field_name)].annotation, value)


def as_meant(kind: Any, value: Any) -> Any:
    """`value` in the form of the type `kind`, if only its form differs.

    Raises:
        ValueError: true or false where a number is expected, which Python would take for 1 or 0.
    """
    forms = list(_forms(kind))
    if isinstance(value, bool) and not {bool, Any} & set(forms) and {int, float} & set(forms):
        raise ValueError(f"expected a number, got {in_yaml(value)} {_AS_TRUTH}")
    several = [form for form in forms if _item_of(form) is not None]
    if several and _stands_alone(value, _item_of(several[0])) and not set(forms) - {*several, NoneType}:
        value = [value]
    for form in forms:
        parts = get_args(form)
        if isinstance(value, (list, tuple)) and (item := _item_of(form)) is not None:
            return [as_meant(item, part) for part in value]
        if isinstance(value, (list, tuple)) and get_origin(form) is tuple and len(parts) == len(value):
            return [as_meant(part, own) for part, own in zip(parts, value, strict=True)]
        if isinstance(value, dict) and get_origin(form) is dict:
            return {key: as_meant(parts[1], own) for key, own in value.items()}
    return value


def _forms(kind: Any) -> Iterator[Any]:
    """The types that a type allows: those of a union, without annotations."""
    if get_origin(kind) is Annotated:
        yield from _forms(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _forms(part)
    else:
        yield kind


def _item_of(form: Any) -> Any:
    """The type of the values of a list of any length; None for any other type."""
    parts = get_args(form)
    if get_origin(form) is list or (get_origin(form) is tuple and parts[1:] == (...,)):
        return parts[0]
    return None


def _stands_alone(value: Any, item: Any) -> bool:
    """Whether a value may be a list's only item rather than a list; a mapping only if the list is of sections or plug-ins."""
    if isinstance(value, (str, int, float)):
        return True
    return isinstance(value, dict) and any(isinstance(form, type) and issubclass(form, BaseModel) for form in _forms(item))


def _to_path(text: str) -> str:
    if not text.strip():
        raise ValueError("the path is empty. Write one, or leave the option out")
    return os.path.expanduser(text)  # noqa: PTH111  (as text: a Path would drop what stands before a name, such as ./)


PathText = Annotated[str, AfterValidator(_to_path)]
"""A path; `~` is the home of the user who runs the study."""

_AS_TRUTH = "(YAML reads yes, no, on and off as true and false)"
_WORDS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), lambda of: "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), lambda of: "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), lambda of: "expected true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), lambda of: "expected a list"),
    **dict.fromkeys(("dict_type", "model_type"), lambda of: "expected a section of options (`option: value`)"),
    "string_type": lambda of: "expected text",
    "invalid_key": lambda of: "expected text as the name of an option",
    "finite_number": lambda of: "expected a finite number",
    "literal_error": lambda of: f"expected {of['expected']}".replace("True", "true").replace("False", "false"),
    "greater_than": lambda of: f"expected a number above {of['gt']:g}",
    "greater_than_equal": lambda of: f"expected a number of {of['ge']:g} or more",
    "less_than": lambda of: f"expected a number below {of['lt']:g}",
    "less_than_equal": lambda of: f"expected a number of {of['le']:g} or less",
    "too_short": lambda of: f"expected at least {of['min_length']} of them",
    "too_long": lambda of: f"expected at most {of['max_length']} of them",
}
"""What was expected, by pydantic's error type."""


def explained(problem: ErrorDetails) -> str:
    """An error that pydantic found, in the words of a study file: what was expected, what is there."""
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return "a list is too short: a value is missing" if isinstance(problem["loc"][-1], int) else "it is required and missing"
    expected = _WORDS[kind](context) if kind in _WORDS else problem["msg"]
    if kind in ("string_type", "invalid_key") and value is not None and not isinstance(value, (list, dict)):
        truth = f" {_AS_TRUTH}" if isinstance(value, bool) else ""
        return f"{expected}, got {in_yaml(value)}{truth}. Put it in quotes"
    return f"{expected}, got {in_yaml(value)}"


def in_yaml(value: Any) -> str:
    """A value as it would look in a study file."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, (str, int, float, list, tuple, dict)) else str(value)
