"""The fits that a task of fine-tuning wants, said before the first is made: these must stay while it is at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from medssl.artefacts.document import Document, meant
from medssl.core.files import read_json
from medssl.core.layout import Layout


class WantedFits(Document):
    """Which kept fits a job needs, finished or not."""

    FOLDER: ClassVar[str] = "wanted"

    spec: str = meant("hash of the job's options")
    fit_keys: list[str] = meant("of its fits, sorted")

    @classmethod
    def path(cls, layout: Layout, task: str) -> Path:
        """Where a task says it: among its resume state, as it is no result."""
        return Path(layout.state("finetune", cls.FOLDER)) / f"{task}.json"

    @classmethod
    def said(cls, layout: Layout) -> list[Self]:
        """What the tasks of a study have said when they began, and in the receipts of those that are finished."""
        begun = sorted(Path(layout.state("finetune", cls.FOLDER)).glob("*.json"))
        finished = sorted(Path(layout.finetune("")).rglob("receipt.json"))
        return [wanted for path in (*begun, *finished) if (wanted := cls._in(path)) is not None]

    @classmethod
    def _in(cls, path: Path) -> Self | None:
        """None where a file is damaged: its task then has said nothing."""
        try:
            content: dict[str, Any] = read_json(path)
            return cls(spec=content["spec"], fit_keys=content["fit_keys"])
        except (ValueError, KeyError, TypeError):
            return None
