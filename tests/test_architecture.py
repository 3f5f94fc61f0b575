"""The import picture, the pins and the tree are what the documents say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from medssl.core import code, plugins

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "medssl"
STAGES = ["ingest", "prepare", "reduce", "pretrain", "finetune", "evaluate", "report"]
GROUND = {"core", "artefacts"}
MAY_IMPORT = {
    "cli": {"cli", "api", "study", "nn", *GROUND, *STAGES},
    "api": {"api", "study", "nn", "volume", *GROUND, *STAGES},
    "study": {"study", "volume", "nn", *GROUND, *STAGES},
    "core": {"core"},
    "artefacts": {"artefacts", "volume", "core"},
    "volume": {"volume", "core"},
    "nn": {"nn", "volume", *GROUND},
    "ingest": {"ingest", "volume", *GROUND},
    "prepare": {"prepare", "volume", *GROUND},
    "reduce": {"reduce", "volume", "nn", *GROUND},
    "pretrain": {"pretrain", "nn", "volume", *GROUND},
    "finetune": {"finetune", "nn", "volume", *GROUND},
    "evaluate": {"evaluate", "volume", *GROUND},
    "report": {"report", "volume", *GROUND},
}
ROOF_READS = {"backbone_outline.py", "options.py", "recipe.py"}
"""What the roof may import of a stage or of nn: its options, and never what runs."""
ROOF_STARTS = {"header_check.py"}
"""What the roof may start in a process of its own."""
BANNED = {
    "torch": ["core", "artefacts", "study", "volume", "ingest", "prepare", "evaluate", "report"],
    "pydicom": [room for room in MAY_IMPORT if room != "ingest"],
    "snakemake": list(MAY_IMPORT),
    "torchvision": list(MAY_IMPORT),
    "timm": list(MAY_IMPORT),
    "pickle": list(MAY_IMPORT),
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if room(p) not in ("__init__", "__main__"))


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_room_imports_only_what_lies_below_it(path: Path) -> None:
    imported = {room(p) for p in code.imported_files(path)} - {"__init__"}
    assert imported <= MAY_IMPORT[room(path)], f"{path} imports {imported - MAY_IMPORT[room(path)]}"
    for package, rooms in BANNED.items():
        if package in imported_packages(path):
            assert room(path) not in rooms, f"{path} imports {package}"


def test_the_roof_knows_the_options_of_stages_and_not_what_runs() -> None:
    for path in (path for path in files() if room(path) == "study"):
        below = [p for p in code.imported_files(path) if room(p) in (*STAGES, "nn") and p.name != "__init__.py"]
        assert {p.name for p in below} <= ROOF_READS | ROOF_STARTS, f"{path} imports {below}"


def test_no_other_file_names_a_plug_in() -> None:
    """A name may stand in the plug-in's own file, as the default of an option, and in what a study file says."""
    names = {kind: plugins.names(kind) for kind in plugins.KINDS}
    home = {kind: PACKAGE / folder for kind, folder in plugins.KINDS.items()}
    found: list[str] = []
    for path in files():
        here = str(path.relative_to(PACKAGE))
        allowed = WORDS | DEFAULTS.get(room(path), set()) | set(MEANT.get(here, {}))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                kinds = [kind for kind in names if node.value in names[kind] and path.parent != home[kind]]
                found += [
                    f"{here}:{node.lineno} names {kind} {node.value!r}" for kind in kinds if (kind, node.value) not in allowed
                ]
    assert found == []


DEFAULTS = {
    "pretrain": {("objective", "simclr"), ("backbone", "resnet18")},
    "finetune": {("task", "classification"), ("backbone", "resnet18")},
    "reduce": {("reducer", "hash")},
    "cli": {("reducer", "hash")},
    "study": {("objective", "simclr")},
}
"""The recommended values of a study file that leaves them out."""
WORDS = {
    *(("reducer", word) for word in ("all", "hash", "embedding", "entropy")),
    *(("section", word) for word in ("data", "results", "answer", "flow", "leakage", "reduction", "failures", "provenance")),
    *(("section", word) for word in ("subgroups", "calibration", "compute", "pretraining")),
}
"""Words of the language, of tables and of folders that are also the name of a plug-in."""
MEANT = {
    "api/predicting.py": {("task", "segmentation"): "a column of files.tsv"},
    "artefacts/scores.py": {("metric", "brier"): "a column of cases.parquet", ("metric", "accuracy"): "of calibration.tsv"},
    "evaluate/calibration.py": {("metric", "accuracy"): "a column of calibration.tsv"},
    "report/sections/calibration.py": {("metric", "accuracy"): "a column of calibration.tsv"},
    "finetune/tasks/segmentation.py": {("backbone", "unet"): "a kind of decoder"},
    "pretrain/objectives/spark.py": {("backbone", "unet"): "a kind of decoder"},
    "core/file_names.py": {("task", "segmentation"): "a word in the names of mask files"},
    "nn/resnet.py": {("backbone", "bottleneck"): "a kind of block"},
    "finetune/gating.py": {("backbone", "bottleneck"): "an option of fine-tuning"},
    "study/check_starts.py": {("backbone", "bottleneck"): "an option of fine-tuning"},
    "pretrain/objectives/joint_2d3d.py": {("backbone", "slicewise"): "PARTS: what takes up a part that it leaves"},
    "pretrain/objectives/sepclr.py": {("backbone", "bottleneck"): "PARTS: what takes up a part that it leaves"},
    "reduce/features.py": {
        ("backbone", "resnet18"): "the network of a file without contract, by its tensors",
        ("backbone", "resnet50"): "the same",
    },
}
"""By file, the words that mean something else there, or that a file without a contract is recognised by."""


