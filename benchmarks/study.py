"""The main figures of a study's results as one line: `python benchmarks/study.py joint` prints `RESULT {json}`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medssl.core import tables

MAIN = {"dice", "auc"}
"""The metrics that are shown; of a task that has none of them, the first that it has."""
OPTIONAL = {
    "falls": ("init", "mode", "fraction_most", "fraction_fewest", "metric", "fall", "low", "high", "seeds_in_interval"),
    "subgroups": ("group", "value", "init", "mode", "metric", "estimate", "low", "high", "n"),
    "fall_comparisons": ("a", "b", "mode", "metric", "difference", "low", "high", "p_holm"),
}
"""By table that not every task has, its columns in the line."""


def result(folder: Path) -> dict[str, Any]:
    """Scores, also by group, over all classes with their intervals, the comparisons, and what fewer labels lose, of each task."""
    found: dict[str, Any] = {"study": folder.name}
    for task in sorted(path for path in (folder / "6_evaluate").iterdir() if (path / "scores.tsv").is_file()):
        scores, comparisons = (tables.read_tsv(task / f"{name}.tsv") for name in ("scores", "comparisons"))
        main = {"scores": rows(scores, ("init", "mode", "fraction", "metric", "estimate", "low", "high", "num_seeds"))}
        main["comparisons"] = rows(comparisons, ("a", "b", "mode", "fraction", "metric", "difference", "low", "high", "p_holm"))
        for name, columns in OPTIONAL.items():
            if (task / f"{name}.tsv").is_file():
                main[name] = rows(tables.read_tsv(task / f"{name}.tsv"), columns)
        found[task.name] = main
    return found


def rows(table: Any, names: tuple[str, ...]) -> list[list[Any]]:
    """The rows of the main metrics over all classes, or of the positive one of two; numbers to four places."""
    main = MAIN & set(table["metric"]) or set(table["metric"].iloc[:1])
    table = table[table["metric"].isin(main)]
    whole = table[table["class"].isin(["all", "mean", "macro"])]
    table = whole if len(whole) else table
    cut = [[round(value, 4) if isinstance(value, float) else value for value in row] for row in table[list(names)].to_numpy()]
    return [list(names), *cut]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--output", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    print("RESULT", json.dumps(result(arguments.output / arguments.study)))
