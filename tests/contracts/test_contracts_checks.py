"""Laws of every ingest check, which is found in its folder without registration; and a check added as one file."""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
from phantoms import datasets, random_phantom, save

from medssl.core import plugins
from medssl.core.rng import rng
from medssl.core.tables import read_tsv
from medssl.ingest.check import Finding, Series, found_checks, run_checks
from medssl.ingest.codes import CODES, codes_of_checks, sentence_of
from medssl.ingest.refusal import Refusal
from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.sources import refresh_sources

ROOT = Path(__file__).resolve().parents[2]
NAMES = plugins.names("check")
MODALITIES = ("CT", "MR", "PT")


def honest(modality: str, *, size: int = 64, slices: int = 12) -> Series:
    """A round body of soft tissue and noise in air; for CT in HU, for the others in counts."""
    noise = rng(0, "honest", modality).normal(0, 12, (size, size, slices))
    i, j = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]  # type: ignore[misc]
    values = np.where((i**2 + j**2 < 0.8)[:, :, None], 40.0, -1000.0) + noise
    if modality != "CT":
        values = np.abs(values + 1000)
    stored = np.asfortranarray(np.rint(values).astype(np.int16))
    planes = [stored[:, :, k] for k in range(2, slices, 3)]
    return locked(modality, values, planes, [(1.0, -1024.0 if modality == "CT" else 0.0)] * slices)


def hostile(modality: str) -> dict[str, Series]:
    """What the reading process could pass on from hostile files."""
    made = {}
    for name, value in {
        "constant": 7.0,
        "largest": float(np.finfo(np.float32).max),
        "lowest": float(np.finfo(np.float32).min),
        "infinite": np.inf,
        "no number": np.nan,
    }.items():
        values = np.full((3, 2, 5), value, np.float32)
        made[name] = locked(modality, values, [values[:, :, 0]], [(1.0, 0.0)] * 5)
    noise = rng(0, "hostile").integers(-32768, 32768, (32, 16, 4))
    for dtype in ("int8", "uint8", "int16", "uint16", "float32"):
        planes = [noise[:, :, 0].astype(dtype), np.zeros((16, 32), dtype)]
        made[dtype] = locked(modality, noise, planes, [(10.0**k, -(10.0**k)) for k in range(-2, 2)])
    made["one voxel"] = locked(modality, np.zeros((1, 1, 1)), [np.zeros((1, 1), np.int16)], [(1.0, 0.0)])
    extreme = [(1e300, -1e300), (1e-300, 0.0)] * 2
    made["extreme rescales"] = locked(modality, noise[:4, :4], [noise[:, :, 0]], extreme)
    checkered = np.indices((64, 64)).sum(axis=0) % 2 * 255
    made["chessboard"] = locked(modality, checkered[:, :, None], [checkered.astype(np.uint8)], [(1.0, 0.0)])
    bars = np.zeros((512, 64), np.uint8)
    bars[::2, 10:20] = 255
    made["a line of bars"] = locked(modality, bars[:, :, None], [bars], [(1.0, 0.0)])
    return made


def locked(modality: str, values: np.ndarray, planes: list[np.ndarray], rescales: list[tuple[float, float]]) -> Series:
    """A series as a check gets it, its arrays locked; only CT has values besides the planes."""
    with np.errstate(over="ignore"):
        sample = np.array(values, np.float32, order="F") if modality == "CT" else np.empty((0, 0, 0), np.float32)
    for array in (sample, *planes):
        array.flags.writeable = False
    return Series(modality, sample, planes, rescales)


def state(given: Series) -> list[object]:
    return [given.modality, given.values.tobytes(), [p.tobytes() for p in given.planes], list(given.rescales)]


def modalities_of(name: str) -> tuple[str, ...]:
    applies_to = plugins.find("check", name).constant("APPLIES_TO")
    return MODALITIES if applies_to is None else applies_to


# ---- the folder is the registry


def test_the_reading_process_finds_every_file_of_the_folder() -> None:
    assert list(found_checks()) == NAMES == sorted(NAMES)
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_other_file_names_a_check(name: str) -> None:
    for path in (ROOT / "medssl").rglob("*.py"):
        if path.stem != name:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                words = {getattr(node, field, None) for field in ("id", "attr", "name", "module", "value")}
                words |= {str(word).rpartition(".")[2] for word in words if isinstance(word, str)}
                assert name not in words, f"{path}, line {getattr(node, 'lineno', '?')}"


def test_the_reading_process_stays_light() -> None:
    heavy = ("pydantic", "pandas", "pyarrow", "torch", "scipy", "pydicom", "nibabel", "highdicom")
    program = "import sys, medssl.ingest.reading_process, medssl.ingest.check as p; p.found_checks(); "
    program += f"print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == "[]\n"


