"""Every fault class, at 25 seeds with --full: right, or refused with a code that names it; never wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from faults import DICOM_FAULTS, FAULTS, NIFTI_FAULTS, Result, judge
from ingesting import ingest

from medssl.ingest.codes import sentence_of


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_no_fault_makes_a_wrong_volume(kind: str, tmp_path: Path, count: int, readers, capsys) -> None:
    faults = DICOM_FAULTS if kind == "dicom" else NIFTI_FAULTS
    totals: Counter[str] = Counter()
    lines, wrong, over, unnamed, uncounted = [], [], [], [], []
    for seed in range(count if count > 3 else 1):
        root = tmp_path / "source" / str(seed)
        expected = {name: fault(root / name, seed) for name, fault in faults.items()}
        found = ingest(root, tmp_path / "scratch" / str(seed), readers=readers)
        for name, truth in expected.items():
            result = found[name]
            verdict = judge(truth, [Result(values, affine) for values, affine, _ in result.volumes])
            totals[verdict] += 1
            for _, _, row in result.volumes:
                assert all(sentence_of(word) for word in row["warnings"]), row["warnings"]
            lines.append((name, verdict))
            where = f"{name} seed {seed}: {sorted(result.codes)}"
            if verdict == "wrong":
                wrong.append(where)
            if truth.must_be_right and verdict != "right":
                over.append(where)
            if verdict == "refused" and truth.codes and not result.codes & set(truth.codes):
                unnamed.append(where)
            if result.num_files != sum(p.is_symlink() or not p.is_dir() for p in (root / name).rglob("*")):
                uncounted.append(where)
    with capsys.disabled():
        table = Counter(lines)
        print(f"\n{kind}: right {totals['right']}, refused {totals['refused']}, wrong {totals['wrong']}")
        for name in faults:
            print(f"  {name:32s}" + "".join(f" {v} {table[name, v]:3d}" for v in ("right", "refused", "wrong")))
    assert not wrong, wrong
    assert not over, over
    assert not unnamed, unnamed
    assert not uncounted, uncounted


def test_there_are_forty_classes() -> None:
    assert len(FAULTS) >= 40
