"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SpecPath = Annotated[Path, typer.Argument(help="spec file, results/<study>/specs/<stage>/<name>.json")]
Log = Annotated[Path | None, typer.Option(help="file that the log is appended to")]
Force = Annotated[bool, typer.Option("--force", help="accept images that differ from the training images, with a warning")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace files that are already there")]
Threads = Annotated[int, typer.Option(min=1, help="threads that this command may use")]
StudyFile = Annotated[Path, typer.Argument(help="study file")]
