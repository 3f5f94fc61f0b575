"""Prints docs/reference/commands.md from the command line's own parser: `python docs/tools/commands.py`."""

from __future__ import annotations

from typing import Any

import typer

from medssl.cli import app

HEAD = """# Commands

Every verb of `medssl`, with its arguments and options. This page is made from the code (`make reference`).
`medssl VERB --help` prints the same in a terminal. [Exit codes](errors.md) are those of all commands.

Most people need `init`, `check`, `run`, `plan`, `predict` and `export`. Snakemake calls the stages (`ingest` to `report`)
for you, each with a spec file that `medssl specs` writes.
"""


def page() -> str:
    """The page as Markdown."""
    group: Any = typer.main.get_command(app)
    text = HEAD
    for name, command in sorted(group.commands.items()):
        if not command.hidden:
            text += f"\n## `medssl {name}`\n\n{_sentences(command.help)}\n\n"
            text += f"```text\n{_usage(name, command)}\n```\n\n{_table(command)}"
    return text


def _usage(name: str, command: Any) -> str:
    """The shortest line that can be typed: arguments, and options that must be given."""
    if command.context_settings.get("allow_extra_args"):
        return f"medssl {name} [TARGETS] [--config FILE] [OPTIONS OF SNAKEMAKE]"
    needed = [_names(one) for one in command.params if one.required]
    optional = ["[OPTIONS]"] if any(not one.required and one.name != "help" for one in command.params) else []
    return " ".join(["medssl", name, *needed, *optional])


def _table(command: Any) -> str:
    if not any(not getattr(one, "hidden", False) and one.name != "help" for one in command.params):
        return ""
    rows = "| argument | default | meaning |\n|---|---|---|\n"
    for one in command.params:
        if getattr(one, "hidden", False) or one.name == "help":
            continue
        rows += f"| `{_names(one)}` | {_default(one)} | {_cell(getattr(one, 'help', None) or '')} |\n"
    return rows


def _names(one: Any) -> str:
    if one.param_type_name == "argument":
        return str(one.name).upper()
    names = ", ".join(sorted(one.opts, key=lambda name: (not name.startswith("--"), name)))
    return names if one.is_flag else f"{names} {one.name.upper()}"


def _default(one: Any) -> str:
    if one.required:
        return "required"
    value = one.default() if callable(one.default) else one.default
    if value is None or value is False or value == "" or "UNSET" in repr(value).upper():
        return ""
    return f"`{value}`"


def _sentences(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return _sentences(text).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")
