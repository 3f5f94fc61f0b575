"""The firewall's steps: prints of two collections, pairs by id, patient or pixels, and exclusion of whole volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.keep import LEAKAGE
from medssl.core.process import dealt
from medssl.reduce.cohort import Cohort, Member
from medssl.reduce.leakage import DETAIL, SIMILAR, THUMB, Likeness, Print, fingerprint, matches

LEAST_DEALT = 64
"""With fewer queries a single process looks them up."""

MOST_SHOWN = 12
MOST_PRINTED = 96
"""Approximate number of voxels along an axis from which the print of a whole volume is made."""

PAIR_COLUMNS = LEAKAGE.names


@dataclass(frozen=True)
class Prints:
    """Prints of a volume's slices (None: not recognisable) and, if it is one, of the volume."""

    slices: list[Print | None]
    whole: Print | None

    def packed(self) -> dict[str, np.ndarray]:
        """All prints as arrays by name, for a file."""
        blank = Print(np.zeros((THUMB[2],) * 2, np.uint8), np.zeros((DETAIL[2],) * 2, np.uint8))
        filled = [one or blank for one in self.slices]
        return {
            "thumb": np.stack([one.thumb for one in filled]),
            "detail": np.stack([one.detail for one in filled]),
            "volume_thumb": self.whole.thumb if self.whole else np.empty(0, np.uint8),
            "volume_detail": self.whole.detail if self.whole else np.empty(0, np.uint8),
        }

    @classmethod
    def unpacked(cls, held: Any) -> Prints:
        """The inverse of `packed`."""
        slices = [Print(t, d) if t.any() else None for t, d in zip(held["thumb"], held["detail"], strict=True)]
        whole = Print(held["volume_thumb"], held["volume_detail"]) if held["volume_thumb"].size else None
        return cls(slices, whole)


def prints_of(member: Member, array: Any) -> Prints:
    """The prints of a volume's slices and of the volume."""
    slices = [fingerprint(member.seen(array, place)) for place in range(len(member.index))]
    if not member.volume.is_volume or len(member.index) == 1:
        return Prints(slices, None)
    stored = np.asarray(array[tuple(slice(None, None, max(n // MOST_PRINTED, 1)) for n in array.shape)])
    return Prints(slices, fingerprint(member.window.unit(stored).astype(np.float32)))


# Pairs


def same_ids(pool: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """Pairs of one slice id, and of one patient."""
    ids = held[["sample_id"]].merge(pool[["sample_id"]])
    same = pd.DataFrame({"query_id": ids["sample_id"], "pool_id": ids["sample_id"], "how": "id", "score": 1.0})
    known = held[held["subject_id"].notna()].drop_duplicates("subject_id")
    patients = pool[pool["subject_id"].notna()].merge(known, on="subject_id", suffixes=("", "_held"))
    shared = pd.DataFrame(
        {"query_id": patients["sample_id_held"], "pool_id": patients["sample_id"], "how": "patient", "score": 1.0}
    )
    return pd.concat([same, shared], ignore_index=True)[PAIR_COLUMNS]


def similar_pixels(
    pool: Cohort,
    held: Cohort,
    pool_prints: list[Prints],
    held_prints: list[Prints],
    *,
    threads: int,
    advance: Callable[[int], None] = lambda count: None,
) -> pd.DataFrame:
    """Pairs with similar pixels (score ≥ SIMILAR): slices and images one by one, and volumes as a whole (axes may be permuted).

    `advance` is called with how many more slices and volumes of `held` are done.
    """
    rows: list[tuple[str, str, str, float]] = []
    ids, held_ids = pool.table["sample_id"].tolist(), held.table["sample_id"].tolist()
    pool_rows, held_rows = (np.concatenate([member.rows for member in side.members]) for side in (pool, held))
    pool_slices, held_slices = ([one for prints in side for one in prints.slices] for side in (pool_prints, held_prints))
    for match in similar_slices(held_slices, pool_slices, threads, advance):
        rows.append((held_ids[held_rows[match.query]], ids[pool_rows[match.pool]], "slice", match.score))
    first, held_first = ([int(member.rows[0]) for member in side.members] for side in (pool, held))
    pool_whole, held_whole = ([prints.whole for prints in side] for side in (pool_prints, held_prints))
    for match in matches(held_whole, pool_whole, same=SIMILAR, advance=advance):
        rows.append((held_ids[held_first[match.query]], ids[first[match.pool]], "volume", match.score))
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def similar_slices(
    queries: list[Print | None], pool: list[Print | None], threads: int, advance: Callable[[int], None] = lambda count: None
) -> list[Likeness]:
    """`matches` with a score ≥ SIMILAR; the queries are divided among the job's threads, which does not change the result."""
    if threads == 1 or len(queries) < LEAST_DEALT:
        return matches(queries, pool, same=SIMILAR, advance=advance)

    def part(number: int, report: Callable[[int], None]) -> list[tuple[int, int, float]]:
        found = matches(queries[number::threads], pool, same=SIMILAR, advance=report)
        return [(int(m.query) * threads + number, int(m.pool), float(m.score)) for m in found]

    found = [Likeness(query, one, score) for rows in dealt(part, threads, advance) for query, one, score in rows]
    return sorted(found, key=lambda match: match.query)


def with_whole_volumes(pairs: pd.DataFrame, pool: pd.DataFrame) -> pd.DataFrame:
    """The pairs, and a row for each other slice of an affected pool volume: the rows of leakage.parquet."""
    pairs = pairs.merge(pool[["sample_id", "volume_id", "kind"]], left_on="pool_id", right_on="sample_id").drop(
        columns="sample_id"
    )
    hit = pairs[pairs["kind"] == "volume"].sort_values("score", ascending=False, kind="stable").drop_duplicates("volume_id")
    others = pool[["sample_id", "volume_id"]].merge(hit[["volume_id", "query_id", "score"]], on="volume_id")
    others = (
        others[~others["sample_id"].isin(pairs["pool_id"])].rename(columns={"sample_id": "pool_id"}).assign(how="same volume")
    )
    found = pd.concat([pairs[PAIR_COLUMNS], others[PAIR_COLUMNS]], ignore_index=True)
    found = found.astype({name: pd.StringDtype("pyarrow", na_value=np.nan) for name in ("query_id", "pool_id", "how")})
    return found.astype({"score": np.float32}).sort_values(["query_id", "pool_id", "how"], ignore_index=True)


# Pictures for review


def some_of(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs to show: the first of each query, at even steps from the least similar to the most."""
    once = pairs.drop_duplicates("query_id").sort_values(["score", "query_id"], kind="stable")
    return once.iloc[np.unique(np.linspace(0, len(once) - 1, min(MOST_SHOWN, len(once))).astype(int))]


def most_similar_of(unmatched: pd.DataFrame) -> pd.DataFrame:
    """Among the queries without a match, those most similar to an image of the pool, for manual review."""
    ordered = unmatched.sort_values(["score", "query_id"], ascending=[False, True], kind="stable")
    return ordered.drop_duplicates("query_id").head(MOST_SHOWN).assign(how="nearest")


def plain(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Pairs as plain values, the score in four digits."""
    rows = pairs[PAIR_COLUMNS].to_numpy(dtype=object).tolist()
    return [dict(zip(PAIR_COLUMNS, (*names, round(float(score), 4)), strict=True)) for *names, score in rows]