STORES = {PACKAGE / "ingest" / "volume_store.py", PACKAGE / "finetune" / "kept_fits.py"}
"""What a run.py keeps of finished pieces of its work, so that a job that was stopped makes none of them twice."""


def test_only_run_py_and_stores_write_in_a_stage() -> None:
    words = {"writing", "write_json", "write_text", "write_tsv", "write_rows", "write_parquet", "to_csv", "write_bytes"}
    for path in (path for path in files() if room(path) in STAGES and path.name != "run.py" and path not in STORES):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            of_table = name == "write" and isinstance(getattr(node, "value", None), ast.Name) and node.value.id.isupper()
            found |= {name} if name in words or of_table else set()
        assert not found, f"{path} writes files ({found}): only run.py of a stage may"


def test_no_pickle_and_no_unsafe_call_anywhere() -> None:
    for path in files():
        if path == PACKAGE / "nn" / "foreign.py":  # `medssl convert`: foreign weights, tensors only, in a separate process
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call not in {"torch.load", "pickle.load", "pickle.loads", "os.system"}, f"{path}: {call}"
                through_shell = any(k.arg == "shell" and getattr(k.value, "value", None) is True for k in node.keywords)
                assert not through_shell, f"{path}: {call}"


def test_conda_and_lock_hold_the_same_pins() -> None:
    lock = {line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")}
    conda = {line.strip(" -") for line in (ROOT / "environment.yml").read_text().splitlines() if "==" in line}
    assert lock == conda
    assert "torch==2.13.0" in lock
    assert all("==" in pin for pin in lock)


def test_every_declared_dependency_is_locked() -> None:
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[A-Za-z0-9_.-]+", d).group().lower() for d in project["dependencies"]}  # type: ignore[union-attr]
    locked = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert names <= locked, names - locked


@pytest.mark.parametrize("kind", sorted(plugins.KINDS))
def test_every_plugin_file_holds_what_its_name_says(kind: str) -> None:
    for name in plugins.names(kind):
        plugin = plugins.find(kind, name)
        assert plugin.summary, f"{plugin.path} has no docstring"
        plugin.check({})


BIG = ("torch", "monai", "sklearn", "scipy", "pydicom", "nibabel", "imagecodecs", "matplotlib", "jaxtyping", "pandas", "pyarrow")


@pytest.mark.parametrize(
    ("modules", "also"),
    [
        (["medssl.cli"], ("numpy", "pydantic")),
        (["medssl.cli", "medssl.ingest.run"], ()),
        (["medssl.cli", "medssl.ingest.checking", "medssl.ingest.summary"], ()),
        (["medssl.study.sources"], ("numpy",)),
        (["medssl"], ("numpy", "pydantic", "typer")),
    ],
    ids=lambda names: " ".join(names),
)
def test_commands_start_without_the_big_packages(modules: list[str], also: tuple[str, ...]) -> None:
    """The command line, ingest and a check, and the listing of a source."""
    program = f"import sys, {', '.join(modules)}; print([m for m in {(*BIG, *also)} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    kinds = {".py", ".md", ".yaml", ".yml", ".smk", ".toml", ".lock", ".json", ""}
    for path in (ROOT / name for name in tracked if name):
        if path.suffix in kinds and path.is_file() and path != Path(__file__):
            text = path.read_text(errors="ignore")
            for word in ("/work/", "/root/", "/opt/pypi", "/opt/wheels"):
                assert word not in text, f"{path} names a machine path"


def test_code_hash_follows_imports_and_names_of_modules_and_ignores_comments() -> None:
    assert {p.name for p in code.imported_files(PACKAGE / "study" / "file.py")} >= {"options.py", "plugins.py", "errors.py"}
    started = code.imported_files(PACKAGE / "nn" / "transfer.py")  # it starts a process of `medssl.nn.foreign`
    assert PACKAGE / "nn" / "foreign.py" in started
    assert code.code_hash(PACKAGE / "core" / "rng.py") != code.code_hash(PACKAGE / "core" / "tables.py")


def test_the_schema_for_editors_is_fresh() -> None:
    import json

    from medssl.study.schema import study_schema

    assert json.loads((ROOT / "configs" / "study.schema.json").read_text()) == json.loads(json.dumps(study_schema()))
