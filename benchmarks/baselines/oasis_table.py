"""The table alone, beside study oasis: logistic regression of a dementia rating above 0 on the columns of its pre-trainings.

None of medssl's code is used. Empty cells take the mean of the training part. Parts are drawn by scikit-learn, 60 % to train and
40 % to test, as many as in the study, so scores agree within the spread over seeds.

`python benchmarks/baselines/oasis_table.py [--seeds 10]`; the last line is RESULT {json}.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "baselines"))
from recipe import mean_and_deviation  # noqa: E402

RECORDS = ROOT.parent / "shared" / "data" / "table" / "oasis1" / "records.csv"
COLUMNS = {"all": ("age", "sex", "education", "etiv", "nwbv"), "age": ("age",), "age and sex": ("age", "sex"), "nwbv": ("nwbv",)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    with options.records.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["cdr"]]
    impaired = np.array([float(row["cdr"]) > 0 for row in rows])
    found = {}
    for name, columns in COLUMNS.items():
        table = np.array([[number(row[column]) for column in columns] for row in rows])
        scores = [auc(table, impaired, seed) for seed in range(options.seeds)]
        found[name] = mean_and_deviation(scores)
        print(json.dumps({"columns": name, "auc": [round(score, 4) for score in scores]}), flush=True)
    print(
        "RESULT "
        + json.dumps({"auc_mean_sd": found, "people": len(rows), "impaired": int(impaired.sum()), "seeds": options.seeds})
    )


def number(cell: str) -> float:
    """A cell as a number; F is 0 and M is 1."""
    return {"F": 0.0, "M": 1.0, "": np.nan}[cell] if cell in ("F", "M", "") else float(cell)


def auc(table: np.ndarray, impaired: np.ndarray, seed: int) -> float:
    """Of the test part of one draw."""
    train, test = train_test_split(np.arange(len(impaired)), test_size=0.4, stratify=impaired, random_state=seed)
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    return float(roc_auc_score(impaired[test], model.fit(table[train], impaired[train]).predict_proba(table[test])[:, 1]))


if __name__ == "__main__":
    main()
