"""The program `medssl`: its verbs in the order of the help text, and one sentence and an exit code for a foreseen error."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import medssl
from medssl.cli import images, models, stages, studies
from medssl.core import process
from medssl.core.errors import MedsslError

VERBS = {
    "A study": (images.init, studies.run, studies.plan, images.check, studies.compare, studies.clean),
    "What a study trained": (models.predict, models.embed, models.export, models.convert),
    "Stages, each from a spec file; `medssl run` starts them": (
        *(stages.ingest, stages.prepare, stages.reduce, stages.pretrain, stages.finetune, stages.evaluate, stages.report),
        *(studies.specs, studies.schema),
    ),
}
"""The verbs under the headings of the help text."""
SNAKEMAKE_READS_THE_REST = {"run": {"allow_extra_args": True, "ignore_unknown_options": True}}
USAGE = {"run": "[TARGET]... [--config STUDY_FILE] [OPTIONS OF SNAKEMAKE]"}


class Verbs(TyperGroup):
    """The group of all verbs, listed under headings."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each heading with its verbs; all names stand in one column."""
        names = [function.__name__ for functions in VERBS.values() for function in functions]
        room = formatter.width - 6 - max(map(len, names))
        for heading, functions in VERBS.items():
            commands = [(function.__name__, self.commands[function.__name__]) for function in functions]
            rows = [(name.ljust(max(map(len, names))), command.get_short_help_str(room)) for name, command in commands]
            with formatter.section(heading):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=Verbs,
    help="Self-supervised pre-training on CT and MR. Begin with `medssl init FOLDER` and `medssl run`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (verb for verbs in VERBS.values() for verb in verbs):
    settings = SNAKEMAKE_READS_THE_REST.get(verb.__name__)
    app.command(context_settings=settings, options_metavar=USAGE.get(verb.__name__, "[OPTIONS]"))(verb)


def _version(asked: bool) -> None:
    if asked:
        print(f"medssl {medssl.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)] = False,
    stop_with_parent: Annotated[bool, typer.Option(help="end when the process that started this one ends", hidden=True)] = False,
) -> None:
    """Handle the options that stand before a verb."""
    if stop_with_parent:
        process.stop_with_parent()


def main() -> None:
    """Run the command line; a foreseen error is one sentence and its exit code."""
    try:
        app(standalone_mode=True)
    except MedsslError as error:
        print(f"medssl: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
