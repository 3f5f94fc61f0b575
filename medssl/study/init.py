"""The study file that is proposed for a folder: it passes the checks of every study and states its assumptions.

A task that does not pass is left out, and the sentence of the check becomes a comment.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import yaml

from medssl.core.errors import StudyError
from medssl.core.found import Found
from medssl.core.layout import Layout
from medssl.study.check_folders import folder_problems
from medssl.study.checks import check_study
from medssl.study.dag import Dag
from medssl.study.file import read_study
from medssl.study.init_sources import Proposal, source_of
from medssl.study.init_text import study_text
from medssl.study.options import Study


def proposed_study(path: str, found: Found, file: str) -> str:
    """The text of a study file for a folder.

    Args:
        path: of the folder, as the study file will have it.
        found: what it holds.
        file: the study file, after which the study is named.

    Raises:
        StudyError: no study can run here.
    """
    wanted = [source_of(path, part, found.parts) for part in found.parts]
    proposal = Proposal(tuple(replace(source, tasks=(), share=0.0) for source in wanted), found.notes)
    _check(proposal, file)
    for number, source in enumerate(wanted):
        for task in source.tasks:
            sources = list(proposal.sources)
            sources[number] = replace(sources[number], tasks=(*sources[number].tasks, task), share=source.share)
            try:
                _check(replace(proposal, sources=tuple(sources)), file)
                proposal = replace(proposal, sources=tuple(sources))
            except StudyError as error:
                why = str(error).replace(f"{file}: ", "")
                note = f"No task on the {task.found.what} that were found, because a study would be refused: {why}"
                proposal = replace(proposal, notes=(*proposal.notes, note))
    return study_text(proposal, file)


def file_name_for(path: str) -> str:
    """The name of a study file, after the folder of its images; letters lose their accents."""
    folder = unicodedata.normalize("NFKD", Path(path).resolve().name.split(".")[0])
    plain = "".join(letter for letter in folder if not unicodedata.combining(letter))
    name = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")
    return f"{name or 'study'}.yaml"


def refuse_unusable_folder(path: str) -> None:
    """Refuse a folder for which no study could run here, before a long look at it.

    Raises:
        StudyError: it holds the current folder or results, or its name cannot stand in a study file.
    """
    if not path.isprintable():
        raise StudyError(
            f"{path!r} cannot be written in a study file: its name is not text. Rename the folder, or make a link to it."
        )
    study = Study.model_validate({"sources": {"images": {"path": path}}})
    for loc, text in folder_problems(study, Layout.of(study.output, study.study)):
        if loc[0] == "sources":
            text = f"{text}. A study writes into the folder in which it runs: change to a separate folder, beside the images"
        raise StudyError(f"{text}.")


def _check(proposal: Proposal, file: str) -> None:
    """Refuse what the check of any study refuses.

    Raises:
        StudyError: with the sentences of the check.
    """
    study, places = read_study(yaml.safe_load(study_text(proposal, file)), None)
    study = study.model_copy(update={"study": Path(file_name_for(Path(file).stem)).stem})
    check_study(Dag(study), replace(places, file=file))
