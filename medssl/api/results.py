"""`medssl.Study`: the results of a study as data frames, encoders and figures. Nothing is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from medssl.artefacts.encoder import Contract
from medssl.artefacts.names import Run
from medssl.artefacts.reference import SECTIONS
from medssl.artefacts.schema import Table
from medssl.core.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    from medssl.api.encoder import Encoder

TABLES: Mapping[str, tuple[str, Table]] = {
    one.file.partition(".")[0]: (folder, one)
    for folder, _, described in SECTIONS
    for one in described
    if isinstance(one, Table) and re.match(r"\d_", folder)
}
"""By the name of its file: the folder below the results, `6_evaluate/<task>`, and the table."""


class Study:
    """The results of a study, a folder `results/<study>`; also while it runs: what is finished is there.

    Every table is read and checked by its schema (docs: artefacts). Where several files make one table, a first column says which
    one a row is of: `source`, `cohort`, `arm`, `run` or `task`.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        """
        Raises:
            StudyError: the folder holds no results of medssl.
        """
        self.folder = Path(folder)
        if not any(self.folder.glob("[1-7]_*")):
            beside = [path.parent.name for path in self.folder.glob("*/1_ingest")]
            hint = f" Did you mean {str(self.folder / beside[0])!r}?" if beside else ""
            raise StudyError(
                f"{self.folder} holds no results of a study (1_ingest to 7_report). Name the folder results/<study>.{hint}"
            )
        self.name = self.folder.resolve().name

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r}: {', '.join(self.tables) or 'no table yet'})"

    @property
    def tables(self) -> list[str]:
        """The tables that are there, in the order of the stages."""
        return [name for name in TABLES if any(self._files(name))]

    def table(self, name: str, **which: str) -> pd.DataFrame:
        """A table of the results, such as `scores`; `tables` lists those that are there.

        Args:
            which: of which `source`, `cohort`, `arm`, `run` or `task`; of all where it is not given.

        Raises:
            StudyError: there is no such table, or none of what `which` names.
            CorruptArtefactError: a file is not such a table.
        """
        if name not in TABLES:
            raise StudyError(f"there is no table {name!r}.{did_you_mean(name, TABLES)}")
        folder, table = TABLES[name]
        keys = re.findall(r"<(\w+)>", folder)
        if unknown := [key for key in which if key not in keys]:
            raise StudyError(f"table {name!r} is chosen by {' and '.join(keys)}, got {unknown[0]!r}.")
        found, places = [], []
        for place, path in self._files(name):
            places.append(place)
            if all(place[key] == value for key, value in which.items()):
                frame = table.read(path)
                for key in reversed([key for key in keys if key not in frame]):
                    frame.insert(0, key, place[key])
                found.append(frame)
        if not found:
            there = "; ".join(" ".join(f"{key}={value!r}" for key, value in place.items()) for place in places)
            asked = f" of {', '.join(f'{key} {value!r}' for key, value in which.items())}" if which else ""
            raise StudyError(
                f"{self.folder} has no table {name!r}{asked}{f'; it has those of {there}' if there else ''}. "
                f"{'Choose one of these.' if there else 'Run the stage that makes it: ' + folder + '.'}"
            )
        return pd.concat(found, ignore_index=True)

    @property
    def runs(self) -> pd.DataFrame:
        """The finished pre-training runs: name, reduction arm, seed, objective, backbone, training images, folder."""
        rows = []
        for path in sorted(self.folder.glob(f"4_pretrain/*/*/{Contract.FILE}")):
            contract, run = Contract.read(path), Run.parse(path.parent.name)
            rows.append(
                {
                    "run": f"{path.parent.parent.name}/{run}",
                    "cohort": path.parent.parent.name,
                    "name": run.name,
                    "arm": run.arm,
                    "seed": run.seed,
                    "objective": contract.objective,
                    "backbone": contract.backbone,
                    "spatial_dims": contract.spatial_dims,
                    "num_volumes": contract.data.num_volumes,
                    "num_samples": contract.data.num_samples,
                    "folder": str(path.parent),
                }
            )
        columns = ["run", "cohort", "name", "arm", "seed", "objective", "backbone", "spatial_dims", "num_volumes", "num_samples"]
        return pd.DataFrame(rows, columns=[*columns, "folder"])

    def encoder(self, run: str | None = None) -> Encoder:
        """The encoder of a run, `<cohort>/<run>`; of the only one where None.

        Raises:
            StudyError: there is no such run, or several and none was named.
        """
        from medssl.api.encoder import load

        runs = self.runs
        known = list(runs["run"])
        chosen = runs if run is None else runs[(runs["run"] == run) | (runs["run"].str.partition("/")[2] == run)]
        if len(chosen) != 1:
            said = "no run was named" if run is None else f"{run!r} is {len(chosen)} of them"
            hint = did_you_mean(run or "", known) or " Run its pre-training first."
            raise StudyError(f"{self.folder} has {len(known)} finished runs, and {said}.{hint}")
        return load(chosen["folder"].iloc[0])

    @property
    def series(self) -> pd.DataFrame:
        """A row per accepted volume or image set."""
        return self.table("series")

    @property
    def samples(self) -> pd.DataFrame:
        """A row per slice or image, with its part of the split."""
        return self.table("samples")

    @property
    def curves(self) -> pd.DataFrame:
        """A row per logged step of each pre-training run."""
        return self.table("curve")

    @property
    def scores(self) -> pd.DataFrame:
        """A row per task, arm, mode, share of labels, metric and class, with its interval."""
        return self.table("scores")

    @property
    def comparisons(self) -> pd.DataFrame:
        """A row per pair of arms, with the difference, its interval and p."""
        return self.table("comparisons")

    def figures(self, page: str = "study") -> dict[str, str]:
        """The figures of a page of the report as SVG text, by name.

        Args:
            page: `study`, or a cohort.

        Raises:
            StudyError: that page has not been written.
        """
        folder = self.folder / "7_report" / page
        if not (folder / "report.html").is_file():
            pages = sorted(found.parent.name for found in self.folder.glob("7_report/*/report.html"))
            there = f"it has {', '.join(pages)}" if pages else "it has none yet; run the target report"
            raise StudyError(f"{self.folder} has no page {page!r}: {there}.")
        return {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / "figures").glob("*.svg"))}

    def _files(self, name: str) -> Iterator[tuple[dict[str, str], Path]]:
        """The files of a table, and what the places in the path of each are."""
        folder, table = TABLES[name]
        pattern = re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", folder))
        for path in sorted(self.folder.glob(f"{re.sub(r'<.+?>', '*', folder)}/{table.file}")):
            place = pattern.fullmatch(path.parent.relative_to(self.folder).as_posix())
            if place is not None:
                yield place.groupdict(), path
