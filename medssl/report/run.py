"""The report stage: tables and receipts of all stages in; one self-contained page and every number of it as JSON out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medssl.artefacts import scores as artefacts
from medssl.artefacts.document import Document
from medssl.artefacts.encoder import CURVE, EMBEDDINGS, Contract
from medssl.artefacts.fits import CURVES, FITS
from medssl.artefacts.keep import KEEP, Leaks, Summary
from medssl.artefacts.labels import LABELS, LabelCounts, with_given_labels
from medssl.artefacts.receipt import STAGES, Receipt, stage_and_name
from medssl.artefacts.samples import SAMPLES, Fingerprint
from medssl.artefacts.schema import Table
from medssl.artefacts.series import REJECTED, SERIES
from medssl.artefacts.volumes import VOLUMES, Volume, read_volumes
from medssl.core import plugins, tables
from medssl.core.errors import StudyError
from medssl.core.files import inside, read_json, write_json, write_text
from medssl.core.job import RECEIPT, Job
from medssl.core.layout import Layout
from medssl.report.cases import ranked_cases
from medssl.report.class_colours import class_tones, rgb, rules
from medssl.report.class_names import with_class_names
from medssl.report.comparison import comparison
from medssl.report.crate import crate
from medssl.report.drawings import resolved, svg_file
from medssl.report.embedding import nearest_rows
from medssl.report.evidence import Evidence
from medssl.report.model_card import model_card
from medssl.report.number_labels import with_numbers_in_words
from medssl.report.options import PageOptions
from medssl.report.page_text import finite, page_html, plain, tsv_of
from medssl.report.pictures import chosen_slices, overlay, to_gray
from medssl.report.section import Figure, Section, Text, records
from medssl.report.shown_study import ShownStudy
from medssl.volume.cache import open_array
from medssl.volume.intensity import values_of, windowed

PAGE = Path(__file__).parent / "page"
TABLES: Mapping[str, Table] = {
    "series": SERIES,
    "rejected": REJECTED,
    "label_rejected": REJECTED,
    "volumes": VOLUMES,
    "samples": SAMPLES,
    "keeps": KEEP,
    "curves": CURVE,
    "embeddings": EMBEDDINGS,
    "fits": FITS,
    "scores": artefacts.SCORES,
    "comparisons": artefacts.COMPARISONS,
    "cases": artefacts.CASES,
}
"""By the name of the input."""
BESIDE_SCORES = (
    artefacts.FALLS, artefacts.FALL_COMPARISONS, artefacts.CALIBRATION, artefacts.AGREEMENT, artefacts.OPERATING,
    artefacts.RISK_GROUPS, artefacts.CONFUSION, artefacts.SUBGROUPS, artefacts.EMPTY, artefacts.OVERLAYS,
)  # fmt: skip
DOCUMENTS: Mapping[str, type[Document]] = {
    "fingerprint": Fingerprint,
    "label_counts": LabelCounts,
    "summaries": Summary,
    "contracts": Contract,
    "leaks": Leaks,
}
PICTURED_EPOCHS = 4
"""Of how many epochs the page shows what an objective drew, evenly spread, the first and the last among them."""


def run(job: Job) -> None:
    """Write the page, every number of it, the model card and the RO-Crate from whatever artefacts the job was given."""
    options = job.options(PageOptions)
    evidence, date = _read(job, options)
    sections = _sections(job, evidence, options.sections)
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
    files = ["report.html", "report.json", "model_card.md", *_write_beside(job, sections)]
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
        try:
            report = read_json(path)
        except ValueError:
            raise StudyError(f"{path} is damaged: it is not JSON. Run its study again, or give another report.json.") from None
        if not isinstance(report, dict) or not {"title", "sections"} <= set(report):
            raise StudyError(f"{path} holds no sections: it is not a report.json of medssl. Give 7_report/<page>/report.json.")
        reports.append(report)
    title = " and ".join(dict.fromkeys(report["title"] for report in reports))
    write_text(target, _page(title, comparison(*reports)))


def _write_beside(job: Job, sections: list[tuple[str, Section]]) -> list[str]:
    """Each figure as SVG, and the numbers of each figure and table as TSV; returns their names."""
    style = resolved(_style("chart.css"), _style("style.css")) + rules()
    texts: dict[str, str] = {}
    for block in (block for _, section in sections for block in section.blocks if not isinstance(block, Text)):
        folder = "figures" if isinstance(block, Figure) else "tables"
        texts[f"{folder}/{block.name}.tsv"] = tsv_of(block.rows)
        if isinstance(block, Figure):
            texts[f"figures/{block.name}.svg"] = svg_file(block.body, block.caption, block.legend, style)
    for folder in ("figures", "tables"):
        for old in sorted(job.path(folder).glob("*")):  # of a page with other sections
            if f"{folder}/{old.name}" not in texts:
                old.unlink()
    for name, text in texts.items():
        write_text(job.path(name), text)
    return sorted(texts)


def _style(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _page(title: str, sections: list[tuple[str, Section]]) -> str:
    style = "\n".join((_style("style.css"), _style("chart.css"), rules()))
    return page_html((PAGE / "page.html.j2").read_text(encoding="utf-8"), style, title, sections)


def _sections(job: Job, evidence: Evidence, wanted: list[str] | None) -> list[tuple[str, Section]]:
    found = [plugin for plugin in plugins.all_of("section") if wanted is None or plugin.name in wanted]
    ordered = sorted(found, key=lambda plugin: (plugin.constant("PLACE"), plugin.name))
    made: dict[str, Section] = {}
    with job.progress("", len(ordered), "sections") as bar:
        for plugin in sorted(ordered, key=lambda plugin: plugin.constant("LAST_MADE", default=False)):
            answered = frozenset(other for other, section in made.items() if section.answered)
            made[plugin.name] = plugin.load()(replace(evidence, on_page=answered))
            bar.advance()
    return [(plugin.name, made[plugin.name]) for plugin in ordered]


def _read(job: Job, options: PageOptions) -> tuple[Evidence, str]:
    inputs = job.spec.inputs
    kinds = (*TABLES, *map(_kind, BESIDE_SCORES), *DOCUMENTS, "views", "pictures", "fit_curves")
    found: dict[str, Any] = {kind: {} for kind in kinds}
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
                found[kind][name] = TABLES[kind].read(path)
            elif kind in DOCUMENTS:
                found[kind][name] = DOCUMENTS[kind].read(path)
            elif kind == "views":
                found[kind][name] = path.read_bytes()
                drawn = _spread(sorted((path.parent / "pictures").glob("epoch-*.png")), PICTURED_EPOCHS)
                if drawn:
                    found["pictures"][name] = {int(one.stem.rpartition("-")[2]): job.read(one).read_bytes() for one in drawn}
            elif kind == "labels":
                given[name.removesuffix("/labels")] = LABELS.read(path)
            if kind == "fits" and (path.parent / CURVES.file).is_file():
                found["fit_curves"][name] = CURVES.read(job.read(path.parent / CURVES.file))
            if kind == "scores":
                for table in BESIDE_SCORES:
                    if (path.parent / table.file).is_file():
                        found[_kind(table)][name] = table.read(job.read(path.parent / table.file))
    for kind in ("label_counts", "label_rejected"):
        found[kind] = {name.removesuffix("/labels"): one for name, one in found[kind].items()}
    found["samples"] |= {source: with_given_labels(found["samples"][source], labels) for source, labels in given.items()}
    masked = sorted(set(given) & set(found["volumes"]))
    found["volumes"] |= {source: _with_given_masks(found["volumes"][source], given[source]) for source in masked}
    asked = ShownStudy.model_validate(options.study)
    found |= with_class_names(found, asked)
    found |= with_numbers_in_words(found, asked)
    for path in list(receipts.values()):
        receipts |= {"/".join(stage_and_name(step)): step for step in _steps_before(path, job.spec.layout)}
    evidence = Evidence(
        title=options.title or f"Study {job.spec.study}",
        receipts=_in_order({key: Receipt.read(path) for key, path in receipts.items()}),
        study=options.study,
        scans=_scans(receipts, job.spec.layout),
        **found,
    )
    volumes = {stage_and_name(Path(path))[1]: _by_id(path) for path in inputs.get("volumes", [])}
    evidence.planes.update(_planes(evidence, volumes))
    evidence.planes.update(_overlaid(evidence, volumes, [Path(p).parent for p in inputs.get("series", [])]))
    return evidence, _last_day(receipts, evidence.receipts)


def _kind(table: Table) -> str:
    return table.file.partition(".")[0]


def _by_id(path: str) -> dict[str, Volume]:
    return {volume.volume_id: volume for volume in read_volumes(path)}


def _steps_before(receipt: Path, layout: Layout) -> list[Path]:
    """The receipts of the steps of the same stage that a job built on: shards of a source, descriptions of a cohort."""
    stage, own = stage_and_name(receipt)
    names = {stage_and_name(Path(path)) for path in Receipt.read(receipt).inputs}
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


def _last_day(paths: dict[str, Path], receipts: dict[str, Receipt]) -> str:
    """The day of the newest receipt: by what it says, else by the time of its file."""
    days = [
        receipts[key].date or datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat() for key, path in paths.items()
    ]
    return max(days, default="1970-01-01")


def _with_given_masks(volumes: pd.DataFrame, given: pd.DataFrame) -> pd.DataFrame:
    """The table of volumes with the masks that label files name; a mask that came with the images stays."""
    if "mask" not in given:
        return volumes
    masks = given.dropna(subset=["mask"]).drop_duplicates("volume_id").set_index("volume_id")["mask"]
    own = volumes["mask"] if "mask" in volumes else pd.Series(None, index=volumes.index, dtype=object)
    return volumes.assign(mask=own.where(own.notna(), volumes["volume_id"].map(masks)))


def _in_order(receipts: dict[str, Receipt]) -> dict[str, Receipt]:
    places = {stage: place for place, stage in STAGES.items()}
    return dict(sorted(receipts.items(), key=lambda item: (places.get(item[0].split("/")[0], 0), item[0])))


def _spread(drawn: list[Path], most: int) -> list[Path]:
    places = np.unique(np.linspace(0, len(drawn) - 1, min(most, len(drawn))).round().astype(int))
    return [drawn[place] for place in places]


def _planes(evidence: Evidence, volumes: dict[str, dict[str, Volume]]) -> dict[str, NDArray[np.uint8]]:
    """The slices that the contact sheets and the gallery show, as 8-bit pictures by sample id."""
    wanted: set[str] = set()
    for keep in evidence.keeps.values():
        rows = chosen_slices(keep)
        wanted |= set(rows["sample_id"]) | set(rows["twin"].dropna())
    for cases in evidence.cases.values():
        ranked = ranked_cases(cases)
        wanted |= set(ranked["case_id"]) if len(ranked) else set()
    nearest = nearest_rows(evidence)
    wanted |= set(nearest["query"]) | set(nearest["neighbour"])
    for leak in evidence.leaks.values():
        wanted |= {row[side] for row in (*leak.pairs, *leak.nearest) for side in ("query_id", "pool_id")}
    planes = {}
    for source, samples in evidence.samples.items():
        shown = samples[samples["sample_id"].isin(wanted) & samples["volume_id"].isin(volumes.get(source, {}).keys())]
        for volume_id, rows in shown.groupby("volume_id", sort=True):
            volume = volumes[source][str(volume_id)]
            values = open_array(volume.array)
            for row in records(rows):
                planes[row["sample_id"]] = to_gray(volume.seen_first(_plane(values, row)), is_volume=volume.is_volume)
    return planes


def _overlaid(evidence: Evidence, volumes: dict[str, dict[str, Volume]], ingested: list[Path]) -> dict[str, NDArray[np.uint8]]:
    """The pictured segmentations as 8-bit colour pictures by `<task>/<case>/<mask>`, from the volumes that ingest stored."""
    planes, tones = {}, class_tones(evidence)
    for task, rows in evidence.overlays.items():
        for row in records(rows):
            folders = [folder for folder in ingested if (folder / "volumes" / row["case_id"] / "image.npy").is_file()]
            if not folders:
                continue
            source = stage_and_name(folders[0] / SERIES.file)[1]
            series = evidence.series[source].set_index("volume_id").loc[row["case_id"]]
            volume = volumes[source][row["case_id"]]
            stored = _plane(open_array(inside(folders[0], "volumes", row["case_id"], "image.npy")), row)
            shape = (int(row["rows"]), int(row["columns"]))
            colours = {int(value): rgb(tones[name]) for value, name in row["classes"].items()}
            if stored.shape == shape:
                values = values_of(stored, float(series["slope"]), float(series["intercept"]))
                seen = windowed(values, volume.low[0], volume.high[0])
                for mask in ("prediction", "target"):
                    pixels = np.frombuffer(row[mask], np.uint8).reshape(shape)
                    planes[f"{task}/{row['case_id']}/{mask}"] = overlay(seen, pixels, colours)
    return planes


def _plane(values: Any, row: dict[str, Any]) -> NDArray[np.float32]:
    """Plane `index` along `axis` of an array, without reading the others."""
    where = tuple(int(row["index"]) if axis == int(row["axis"]) else slice(None) for axis in range(3))
    return np.asarray(values[where], dtype=np.float32)
