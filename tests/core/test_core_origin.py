"""The origin in a receipt: what git and the lock file say of a clone, and nothing where they say nothing."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

from medssl.core import origin as module
from medssl.core.origin import origin

git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def _clone(root: Path) -> Path:
    (root / "medssl").mkdir(parents=True)
    (root / "medssl/__init__.py").write_text("")
    (root / "README.md").write_text("one\n")
    (root / "requirements.lock").write_text(f"# pins\nnumpy=={version('numpy')}\ntorch=={version('torch').partition('+')[0]}\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return root / "medssl"


@git
def test_a_clean_clone_gives_its_commit_and_a_changed_one_says_so(tmp_path: Path) -> None:
    package = _clone(tmp_path)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "README.md").write_text("two\n")  # no result depends on it
    found = origin.__wrapped__(package)
    assert found["commit"] == head.strip() and found["dirty"] is False and found["lock_differs"] == {}
    assert len(found["lock_sha256"]) == 64
    (package / "plugin.py").write_text("")  # a new file is a change: plug-ins are found by being there
    assert origin.__wrapped__(package)["dirty"] is True


@git
def test_an_installed_package_does_not_take_the_commit_of_the_clone_around_its_environment(tmp_path: Path) -> None:
    _clone(tmp_path)
    installed = tmp_path / ".venv/lib/site-packages/medssl"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert origin.__wrapped__(installed) == dict.fromkeys(("commit", "dirty", "lock_sha256", "lock_differs"))


def test_a_wheel_has_no_commit_and_the_lock_file_that_it_brings(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "medssl"
    (package / "snakemake").mkdir(parents=True)
    (package / "snakemake" / "requirements.lock").write_text("numpy==0.0.1\n")
    (tmp_path / "site-packages" / "requirements.lock").write_text("another's\n")
    found = origin.__wrapped__(package)
    assert found["commit"] is None and found["dirty"] is None and found["lock_differs"] == {"numpy": version("numpy")}


def test_versions_are_those_that_packages_give_themselves() -> None:
    for found in distributions():
        assert module.installed_version(found.metadata["Name"]) == version(found.metadata["Name"])
    assert module.installed_version("no-such-package") is None


def test_without_git_the_commit_is_unknown_and_the_lock_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "medssl").mkdir()
    (tmp_path / "requirements.lock").write_text("numpy==0.0.1\nno-such-package==1.0\n")
    monkeypatch.setenv("PATH", "")
    found = module.origin.__wrapped__(tmp_path / "medssl")
    assert found["commit"] is None and found["dirty"] is None
    assert found["lock_differs"] == {"numpy": version("numpy"), "no-such-package": "not installed"}
