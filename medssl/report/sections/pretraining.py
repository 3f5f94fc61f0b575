"""Pre-training: the views the network saw, the loss, and signs of quality without labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
from markupsafe import Markup

from medssl.artefacts.names import in_cohort
from medssl.core import plugins
from medssl.report.chart import Line, axis, line_chart
from medssl.report.curves import by_epoch, images_per_s
from medssl.report.drawings import Charts, Sheets, one_chart
from medssl.report.evidence import Evidence, arm_of, run_of, tones
from medssl.report.pictures import sheet
from medssl.report.section import Figure, Section, Table, Text, count, duration, number, shown
from medssl.report.words import label_use

PLACE = 50
HEALTH = {"effective_rank": "Effective rank", "rankme": "RankMe", "alignment": "Alignment", "uniformity": "Uniformity"}
NAMES = HEALTH | {
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "knn_volume": "Neighbours of the same volume",
    "knn_patient": "Neighbours of the same patient",
    "knn_position": "Position predicted from neighbours",
}
BOOKKEEPING = ("epoch", "step", "loss", "images_per_s")
COLLAPSED_BELOW = 2.0
FEW_EPOCHS = 3
"""With fewer epochs than this in every run the loss is drawn by step: a point or two would be no curve."""


def pretraining(evidence: Evidence) -> Section:
    """Curves of loss, learning rate and health by epoch for every run, and a table of where each ended."""
    if not evidence.curves:
        return Section.not_given("Pre-training", "No pre-training run belongs to this page.")
    curves = {run: by_epoch(curve) for run, curve in sorted(evidence.curves.items())}
    blocks: list[Figure | Table | Text] = []
    for run, png in _one_for_each_recipe(evidence.views).items():
        caption = f"Views of run {run} as the network saw them. One column per sample, one row per view."
        blocks.append(
            Figure(
                f"views-{run.replace('/', '-')}",
                caption,
                caption,
                Sheets((("", sheet(png, caption)),)),
                pd.DataFrame({"run": [run]}),
            )
        )
    blocks += [_drawn(evidence, run, drawn) for run, drawn in _one_for_each_arm(evidence.pictures).items()]
    legend = _legend(list(curves))
    if max(len(curve) for curve in curves.values()) < FEW_EPOCHS:
        by_step = {run: curve.dropna(subset=["loss"]) for run, curve in sorted(evidence.curves.items())}
        blocks.append(_loss(by_step, legend, "step", "Loss by step (mean since the point before)."))
    else:
        blocks.append(_loss(curves, legend, "epoch", "Loss by epoch (mean over its steps)."))
    logged = sorted({str(name) for curve in curves.values() for name in curve if curve[name].notna().any()} - set(BOOKKEEPING))
    health = [name for name in (*HEALTH, "lr") if name in logged]
    others = [name for name in logged if name not in health]
    if health:
        words = (
            "Quality of the features, measured without labels: "
            + ", ".join(_name(name).lower() for name in health)
            + " by epoch."
        )
        blocks.append(_small_charts("health", words, curves, health, legend))
    if others:
        words = "Also logged, by epoch: " + ", ".join(_name(name).lower() for name in others) + "."
        blocks.append(_small_charts("logged", words, curves, others, legend))
    rows = pd.DataFrame([_end(evidence, run, curve) for run, curve in curves.items()])
    columns = [
        ("run", "Run", None),
        ("epochs", "Epochs", count),
        ("steps", "Steps", count),
        ("first_loss", "First loss", number),
        ("last_loss", "Last loss", number),
        ("effective_rank", "Effective rank", lambda v: number(v, 1)),
        ("images_per_s", "Images/s", lambda v: number(v, 0)),
        ("wall_s", "Time", duration),
    ]
    blocks.append(Table("runs", "Pre-training runs.", rows, shown(rows, columns)))
    known = known_rows(evidence)
    if len(known):
        heads = [
            ("run", "Run", None),
            ("column", "Column", None),
            ("kind", "Holds", None),
            ("known", "Samples with a value", count),
        ]
        heads.append(("missing", "Without", count))
        blocks.append(Table("records", "Records that runs were trained with.", known, shown(known, heads)))
    for source in [name for name, options in evidence.asked.sources.items() if options.label_as_feature]:
        words = f"The records of source {source} may give the label of a downstream task away (label_as_feature)"
        blocks.append(Text(f"{words}: its scores do not show what images alone predict.", "note"))
    collapsed = rows[rows["effective_rank"].astype(float) < COLLAPSED_BELOW]["run"].tolist()
    if collapsed:
        words = f"Effective rank below {COLLAPSED_BELOW:g} in {', '.join(collapsed)}: the representation may have collapsed."
        blocks.append(Text(words, "note"))
    lead = (
        f"How the encoders were trained, {label_use(evidence)}. A falling loss does not show that features "
        "are useful; effective rank shows how many dimensions they use."
    )
    return Section("Pre-training", lead, tuple(blocks), {"collapsed_below": COLLAPSED_BELOW})


def known_rows(evidence: Evidence) -> pd.DataFrame:
    """A row per run and column of records: how many of its training samples have a value."""
    rows = [
        {"run": run, "column": name, **known.model_dump()}
        for run, contract in sorted(evidence.contracts.items())
        for name, known in contract.records.items()
    ]
    return pd.DataFrame(rows)


def _legend(runs: list[str]) -> tuple[tuple[str, str], ...]:
    arms = sorted({arm_of(run) for run in runs})
    return tuple((tone, arm) for arm, tone in tones(arms).items() if arm in arms)


def _one_for_each_arm(pictures: dict[str, dict[int, bytes]]) -> dict[str, dict[int, bytes]]:
    """The first seed's pictures."""
    return dict({arm_of(run): (run, drawn) for run, drawn in sorted(pictures.items(), reverse=True)}.values())


