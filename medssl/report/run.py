"""The report stage: tables and receipts of all stages in; one self-contained page and every number of it as JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medssl.artefacts.labels import with_given_labels
from medssl.core import plugins, tables
from medssl.core.errors import StudyError
from medssl.core.files import inside, read_json, write_json, write_text
from medssl.core.job import RECEIPT, Job
from medssl.core.layout import Layout
from medssl.report.comparison import comparison
from medssl.report.crate import crate
from medssl.report.evidence import STAGES, Evidence, stage_and_name
from medssl.report.model_card import model_card
from medssl.report.page_text import finite, page_html, plain
from medssl.report.pictures import chosen_slices, overlay, to_gray
from medssl.report.section import Section, records
from medssl.report.sections.failures import ranked_cases
from medssl.volume.cache import open_array

LAST_MADE = "checklists"
"""The section that says which of the others answer what."""
PAGE = Path(__file__).parent / "page"
TABLES = ("series", "rejected", "volumes", "samples", "keeps", "curves", "fits", "scores", "comparisons", "cases")
BESIDE_SCORES = ("calibration.tsv", "confusion.tsv", "subgroups.tsv", "empty.tsv", "overlays.parquet")
VALUES = ("fingerprint", "summaries", "contracts", "leaks")
PICTURED_EPOCHS = 4
"""Of how many epochs the page shows what an objective drew, evenly spread, the first and the last among them."""
TEXT_COLUMNS = ("class", "unit", "init", "mode", "target", "predicted", "label", "value", "code", "sentence", "a", "b")


def run(job: Job) -> None:
    """Write the page, every number of it, the model card and the RO-Crate from whatever artefacts the job was given."""
    evidence, date = _read(job)
    sections = _sections(job, evidence)
    write_text(job.path("report.html"), _page(evidence.title, sections))
    write_json(
        job.path("report.json"),
        {
            "title": evidence.title,
            "study": finite(evidence.study),
            "sections": {name: plain(section) for name, section in sections},
        },
    )
    write_text(job.path("model_card.md"), model_card(evidence))
    files = ["report.html", "report.json", "model_card.md"]
    write_json(job.path("ro-crate-metadata.json"), crate(evidence.title, evidence.receipts, files, date))
    job.wrote(*[job.path(name) for name in (*files, "ro-crate-metadata.json")])
    job.write_receipt()


def compare(first: Path | str, second: Path | str, target: Path | str) -> None:
    """Write a page that puts two studies side by side; first and second are their report.json files.

    Raises:
        StudyError: a file is missing or is not a report.json.
    """
    reports = []
    for path in (Path(first), Path(second)):
        if not path.is_file() or path.suffix != ".json":
            raise StudyError(
                f"{path} is no report.json. Give the two files 7_report/<page>/report.json of the studies to compare."
            )
        report = read_json(path)
        if not isinstance(report, dict) or "sections" not in report:
            raise StudyError(f"{path} holds no sections: it is not a report.json of medssl. Give 7_report/<page>/report.json.")
        reports.append(report)
    title = " and ".join(dict.fromkeys(report["title"] for report in reports))
    write_text(target, _page(title, comparison(*reports)))


def _page(title: str, sections: list[tuple[str, Section]]) -> str:
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    return page_html((PAGE / "page.html.j2").read_text(encoding="utf-8"), style, title, sections)


def _sections(job: Job, evidence: Evidence) -> list[tuple[str, Section]]:
    makers: dict[str, Callable[[Evidence], Section]] = {
        name: plugins.find("section", name).load() for name in plugins.names("section")
    }
    wanted = job.spec.settings.get("sections") or makers
    ordered = sorted((name for name in makers if name in wanted), key=lambda name: (makers[name].__globals__["PLACE"], name))
    made: dict[str, Section] = {}
    with job.progress("", len(ordered), "sections") as bar:
        for name in sorted(ordered, key=lambda name: name == LAST_MADE):
            answered = frozenset(other for other, section in made.items() if section.answered)
            made[name] = makers[name](replace(evidence, on_page=answered))
            bar.advance()
    return [(name, made[name]) for name in ordered]


def _read(job: Job) -> tuple[Evidence, str]:
    inputs, settings = job.spec.inputs, job.spec.settings
    beside = [name.partition(".")[0] for name in BESIDE_SCORES]
    found: dict[str, Any] = {kind: {} for kind in (*TABLES, *beside, *VALUES, "views", "pictures")}
    receipts: dict[str, Path] = {}
    given: dict[str, pd.DataFrame] = {}
    for kind, paths in inputs.items():
        for text in [paths] if isinstance(paths, str) else paths:
            path = Path(text) if kind == "receipts" else job.read(text)
            _, name = stage_and_name(path)
            receipt = path if kind == "receipts" else path.parent / RECEIPT
            if receipt.is_file():
                receipts["/".join(stage_and_name(receipt))] = receipt
            if kind in TABLES:
                found[kind][name] = _table(path)
            elif kind == "views":
                found[kind][name] = path.read_bytes()
                drawn = _spread(sorted((path.parent / "pictures").glob("epoch-*.png")), PICTURED_EPOCHS)
                if drawn:
                    found["pictures"][name] = {int(one.stem.rpartition("-")[2]): job.read(one).read_bytes() for one in drawn}
            elif kind in VALUES:
                found[kind][name] = read_json(path)
            if kind == "scores":
                for other in BESIDE_SCORES:
                    if (path.parent / other).is_file():
                        found[other.partition(".")[0]][name] = _table(job.read(path.parent / other))
            if kind == "labels":
                given[name.removesuffix("/labels")] = tables.read_parquet(path)
    found["samples"] |= {source: with_given_labels(found["samples"][source], labels) for source, labels in given.items()}
    masked = sorted(set(given) & set(found["volumes"]))
    found["volumes"] |= {source: _with_given_masks(found["volumes"][source], given[source]) for source in masked}
    study = settings.get("study") or {}
    for path in list(receipts.values()):
        receipts |= {"/".join(stage_and_name(step)): step for step in _steps_before(path, job.spec.layout)}
    evidence = Evidence(
        title=settings.get("title") or f"Study {job.spec.study}",
        receipts=_in_order({key: read_json(path) for key, path in receipts.items()}),
        study=study,
        untold=_scans(receipts, job.spec.layout),
        **found,
    )
    evidence.planes.update(_planes(evidence, {stage_and_name(Path(p))[1]: Path(p).parent for p in inputs.get("samples", [])}))
    evidence.planes.update(_overlaid(evidence, [Path(p).parent for p in inputs.get("series", [])]))
    return evidence, _last_day(receipts)


def _steps_before(receipt: Path, layout: Layout) -> list[Path]:
    """The receipts of the steps of the same stage that a job built on: shards of a source, descriptions of a cohort."""
    stage, own = stage_and_name(receipt)
    names = {stage_and_name(Path(path)) for path in read_json(receipt).get("inputs", {})}
    folders = {"ingest": layout.ingest, "reduce": layout.describe}
    if stage not in folders:
        return []
    paths = [Path(folders[stage](name, RECEIPT)) for of, name in sorted(names) if of == stage and name != own]
    return [path for path in paths if path.is_file()]


def _scans(receipts: dict[str, Path], layout: Layout) -> dict[str, float]:
    """Wall time of each source's scan by Snakemake's clock: what it finds is private, so that it leaves no receipt."""
    found = {}
    for stage, _, source in sorted(key.partition("/") for key in receipts):
        table = Path(layout.benchmark("ingest", f"{source}-scan"))
        if stage == "ingest" and "/" not in source and table.is_file():
            found[f"ingest/{source}/scan"] = float(tables.read_tsv(table)["s"].iloc[-1])
    return found


def _last_day(receipts: dict[str, Path]) -> str:
    """The day of the newest receipt: by what it says, else by the time of its file."""
    days = []
    for path in receipts.values():
        written = read_json(path).get("date")
        days.append(written or datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat())
    return max(days, default="1970-01-01")


def _with_given_masks(volumes: pd.DataFrame, given: pd.DataFrame) -> pd.DataFrame:
    """The table of volumes with the masks that label files name; a mask that came with the images stays."""
    if "mask" not in given:
        return volumes
    masks = given.dropna(subset=["mask"]).drop_duplicates("volume_id").set_index("volume_id")["mask"]
    own = volumes["mask"] if "mask" in volumes else pd.Series(None, index=volumes.index, dtype=object)
    return volumes.assign(mask=own.where(own.notna(), volumes["volume_id"].map(masks)))


def _table(path: Path) -> pd.DataFrame:
    return tables.read_parquet(path) if path.suffix == ".parquet" else tables.read_tsv(path, text=TEXT_COLUMNS)


def _in_order(receipts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    places = {stage: place for place, stage in STAGES.items()}
    return dict(sorted(receipts.items(), key=lambda item: (places.get(item[0].split("/")[0], 0), item[0])))


def _spread(drawn: list[Path], most: int) -> list[Path]:
    places = np.unique(np.linspace(0, len(drawn) - 1, min(most, len(drawn))).round().astype(int))
    return [drawn[place] for place in places]


def _planes(evidence: Evidence, folders: dict[str, Path]) -> dict[str, NDArray[np.uint8]]:
    """The slices that the contact sheets and the gallery show, as 8-bit pictures by sample id."""
    wanted: set[str] = set()
    for keep in evidence.keeps.values():
        rows = chosen_slices(keep)
        wanted |= set(rows["sample_id"]) | set(rows["twin"].dropna())
    for cases in evidence.cases.values():
        ranked = ranked_cases(cases)
        wanted |= set(ranked["case_id"]) if len(ranked) else set()
    for leak in evidence.leaks.values():
        wanted |= {row[side] for name in ("pairs", "nearest") for row in leak.get(name, []) for side in ("query_id", "pool_id")}
    planes = {}
    for source, samples in evidence.samples.items():
        shown = samples[samples["sample_id"].isin(wanted)]
        volumes = evidence.volumes.get(source, pd.DataFrame({"volume_id": []})).set_index("volume_id")
        for array, rows in shown.groupby("array", sort=True):
            values = open_array(inside(folders[source], str(array)))
            for row in records(rows):
                if row["volume_id"] in volumes.index:
                    planes[row["sample_id"]] = _gray(values, row, volumes.loc[row["volume_id"]])
    return planes


def _overlaid(evidence: Evidence, ingested: list[Path]) -> dict[str, NDArray[np.uint8]]:
    """The pictured segmentations as 8-bit colour pictures by `<task>/<case>`, from the volumes that ingest stored."""
    planes = {}
    for task, rows in evidence.overlays.items():
        for row in records(rows):
            folders = [folder for folder in ingested if (folder / "volumes" / row["case_id"] / "image.npy").is_file()]
            if not folders:
                continue
            source = stage_and_name(folders[0] / "series.tsv")[1]
            series = evidence.series[source].set_index("volume_id").loc[row["case_id"]]
            prepared = evidence.volumes[source].set_index("volume_id").loc[row["case_id"]]
            values = open_array(inside(folders[0], "volumes", row["case_id"], "image.npy"))
            plane = _plane(values, row) * float(series.get("slope", 1.0)) + float(series.get("intercept", 0.0))
            shape = (int(row["rows"]), int(row["columns"]))
            masks = [np.frombuffer(row[name], np.uint8).reshape(shape) for name in ("prediction", "target")]
            if plane.shape == shape:
                low, high = _first(prepared["window_low"]), _first(prepared["window_high"])
                planes[f"{task}/{row['case_id']}"] = overlay(plane, low, high, *masks)
    return planes


def _gray(values: Any, row: dict[str, Any], volume: pd.Series) -> NDArray[np.uint8]:
    plane = _plane(values, row) * float(volume["slope"]) + float(volume["intercept"])
    return to_gray(plane, _first(volume["window_low"]), _first(volume["window_high"]), is_volume=row["kind"] == "volume")


def _plane(values: Any, row: dict[str, Any]) -> NDArray[np.float32]:
    """Plane `index` along `axis` of an array, without reading the others."""
    where = tuple(int(row["index"]) if axis == int(row["axis"]) else slice(None) for axis in range(3))
    return np.asarray(values[where], dtype=np.float32)


def _first(value: Any) -> float:
    """The first of a JSON list, or the number itself."""
    listed = json.loads(value) if isinstance(value, str) else value
    return float(listed[0] if isinstance(listed, list) else listed)
