"""The fits that a fine-tuning task needs, recorded before the first one starts, so that they are kept while it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from medssl.artefacts.document import Document, meant
from medssl.core.files import read_json
from medssl.core.layout import Layout


class WantedFits(Document):
    """The stored fits that a job needs, finished or not."""

    FOLDER: ClassVar[str] = "wanted"

    spec: str = meant("hash of the job's options")
    fit_keys: list[str] = meant("of its fits, sorted")

    @classmethod
    def path(cls, layout: Layout, task: str) -> Path:
        """The file in which a task records them: part of its resume state, not a result."""
        return Path(layout.state("finetune", cls.FOLDER)) / f"{task}.json"

    @classmethod
    def said(cls, layout: Layout) -> list[Self]:
        """What the tasks of a study recorded when they began, and what the receipts of finished ones say."""
        begun = sorted(Path(layout.state("finetune", cls.FOLDER)).glob("*.json"))
        finished = sorted(Path(layout.finetune("")).rglob("receipt.json"))
        return [wanted for path in (*begun, *finished) if (wanted := cls._in(path)) is not None]

    @classmethod
    def _in(cls, path: Path) -> Self | None:
        """None if a file is damaged: its task has then recorded nothing."""
        try:
            content: dict[str, Any] = read_json(path)
            return cls(spec=content["spec"], fit_keys=content["fit_keys"])
        except (ValueError, KeyError, TypeError):
            return None
