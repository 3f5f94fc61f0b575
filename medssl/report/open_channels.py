"""How many channels a bottleneck left open at the chosen step of each fit, map by map."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medssl.artefacts.fits import CLOSED_BELOW, has_closed
from medssl.report.section import Table, Text, count, number, percent, shown
from medssl.report.shares import Labels, ordered_shares, share_phrase


def open_channels(task: str, curve: pd.DataFrame, labels: Labels) -> list[Text | Table]:
    """A sentence on the fits with the most labels, a note on those that are closed, and a table; none without a bottleneck.

    curve: rows of curves.tsv, with `init`, `fraction` and `best_step` of their fits.
    """
    chosen = curve[(curve["step"] == curve["best_step"]) & curve["kept"].notna()] if "kept" in curve else curve[:0]
    if chosen.empty:
        return []
    rows = pd.DataFrame([row for _, part in chosen.groupby(["fraction", "init"]) for row in _of_maps(part)])
    most = rows[rows["fraction"] == ordered_shares(rows["fraction"])[-1]]
    sums = most.groupby("init")[["open", "channels"]].sum()
    uses = [f"{number(one['open'], 0)} of {count(one['channels'])} channels ({init})" for init, one in sums.iterrows()]
    phrase = share_phrase(most["fraction"].iloc[0], labels)
    blocks: list[Text | Table] = [Text(f"Task {task}, {phrase}: the head uses {', '.join(uses)}, in the mean over fits.")]
    closed = [
        f"{one['fit_id']} ({sum(one['kept'])} of {sum(one['channels'])})"
        for one in chosen.to_dict("records")
        if has_closed(one["kept"], one["channels"])
    ]
    if closed:
        words = f"Less than {percent(CLOSED_BELOW)} of the channels are open in {', '.join(closed)}: the bottleneck has closed."
        blocks.append(Text(f"{words} Lower finetune.{task}.bottleneck.weight.", "note"))
    columns: list[tuple[str, str, Any]] = [
        ("fraction", "Labels", lambda share: share_phrase(share, labels)),
        ("init", "Start", None),
        ("map", "Gated map", count),
        ("fits", "Fits", count),
        ("channels", "Channels", count),
        ("open", "Open", lambda value: number(value, 1)),
        ("share", "Share", percent),
    ]
    caption = f"Task {task}: open channels at the chosen step, means over fits; the last gated map is the deepest."
    return [*blocks, Table(f"channels-{task}", caption, rows, shown(rows, columns))]


def _of_maps(fits: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each gated map of the fits of a start."""
    kept, channels = pd.DataFrame(fits["kept"].tolist()), fits["channels"].iloc[0]
    return [
        {
            **{name: fits[name].iloc[0] for name in ("fraction", "init")},
            "map": place + 1,
            "fits": len(fits),
            "channels": channels[place],
            "open": float(kept[place].mean()),
            "share": float(kept[place].mean()) / channels[place],
        }
        for place in range(len(channels))
    ]
