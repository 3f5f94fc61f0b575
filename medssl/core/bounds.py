"""Bounded numbers and lists, for the sections of a study file and the signatures of plug-ins. A value out of bounds is refused
before any work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from medssl.core.written import in_yaml

Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[float, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Fold = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Part = Annotated[float, Field(ge=0, le=1)]
Momentum = Part
Percentile = Annotated[float, Field(gt=0, le=100)]
Bins = Annotated[int, Field(ge=2, le=4096)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
"""Widths of a perceptron's layers after its input."""


def _times(value: Any) -> Any:
    for one in value if isinstance(value, (list, tuple)) else ():
        is_time = isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < float("inf")
        if not is_time and one != "median":
            raise ValueError(f"expected times above 0 or the word median, got {in_yaml(one)}")
    return value


Times = Annotated[tuple[Positive | Literal["median"], ...], Field(min_length=1), BeforeValidator(_times)]
"""Times above 0, or the word `median`."""


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{list(pair)}: the first share must not be above the second")
    return pair


Rising = Annotated[tuple[Fraction, Fraction], AfterValidator(_rising)]
"""The smallest and the largest share of an image."""


def _shares_of_classes(value: Any) -> Any:
    if value in ("support", "equal"):
        return value
    numbers = isinstance(value, (list, tuple)) and all(isinstance(one, (int, float)) for one in value)
    if not numbers or not value or not all(0 < one < float("inf") for one in value):
        raise ValueError(f"expected support, equal, or a list with a number above 0 for each class, got {in_yaml(value)}")
    return value


SharesOfClasses = Annotated[Literal["support", "equal"] | list[Positive], BeforeValidator(_shares_of_classes)]
"""A word, or a number above 0 for each class."""

T = TypeVar("T")


def _each_once(values: list[Any]) -> list[Any]:
    names = [getattr(value, "name", value) for value in values]
    for place, name in enumerate(names):
        if name in names[:place]:
            written = list(name) if isinstance(name, tuple) else name
            raise ValueError(f"{written!r} stands twice in this list; expected each value once. Remove one")
    return values


def _some(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("this list is empty; expected at least 1 value. Name one, or leave the option out")
    return values


Distinct = Annotated[list[T], AfterValidator(_each_once), Field(json_schema_extra={"uniqueItems": True})]
"""A list without repeated values; of plug-ins, without repeated names."""
OneOrMore = Annotated[
    list[T], AfterValidator(_some), AfterValidator(_each_once), Field(json_schema_extra={"uniqueItems": True, "minItems": 1})
]
"""As `Distinct`, and not empty."""
