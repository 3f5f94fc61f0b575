"""Options of stage report: the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import model_validator

from medssl.core import plugins
from medssl.core.bounds import OneOrMore
from medssl.core.errors import did_you_mean
from medssl.core.options import Options
from medssl.core.plugins import Plugin


class ReportOptions(Options):
    """The page: its title, and which sections it has."""

    title: str | None = None
    """Title of the page; the study's name where it is left out."""
    sections: OneOrMore[str] | None = None
    """Sections; all of them where they are left out."""

    @model_validator(mode="after")
    def _known_sections(self) -> ReportOptions:
        for name in self.sections or []:
            if name not in plugins.names("section"):
                raise ValueError(f"there is no section {name!r}.{did_you_mean(name, plugins.names('section'))}")
        return self

    def plugins(self) -> Iterator[Plugin]:
        """The sections that are named, or every one."""
        yield from super().plugins()
        if self.sections is None:
            yield from plugins.all_of("section")
        else:
            yield from (plugins.find("section", name) for name in self.sections)


class PageOptions(ReportOptions):
    """What one job of the stage is given."""

    study: dict[str, Any] = {}
    """The options of the whole study, for the page to show; without paths of sources."""
    declared: str = ""
    """Hash of what all plug-ins say of themselves (titles, citations), which the page quotes."""
