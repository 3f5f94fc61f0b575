"""The pages hold what the code has: generated ones are the generator's, methods have a page, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from blocks import PAGES, ROOT, blocks_of
from typer.testing import CliRunner

import medssl
from medssl.cli import app
from medssl.core import errors, plugins
from medssl.study.file import load_study

DOCS = ROOT / "docs"
METHODS = [("objective", "objectives"), ("reducer", "reducers")]
sys.path.insert(0, str(DOCS))

from tools import commands, links, refusals  # noqa: E402


@pytest.mark.parametrize(("module", "name"), [(commands, "commands"), (refusals, "refusals")])
def test_generated_pages_are_the_generators(module: object, name: str) -> None:
    assert (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8") == module.page(), "run: make reference"  # type: ignore[attr-defined]


def test_the_page_of_exit_codes_has_those_of_the_errors() -> None:
    text = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    written = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}
    known = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.MedsslError)]
    assert written == {0} | {one.exit_code for one in known}


def test_every_plug_in_and_option_of_the_reference_has_a_whole_sentence() -> None:
    text = (DOCS / "reference" / "options.md").read_text(encoding="utf-8")
    summaries = re.findall(r"^### .*\n\n(.*)\n", text, re.M)
    meanings = [line.removesuffix(" |").rpartition(" | ")[2] for line in text.splitlines() if re.match(r"\| `", line)]
    assert len(summaries) > 40 and len(meanings) > 200
    assert not [one for one in (*summaries, *meanings) if not one.endswith((".", "." + "`"))]
    assert "as above" not in text


@pytest.mark.parametrize(("kind", "folder"), METHODS)
def test_every_method_has_a_page_with_its_title_and_source(kind: str, folder: str) -> None:
    place = DOCS / "explanation" / folder
    assert {path.stem for path in place.glob("*.md")} == {*plugins.names(kind), "index"}
    listed = (place / "index.md").read_text(encoding="utf-8")
    for plugin in plugins.all_of(kind):
        text = (place / f"{plugin.name}.md").read_text(encoding="utf-8")
        source = plugin.constant("SOURCE", default="")
        assert source in text, f"{plugin.name}: its page does not cite {source}"
        assert "## Take it when" in text and "## Take another when" in text
        assert f"({plugin.name}.md)" in listed


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS in page.parents], ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_to_a_page_and_a_place_in_it(page: Path) -> None:
    text = re.sub(r"^( *)```(?!\{image).*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^```\{image\} (\S+)", text, re.M):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, place = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), f"{target} is not there"
        if place and path.suffix == ".md":
            assert place in slugs(path), f"{path.name} has no place {place}"


def slugs(path: Path) -> set[str]:
    """The places of a page, as GitHub and MyST name them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.M)}


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set()
    for page in DOCS.rglob("*.md"):
        for block in blocks_of(page):
            if block.language == "{toctree}":
                names = [line for line in block.text.split() if not line.startswith(":")]
                listed |= {(page.parent / name).resolve() for name in names}
    pages = {path.resolve().with_suffix("") for path in (*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb"))} - {DOCS / "index"}
    assert pages == listed


def test_the_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in (DOCS / "gallery").iterdir()) < 3_000_000


def test_the_tutorials_study_file_is_a_study_and_its_step_changes_one_option(tmp_path: Path) -> None:
    """What its two lines of `sed` make, by the same replacements."""
    text = (DOCS / "tutorial" / "first_encoder.md").read_text(encoding="utf-8")
    study = (ROOT / "configs" / "ct.yaml").read_text(encoding="utf-8")
    made = []
    for old, new in re.findall(r"^sed .*?'s/\^?(.*?)/(.*?)/'", text, re.M):
        assert study.count(old) == 1
        study = study.replace(old, new)
        made.append(load_study(yaml.safe_load(study)))
    assert made[0].study == "first"
    before, after = (one.model_dump() for one in made)
    assert [key for key in before if before[key] != after[key]] == ["reduce"]


def test_what_the_tutorial_shows_of_check_is_what_check_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)  # as in a fresh clone: without the key that the first study makes
    page = DOCS / "tutorial" / "first_encoder.md"
    shown = next(block.text for block in blocks_of(page) if block.language == "text")
    printed = CliRunner().invoke(app, ["check", "demo/ct"], catch_exceptions=False).output
    ids = re.compile(r"v-[0-9a-f]{12}")
    assert ids.sub("v-", shown) == ids.sub("v-", printed)  # an id depends on the folder's path


def test_a_link_to_nowhere_and_a_script_from_elsewhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">b</a><a href="b.html#gone">b</a><a href="c.html">c</a><a href="https://x.org">x</a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1><script src="https://cdn.org/x.js"></script>')
    broken, outside = links.check(tmp_path)
    assert [sentence.split()[2] if " loads " in sentence else sentence.split()[3] for sentence in broken] == [
        "b.html#gone,", "c.html,", "https://cdn.org/x.js",
    ]  # fmt: skip
    assert outside == {"https://x.org", "https://cdn.org/x.js"}


def test_the_tools_of_the_documentation_are_python_of_this_project() -> None:
    for path in (DOCS / "tools").glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_notebook_uses_public_names_and_keeps_its_output() -> None:
    cells = json.loads((DOCS / "tutorial" / "python_api.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = "\n".join("".join(cell["source"]) for cell in code)
    assert set(re.findall(r"medssl\.(\w+)", text)) <= set(medssl.__all__)
    ast.parse(text)
    for cell in code:
        assert cell["outputs"], "run: make docs-test"
        assert not [out for out in cell["outputs"] if out["output_type"] == "error"]