def _drawn(evidence: Evidence, run: str, drawn: dict[int, bytes]) -> Figure:
    """What a run's objective drew after some epochs, with the caption that its file has."""
    epochs = sorted(drawn)
    when = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {', '.join(map(str, epochs[:-1]))} and {epochs[-1]}"
    options = evidence.asked.pretrain.get(run_of(run).name)
    objective = options.objective.name if options else ""
    known = plugins.has("objective", objective)
    words = plugins.find("objective", objective).constant("PICTURES", default="") if known else ""
    caption = (words or "Pictures of run {run} after {when}.").format(run=run, when=when)
    sheets = tuple((f"Epoch {epoch}", sheet(drawn[epoch], f"{caption} Epoch {epoch}.")) for epoch in epochs)
    rows = pd.DataFrame({"run": run, "epoch": epochs})
    return Figure(f"pictures-{run.replace('/', '-')}", caption, caption, Sheets(sheets), rows)


def _one_for_each_recipe(views: dict[str, bytes]) -> dict[str, bytes]:
    """The first run's picture of every recipe, each picture once: arms and seeds of a recipe see alike."""
    recipes: dict[tuple[str, str], str] = {}
    for run in sorted(views):
        recipes.setdefault((in_cohort(run)[0], run_of(run).name), run)
    pictures: dict[bytes, str] = {}
    for run in recipes.values():
        pictures.setdefault(views[run], run)
    return {run: png for png, run in pictures.items()}


def _lines(curves: dict[str, pd.DataFrame], column: str, along: str) -> list[Line]:
    colour = tones(sorted({arm_of(run) for run in curves}))
    return [
        Line(
            run,
            colour[arm_of(run)],
            tuple((float(at), float(v)) for at, v in zip(curve[along], curve[column], strict=True)),
            markers=len(curve) <= 12,
            tips=tuple(f"{run}, {along} {at:g}: {v:.4g}" for at, v in zip(curve[along], curve[column], strict=True)),
        )
        for run, curve in curves.items()
        if column in curve and curve[column].notna().any()
    ]


def _chart(curves: dict[str, pd.DataFrame], column: str, label: str, *, width: int, height: int, along: str = "epoch") -> Markup:
    lines = _lines(curves, column, along)
    points = [point for line in lines for point in line.points]
    tiny = max((abs(b) for _, b in points if math.isfinite(b)), default=1.0) < 0.01
    if tiny:
        lines = [replace(line, points=tuple((a, 1000 * b) for a, b in line.points)) for line in lines]
        points = [(a, 1000 * b) for a, b in points]
        label += " (× 0.001)"
    x = axis(along.capitalize(), [a for a, _ in points], num_ticks=6 if width > 400 else 4, whole=True)
    y = axis(label, [b for _, b in points], num_ticks=5 if height > 250 else 4)
    ends = "; ".join(f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines)
    return line_chart(lines, x, y, alt=f"{label} by {along}: {ends}", width=width, height=height)


def _loss(curves: dict[str, pd.DataFrame], legend: tuple[tuple[str, str], ...], along: str, caption: str) -> Figure:
    body = _chart(curves, "loss", "Loss", width=680, height=280, along=along)
    return Figure("loss", caption, caption, one_chart(body), _long(curves, ["loss"]), legend)


def _small_charts(
    figure: str, caption: str, curves: dict[str, pd.DataFrame], columns: list[str], legend: tuple[tuple[str, str], ...]
) -> Figure:
    charts = tuple(("", _chart(curves, name, _name(name), width=340, height=210)) for name in columns)
    body = Charts(charts, 1 if len(charts) == 1 else 3)
    return Figure(figure, caption, caption, body, _long(curves, columns), legend)


def _name(column: str) -> str:
    return NAMES.get(column, column.replace("_", " ").capitalize())


def _long(curves: dict[str, pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    parts = []
    for run, curve in curves.items():
        part = curve[["epoch", "step", *[name for name in columns if name in curve]]].copy()
        part.insert(0, "run", run)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _end(evidence: Evidence, run: str, curve: pd.DataFrame) -> dict[str, object]:
    last = curve.iloc[-1]
    drawn = (evidence.curves[run] if len(curve) < FEW_EPOCHS else curve)["loss"].dropna()
    return {
        "run": run,
        "epochs": len(curve),
        "steps": int(last["step"]),
        "first_loss": float(drawn.iloc[0]) if len(drawn) else math.nan,
        "last_loss": float(drawn.iloc[-1]) if len(drawn) else math.nan,
        "effective_rank": float(last.get("effective_rank", math.nan)),
        "images_per_s": images_per_s(evidence.curves[run]),
        "wall_s": evidence.wall_s(f"pretrain/{run}"),
    }
