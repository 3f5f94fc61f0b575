"""One column of a table of the results: its name, type, unit and meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

JSON = ("list", "dict")
"""Types whose cells are JSON text in a file."""

DType = Literal["str", "bool", "int8", "int32", "int64", "uint64", "float32", "float64", "bytes", "list", "dict"]

ID = "[a-z0-9]+(?:-[a-z0-9]+)*"
"""Every id: lower-case letters, digits and single dashes."""
INSIDE = "(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""A path relative to the folder of its table, which it cannot leave."""
HASH = "[0-9a-f]+"


@dataclass(frozen=True)
class Column:
    """One column. A missing value is `n/a` in TSV, null in Parquet, and `None`, `NA` or NaN in memory.

    nullable: values may be missing; optional: the column may be missing; form: a regular expression that every text matches;
    choices: all permitted texts; shape: of lists, such as `(3,)` or `(4, 4)`, any length if empty; item: the type of a list's
    items; compact: JSON without spaces.
    """

    name: str
    dtype: DType
    meaning: str
    unit: str = ""
    nullable: bool = False
    optional: bool = False
    form: str = ""
    choices: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    item: Literal["int", "float", "str"] = "float"
    compact: bool = False

    @property
    def kind(self) -> str:
        """The type without its width: `str`, `bool`, `int`, `float`, `bytes`, `list` or `dict`."""
        return re.sub("^u|[0-9]+$", "", self.dtype)

    @property
    def described(self) -> str:
        """The type in words: `list of 3 float`, `str or missing`."""
        words: str = self.dtype
        if self.dtype == "list":
            words = " ".join(["list of", " × ".join(map(str, self.shape)), self.item]).replace("  ", " ")
        return f"{words} or missing" if self.nullable else words