# ---- what a file says of itself


@pytest.mark.parametrize("name", NAMES)
def test_what_a_check_declares_is_read_from_its_text_and_is_what_it_runs_by(name: str) -> None:
    plugin, module = plugins.find("check", name), found_checks()[name]
    applies_to, codes = plugin.constant("APPLIES_TO"), plugin.constant("CODES")
    own = plugin.constant("SENTENCES", {})
    assert (applies_to, codes, own) == (module.APPLIES_TO, module.CODES, getattr(module, "SENTENCES", {}))
    assert applies_to is None or (applies_to and set(applies_to) <= set(MODALITIES))
    assert codes
    assert len(set(codes)) == len(codes)
    assert set(own) <= set(codes), "a sentence for a code that the check does not find"
    assert not set(own) & set(CODES), "the table has this code already"
    assert all(code.isidentifier() and code == code.lower() and sentence_of(code) for code in codes)


def test_no_two_checks_bring_one_code() -> None:
    brought = [code for name in NAMES for code in plugins.find("check", name).constant("SENTENCES", {})]
    assert sorted(brought) == sorted(codes_of_checks())


def test_an_unknown_code_is_an_error_of_the_program() -> None:
    with pytest.raises(ValueError, match="no_such_code"):
        Refusal("no_such_code")


@pytest.mark.parametrize("name", NAMES)
def test_every_check_has_the_one_signature(name: str) -> None:
    first, *options = inspect.signature(getattr(found_checks()[name], name)).parameters.values()
    assert (first.name, first.annotation) == ("series", "Series")
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in options)
    assert set(plugins.find("check", name).check({})) == {p.name for p in options}


# ---- what it does


@pytest.mark.parametrize("name", NAMES)
def test_an_honest_series_passes(name: str) -> None:
    for modality in modalities_of(name):
        assert getattr(found_checks()[name], name)(honest(modality)) is None, modality


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_check_answers_the_same_each_time_and_changes_nothing(name: str) -> None:
    check, codes = getattr(found_checks()[name], name), plugins.find("check", name).constant("CODES")
    for modality in modalities_of(name):
        for what, given in {"honest": honest(modality), **hostile(modality)}.items():
            before = state(given)
            finding = check(given)
            assert finding is None or (isinstance(finding, Finding) and finding.code in codes), what
            assert check(given) == finding, what
            assert state(given) == before, what
            with contextlib.suppress(Refusal):
                run_checks(given)


# ---- one file more

DUMMY = '''"""Whether a series has as many slices as the test likes."""

from __future__ import annotations

from medssl.ingest.check import Finding, Series

APPLIES_TO = ("CT",)
CODES = ("unloved",)
SENTENCES = {"unloved": "a number of slices that the test does not like"}


def liking(series: Series, *, least: int = 10) -> Finding | None:
    """Few slices are refused, many are warned of."""
    count = series.values.shape[2]
    return Finding("unloved", f"{count} slices", refuse=count < least)
'''


def test_a_check_dropped_in_as_one_file_refuses_and_warns(tmp_path: Path) -> None:
    """A copy of the package with one file more, and a source of two CT and an MR through scan, convert and merge."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "medssl", copy / "medssl", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "medssl" / "ingest" / "checks" / "liking.py").write_text(DUMMY, encoding="utf-8")
    save(datasets(random_phantom(0, slices=6)), tmp_path / "in" / "few")
    save(datasets(random_phantom(1, slices=12)), tmp_path / "in" / "many")
    save(datasets(random_phantom(3, slices=6, modality="MR")), tmp_path / "in" / "mr")
    with contextlib.chdir(tmp_path):
        Path("study.yaml").write_text("study: one_more\nsources:\n  in: {path: in}\n", encoding="utf-8")
        dag = Dag(load_study(files=["study.yaml"]))
        refresh_sources(dag.study, dag.layout)
        dag.write_specs()
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        for step in ("scan", "convert", "merge"):
            command = [warm.python(), "-m", "medssl", "ingest", dag.layout.spec("ingest", "in"), "--step", step]
            subprocess.run(command, env=environment, check=True)
        series, rejected = (read_tsv(dag.layout.ingest("in", f"{name}.tsv")) for name in ("series", "rejected"))
    assert rejected[["code", "sentence", "num_files"]].to_numpy().tolist() == [
        ["unloved", "a number of slices that the test does not like: 6 slices.", 6]
    ]
    warned = dict(zip(series["modality"], series["warnings"], strict=True))
    assert warned == {"CT": '["unloved"]', "MR": "[]"}
