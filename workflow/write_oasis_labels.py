"""Writes data/oasis/labels.csv for study oasis: who has a clinical dementia rating above 0. `make oasis-labels`.

The ratings are in the table of OASIS-1 itself (Marcus et al., J Cogn Neurosci 19:1498, 2007), which is not copied into this
repository.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT.parent / "shared" / "data" / "table" / "oasis1" / "records.csv"
LABELS = ROOT / "data" / "oasis" / "labels.csv"


def written(rows: list[dict[str, str]]) -> str:
    """The label table of the people whose rating is known."""
    known = [row for row in rows if row["cdr"]]
    return "id,label\n" + "".join(f"{row['id']},{'impaired' if float(row['cdr']) > 0 else 'healthy'}\n" for row in known)


def main() -> None:
    """Read the table that is named, or the shared one."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDS
    if not source.is_file():
        raise SystemExit(f"{source} is not there: name the table of OASIS-1, with the columns id and cdr")
    with source.open(encoding="utf-8", newline="") as file:
        text = written(list(csv.DictReader(file)))
    LABELS.parent.mkdir(parents=True, exist_ok=True)
    LABELS.write_text(text, encoding="utf-8")
    print(f"{LABELS}: {text.count(chr(10)) - 1} people")


if __name__ == "__main__":
    main()
