"""Prints docs/reference/refusals.md from the codes of stage ingest: `python docs/tools/refusals.py`."""

from __future__ import annotations

from medssl.ingest.codes import CODES, codes_of_checks

HEAD = """# Why a file was refused

Every file that a study does not use has a code and a sentence in `rejected.tsv`. `medssl check SOURCE` prints them
with the names of the files. Some codes also occur as warnings of accepted volumes, in the column `warnings` of `series.tsv`.
This page is made from the code (`make reference`).

| code | what it says |
|---|---|
"""


def page() -> str:
    """The page as Markdown."""
    sentences = CODES | codes_of_checks()
    return HEAD + "".join(f"| `{code}` | {sentences[code].replace('|', chr(92) + '|')} |\n" for code in sorted(sentences))


if __name__ == "__main__":
    print(page(), end="")
