"""The import picture, the pins and the tree are what the documents say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from medssl.core import plugins, sources

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "medssl"
STAGES = ["ingest", "prepare", "reduce", "pretrain", "finetune", "evaluate", "report"]
MAY_IMPORT = {
    "cli": {"core", "nn", *STAGES},
    "core": {"core"},
    "volume": {"volume", "core"},
    "nn": {"nn", "volume", "core"},
    "ingest": {"ingest", "volume", "core"},
    "prepare": {"prepare", "volume", "core"},
    "reduce": {"reduce", "volume", "nn", "core"},
    "pretrain": {"pretrain", "nn", "core"},
    "finetune": {"finetune", "nn", "volume", "core"},
    "evaluate": {"evaluate", "volume", "core"},
    "report": {"report", "volume", "core"},
}
BANNED = {
    "torch": ["core", "volume", "ingest", "prepare", "evaluate", "report"],
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
    imported = {room(p) for p in sources.imported_files(path)} - {"__init__"}
    assert imported <= MAY_IMPORT[room(path)], f"{path} imports {imported - MAY_IMPORT[room(path)]}"
    for package, rooms in BANNED.items():
        if package in imported_packages(path):
            assert room(path) not in rooms, f"{path} imports {package}"


def test_only_run_py_writes_in_a_stage() -> None:
    for path in files():
        if room(path) in STAGES and path.name != "run.py":
            names = {
                n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "") for n in ast.walk(ast.parse(path.read_text()))
            }
            writers = names & {"writing", "write_json", "write_text", "write_tsv", "write_parquet", "to_csv", "write_bytes"}
            assert not writers, f"{path} writes files ({writers}): only run.py of a stage may"


def test_no_pickle_and_no_unsafe_call_anywhere() -> None:
    for path in files():
        if path == PACKAGE / "nn" / "foreign.py":  # `medssl convert`: foreign weights, tensors only, in a process of its own
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


def test_the_command_line_starts_without_the_big_packages() -> None:
    big = ("torch", "monai", "sklearn", "scipy", "pydicom", "matplotlib", "jaxtyping")
    program = f"import sys, medssl.cli; print([m for m in {big} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    kinds = {".py", ".md", ".yaml", ".yml", ".smk", ".toml", ".lock", ".json", ""}
    for path in (ROOT / name for name in tracked if name):
        if path.suffix in kinds and path.is_file() and path != Path(__file__):
            text = path.read_text(errors="ignore")
            for word in ("/work/", "/root/", "/opt/pypi", "/opt/wheels"):
                assert word not in text, f"{path} names a machine path"


def test_code_hash_follows_imports_and_ignores_comments(tmp_path: Path) -> None:
    study = PACKAGE / "core" / "study.py"
    reached = {study}
    waiting = [study]
    while waiting:
        for path in sources.imported_files(waiting.pop()):
            if path not in reached:
                reached.add(path)
                waiting.append(path)
    assert {p.name for p in reached} >= {"study.py", "plugins.py", "errors.py"}
    assert "cli.py" not in {p.name for p in reached}
    assert sources.code_hash(study) == sources.code_hash(study) != sources.code_hash(PACKAGE / "core" / "tables.py")


def test_the_schema_for_editors_is_fresh() -> None:
    import json

    from medssl.core.schema import study_schema

    assert json.loads((ROOT / "configs" / "study.schema.json").read_text()) == json.loads(json.dumps(study_schema()))
