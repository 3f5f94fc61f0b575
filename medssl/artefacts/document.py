"""A JSON file with named fields: read, written and checked by their types, units and meanings."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medssl.artefacts.checks import AGAIN
from medssl.core.errors import CorruptArtefactError
from medssl.core.files import read_json, write_json

Number = int | float
"""A number of a JSON file, an integer or a float as it was written."""


class Document(BaseModel):
    """A JSON file with named fields. Unset fields are not written, so that reading and writing preserve every byte."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    FILE: ClassVar[str] = ""
    FOLDER: ClassVar[str] = ""
    MEANING: ClassVar[str] = ""

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """The content of a file.

        Raises:
            CorruptArtefactError: it is not a file of this kind.
        """
        try:
            return cls.check(read_json(path), path)
        except (ValueError, OSError) as error:
            raise CorruptArtefactError(f"{path} is not a readable JSON file ({error}). {AGAIN}") from None

    def write(self, path: Path | str) -> None:
        """Write it all or nothing; `read` returns it."""
        write_json(path, self.plain())

    @classmethod
    def check(cls, value: Any, where: Path | str = "") -> Self:
        """The document made from plain values. `where`: its file.

        Raises:
            CorruptArtefactError: which field, what was found, what was expected, what to do.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the whole"
            got = repr(first["input"])
            raise CorruptArtefactError(
                f"{where or cls.FILE}, {field}: {first['msg']}, got {got if len(got) < 100 else got[:100] + '…'}. {AGAIN}"
            ) from None

    def plain(self) -> dict[str, Any]:
        """The fields that were set, as plain values."""
        return self.model_dump(exclude_unset=True)


def meant(meaning: str, unit: str = "", **more: Any) -> Any:
    """A field of a `Document` with its meaning and unit."""
    return Field(description=meaning, json_schema_extra={"unit": unit}, **more)


def fields_of(document: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """Name, annotation, unit and meaning of every field of a document, each followed by those of its nested documents."""
    for name, field in document.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield f"{before}{name}", field.annotation, str(extra.get("unit", "")), field.description or ""
        for inner, each in _documents_in(field.annotation):
            yield from fields_of(inner, f"{before}{name}.{each}")


def _documents_in(annotation: Any, each: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """The documents that an annotation holds; each of a dictionary of them is `<name>.`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, each
    for part in typing.get_args(annotation):
        yield from _documents_in(part, "<name>." if typing.get_origin(annotation) is dict else each)
