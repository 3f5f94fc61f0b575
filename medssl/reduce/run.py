"""The stage reduce: descriptors of a cohort, one arm's decision about each training slice, and the leakage firewall."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, read_json, sha256_file, sha256_text, write_json, writing
from medssl.core.job import RECEIPT, Job
from medssl.core.process import dealt
from medssl.core.rng import key
from medssl.core.tables import read_parquet, read_tsv, write_parquet
from medssl.reduce import pictures
from medssl.reduce.budget import exactly, nearest_threshold
from medssl.reduce.descriptors import describe_slices
from medssl.reduce.leakage import DETAIL, NEAR, SAME, THUMB, Match, Print, fingerprint, matches
from medssl.reduce.pairs import Pairs, Remembered
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import LEAK, NOBODY, Decision, Slices
from medssl.reduce.traversals import TRAVERSALS, balanced
from medssl.reduce.windows import Window
from medssl.volume.cache import open_array, read_plane

CHUNK_SLICES = 16
EMBED_BATCH = 32
LEAST_DEALT = 64
MOST_SHOWN = 12
CURVE_POINTS = 33
PICTURED_SLICES = 48
PICTURED_VOLUMES = 40
MOST_PRINTED = 96
PAIR_COLUMNS = ["query_id", "pool_id", "how", "score"]
TABLE_COLUMNS = ["sample_id", "volume_id", "subject_id", "kind", "index", "position_mm"]


@dataclass(frozen=True)
class Volume:
    """One volume (or image set) of a source: its array, its window, and its `rows` of the cohort's table."""

    array: Path
    window: Window
    axis: int
    index: np.ndarray
    rows: np.ndarray
    is_volume: bool = True

    def plane(self, array: Any, place: int) -> np.ndarray:
        """Stored plane [row, col] of the volume's slice number `place`: transposed, nothing flipped."""
        return read_plane(array, self.axis, int(self.index[place])).T


def describe(job: Job) -> None:
    """Descriptors of every training slice of a cohort, from one pass; volumes described before are taken from the cache.

    With `shards` and `shard` in its settings a job describes its share of the volumes; arms read the tables of all shards.
    """
    settings = job.spec.settings
    table, volumes = _shard(*_cohort(job), settings.get("shard", 0), settings.get("shards", 1))
    sizes = tuple(settings.get("hash_sizes", (8,)))
    greys = tuple(settings.get("greys", ("window",)))
    parts: list[pd.DataFrame] = []
    cached = 0
    with job.progress("describe", len(table), "slices") as bar, _one_blas_thread(), ThreadPoolExecutor(job.threads) as pool:
        for volume in volumes:
            cache = _cache_file(job, volume, sizes, greys)
            if cache.is_file():
                columns = read_parquet(cache)
                cached += 1
            else:
                array = open_array(job.read(volume.array))

                def chunk(start: int, volume: Volume = volume, array: Any = array) -> pd.DataFrame:
                    stop = min(start + CHUNK_SLICES, len(volume.index))
                    planes = [volume.plane(array, place) for place in range(start, stop)]
                    return pd.DataFrame(describe_slices(planes, volume.window, sizes=sizes, greys=greys))

                columns = pd.concat(pool.map(chunk, range(0, len(volume.index), CHUNK_SLICES)), ignore_index=True)
                write_parquet(cache, columns)
            parts.append(columns.set_index(volume.rows))
            bar.advance(len(volume.rows))
    if not parts:
        # a shard without volumes still says which columns there are, and of which type
        blank = describe_slices([np.zeros((16, 16), np.int16)], Window(0, 1), sizes=sizes, greys=greys)
        parts = [pd.DataFrame(blank).iloc[:0]]
    described = pd.concat([table[TABLE_COLUMNS], pd.concat(parts).sort_index()], axis=1)
    job.log(f"described {len(volumes) - cached} volumes, {cached} known before")
    out = job.path("descriptors.parquet")
    write_parquet(out, described)
    job.wrote(out)
    job.write_receipt()


def run(job: Job) -> None:
    """One arm: which training slices are kept, which dropped, and which kept slice stands for each dropped one."""
    start_s = time.monotonic()
    settings = job.spec.settings
    name, options = settings["reducer"]["name"], settings["reducer"]["options"]
    table, volumes = _cohort(job)
    described = _descriptors(job, table)
    leaked = _leaked(job, table)
    plugin = plugins.find("reducer", name).load()
    slices = _slices(job, described[~leaked], volumes, plugin.needs)
    reducer: Pairs | Ranks = plugin(slices, **options)
    count = _count(job, len(slices))
    with job.progress("", len(slices), "slices") as bar:
        decision, threshold = _decide(reducer, settings, count)
        bar.advance(len(slices), f"{decision.num_kept} kept")
    decision = _with_leaks(decision, leaked)

    keep = _keep_table(table, decision)
    summary = {
        "reducer": name,
        "options": options,
        "traversal": settings["traversal"] if isinstance(reducer, Pairs) else None,
        "budget": {k: settings[k] for k in ("threshold", "keep_frac", "match") if settings.get(k) is not None},
        "threshold": threshold,
        "count": count,
        "slices": len(keep),
        "volumes": int(table["volume_id"].nunique()),
        "kept": decision.num_kept,
        "kept_frac": decision.num_kept / len(keep),
        "reasons": {str(k): int(v) for k, v in keep["reason"].value_counts().sort_index().items()},
        "seconds": round(time.monotonic() - start_s, 3),
    }
    full = _slices(job, described, volumes, ("plane",))
    for file, figure in _figures(reducer, full, decision, threshold, summary):
        _save(job.path(file), figure)
        job.wrote(job.path(file))
    write_parquet(job.path("keep.parquet"), keep)
    write_json(job.path("summary.json"), summary)
    job.wrote(job.path("keep.parquet"), job.path("summary.json"))
    job.write_receipt()


def leakage(job: Job) -> None:
    """Which images of the pre-training pool are downstream validation or test images, by id, patient or pixels.

    All slices of a pool volume leave with the one that is found: its neighbours show the same patient.

    Raises:
        StudyError: something was found and the study says `leakage: stop`.
    """
    start_s = time.monotonic()
    table, volumes = _cohort(job)
    held_table, held_volumes = _cohort(job, names=("held_samples", "held_volumes"), splits=("val", "test"))
    if held_table.empty:
        pairs = near = pd.DataFrame(columns=PAIR_COLUMNS)
    else:
        by_id = _same_ids(table, held_table)
        alike = _alike_pixels(job, (table, volumes), (held_table, held_volumes))
        by_pixels = alike[alike["score"] >= SAME]
        pairs = pd.concat([by_id, by_pixels], ignore_index=True).drop_duplicates(["query_id", "pool_id", "how"])
        near = alike[~alike["query_id"].isin(pairs["query_id"])]
    found = _with_whole_volumes(pairs, table)
    shown, nearest = _some(pairs), _nearest(near)
    out, picture = job.path("leakage.parquet"), job.path("leakage.png")
    write_parquet(out, found)
    job.wrote(out)
    summary = {
        "queries": len(held_table),
        "pool": len(table),
        "queries_found": int(pairs["query_id"].nunique()),
        "pool_excluded": int(found["pool_id"].nunique()),
        "how": {str(k): int(v) for k, v in pairs["how"].value_counts().sort_index().items()},
        "policy": job.spec.settings.get("leakage", "exclude"),
        "same": SAME,
        "pairs": _plain(shown),
        "nearest": _plain(nearest),
        "seconds": round(time.monotonic() - start_s, 3),
    }
    write_json(job.path("leakage.json"), summary)
    job.wrote(job.path("leakage.json"))
    if (sheet := _leak_sheet(pd.concat([shown, nearest]), (table, volumes), (held_table, held_volumes))) is not None:
        _save(picture, sheet)
        job.wrote(picture)
    job.log(f"{summary['queries_found']} of {len(held_table)} held-out images are in the pool of {len(table)}")
    if len(found) and summary["policy"] == "stop":
        raise StudyError(
            f"{summary['queries_found']} validation or test images are in the pre-training pool ({summary['pool_excluded']} pool "
            f"slices; {out}). Take their sources out of the cohort, or set reduce.leakage to exclude."
        )
    job.write_receipt()


# Inputs


def _cohort(
    job: Job, names: tuple[str, str] = ("samples", "volumes"), splits: tuple[str, ...] = ("train",)
) -> tuple[pd.DataFrame, list[Volume]]:
    """The rows of some splits of all sources, sorted by (volume id, index), and their volumes in that order."""
    tables, places = [], []
    for number, (samples, volumes) in enumerate(zip(*(job.spec.inputs[name] for name in names), strict=True)):
        rows = read_parquet(job.read(samples))
        tables.append(rows[rows["split"].isin(splits)].assign(source=number))
        places.append((Path(volumes).parent, read_tsv(job.read(volumes)).set_index("volume_id")))
    table = pd.concat(tables, ignore_index=True).sort_values(["volume_id", "index"], kind="stable", ignore_index=True)
    again = table["sample_id"].duplicated()
    if again.any():
        job.log(f"{int(again.sum())} slices are in more than one source of the cohort; the first source's are used")
        table = table[~again].reset_index(drop=True)
    if table.empty and splits == ("train",):
        raise StudyError(
            f"cohort of {job.spec.name!r} has no training slices: every volume went to validation or test, or was refused. "
            "Lower val_frac and test_frac, or add a source."
        )
    found = []
    for volume_id, rows in table.groupby("volume_id", sort=True):
        first = rows.iloc[0]
        folder, known = places[first["source"]]
        if volume_id not in known.index:
            raise StudyError(f"{volume_id} is in samples.parquet and not in volumes.tsv of {folder.name!r}. Prepare it again.")
        entry = known.loc[volume_id]
        found.append(
            Volume(
                folder / first["array"],
                _window(entry),
                int(first["axis"]),
                rows["index"].to_numpy(),
                rows.index.to_numpy(),
                first["kind"] == "volume",
            )
        )
    return table, found


def _shard(table: pd.DataFrame, volumes: list[Volume], shard: int, shards: int) -> tuple[pd.DataFrame, list[Volume]]:
    """The volumes whose id falls to a shard, and their rows."""
    if shards == 1:
        return table, volumes
    ids = table["volume_id"].to_numpy(dtype=object)
    mine = [volume for volume in volumes if key(0, ids[volume.rows[0]]) % shards == shard]
    rows = np.sort(np.concatenate([volume.rows for volume in mine])) if mine else np.empty(0, np.int64)
    moved = [replace(volume, rows=np.searchsorted(rows, volume.rows)) for volume in mine]
    return table.iloc[rows].reset_index(drop=True), moved


def _window(entry: pd.Series) -> Window:
    """The first channel's window of a row of volumes.tsv."""
    low, high = (_first(entry[name]) for name in ("window_low", "window_high"))
    return Window(low, high, float(entry["slope"]), float(entry["intercept"]))


def _first(value: Any) -> float:
    import json

    value = json.loads(value) if isinstance(value, str) else value
    return float(value[0] if isinstance(value, (list, tuple)) else value)


def _descriptors(job: Job, table: pd.DataFrame) -> pd.DataFrame:
    """The cohort's descriptors in the order of its table."""
    paths = job.spec.inputs["descriptors"]
    parts = [read_parquet(job.read(path)) for path in ([paths] if isinstance(paths, str) else paths)]
    described = pd.concat(parts, ignore_index=True).set_index("sample_id")
    missing = ~table["sample_id"].isin(described.index)
    if missing.any():
        raise StudyError(f"{int(missing.sum())} training slices have no descriptors. Run `medssl reduce --step describe` again.")
    return described.loc[table["sample_id"]].reset_index()


def _slices(job: Job, described: pd.DataFrame, volumes: list[Volume], needs: tuple[str, ...]) -> Slices:
    """The slices of a table of descriptors, with pixels or embeddings if the reducer needs them."""
    volume, _ = pd.factorize(described["volume_id"], sort=False)
    columns = {name: described[name].to_numpy() for name in described.columns if name not in TABLE_COLUMNS}
    slices = Slices(
        ids=described["sample_id"].to_numpy(dtype=object),
        volume=volume,
        neighbours=(described["kind"] == "volume").to_numpy(dtype=bool),
        columns=columns,
        seed=job.spec.seed,
    )
    if "plane" in needs:
        slices = replace(slices, plane=_reader(described.index.to_numpy(), volumes))
    if "vectors" in needs:
        slices = replace(slices, vectors=_embeddings(job, described, volumes))
    return slices


def _reader(rows: np.ndarray, volumes: list[Volume]) -> Callable[[int], np.ndarray]:
    """Read slice number i of `rows` (n,) (places in the cohort's table) as float32 [row, col] in 0..1."""
    owner = np.empty(sum(len(v.rows) for v in volumes), np.int64)
    place = np.empty_like(owner)
    for number, volume in enumerate(volumes):
        owner[volume.rows], place[volume.rows] = number, np.arange(len(volume.rows))
    last: dict[int, Any] = {}

    def plane(index: int) -> np.ndarray:
        row = rows[index]
        volume = volumes[owner[row]]
        if owner[row] not in last:
            last.clear()
            last[owner[row]] = open_array(volume.array)
        return volume.window.unit(volume.plane(last[owner[row]], place[row])).astype(np.float32)

    return plane


def _leaked(job: Job, table: pd.DataFrame) -> np.ndarray:
    """Which training slices (n,) the leakage firewall found among the downstream validation and test images."""
    path = job.spec.inputs.get("leakage")
    if not path:
        return np.zeros(len(table), bool)
    return table["sample_id"].isin(read_parquet(job.read(path))["pool_id"]).to_numpy(dtype=bool)


def _count(job: Job, num_slices: int) -> int | None:
    """How many slices the budget asks for; None when a threshold or the reducer's own options decide."""
    settings, match = job.spec.settings, job.spec.inputs.get("match")
    if match:
        return min(int(read_parquet(job.read(match), ["keep"])["keep"].sum()), num_slices)
    if settings.get("keep_frac") is not None:
        return max(round(settings["keep_frac"] * num_slices), 1)
    return None


# Leakage


def _same_ids(table: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """Pairs of one slice id, and of one patient."""
    ids = held[["sample_id"]].merge(table[["sample_id"]])
    same = pd.DataFrame({"query_id": ids["sample_id"], "pool_id": ids["sample_id"], "how": "id", "score": 1.0})
    known = held[held["subject_id"].notna()].drop_duplicates("subject_id")
    patients = table[table["subject_id"].notna()].merge(known, on="subject_id", suffixes=("", "_held"))
    shared = pd.DataFrame(
        {"query_id": patients["sample_id_held"], "pool_id": patients["sample_id"], "how": "patient", "score": 1.0}
    )
    return pd.concat([same, shared], ignore_index=True)[PAIR_COLUMNS]


def _alike_pixels(job: Job, pool: tuple[pd.DataFrame, list[Volume]], held: tuple[pd.DataFrame, list[Volume]]) -> pd.DataFrame:
    """Pairs with like pixels (score ≥ NEAR; ≥ SAME is the same image): slices and images one by one, and volumes as a whole
    (axes may be permuted)."""
    rows: list[tuple[str, str, str, float]] = []
    ids, held_ids = pool[0]["sample_id"].tolist(), held[0]["sample_id"].tolist()
    with job.progress("fingerprints", len(ids) + len(held_ids), "slices") as bar:
        pool_prints = [_prints(job, volume, bar.advance) for volume in pool[1]]
        held_prints = [_prints(job, volume, bar.advance) for volume in held[1]]
    pool_rows, held_rows = (np.concatenate([v.rows for v in side[1]]) for side in (pool, held))
    pool_slices = [one for slices, _ in pool_prints for one in slices]
    with job.progress("look-up", len(held_ids) + len(held_prints), "images") as bar:
        held_slices = [one for slices, _ in held_prints for one in slices]
        for match in _matches(held_slices, pool_slices, job.threads, bar.advance):
            rows.append((held_ids[held_rows[match.query]], ids[pool_rows[match.pool]], "slice", match.score))
        first_rows, held_first_rows = ([int(v.rows[0]) for v in side[1]] for side in (pool, held))
        held_whole, pool_whole = ([whole for _, whole in prints] for prints in (held_prints, pool_prints))
        for match in matches(held_whole, pool_whole, same=NEAR, advance=bar.advance):
            rows.append((held_ids[held_first_rows[match.query]], ids[first_rows[match.pool]], "volume", match.score))
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def _matches(
    queries: list[Print | None], pool: list[Print | None], threads: int, advance: Callable[[int], None] = lambda count: None
) -> list[Match]:
    """`matches` from NEAR on, with the queries dealt to as many processes as the job has threads; the same for any number."""
    if threads == 1 or len(queries) < LEAST_DEALT:
        return matches(queries, pool, same=NEAR, advance=advance)

    def part(number: int, tell: Callable[[int], None]) -> list[tuple[int, int, float]]:
        found = matches(queries[number::threads], pool, same=NEAR, advance=tell)
        return [(int(m.query) * threads + number, int(m.pool), float(m.score)) for m in found]

    found = [Match(query, one, score) for rows in dealt(part, threads, advance) for query, one, score in rows]
    return sorted(found, key=lambda match: match.query)


def _prints(job: Job, volume: Volume, advance: Callable[[int], None]) -> tuple[list[Print | None], Print | None]:
    """Prints of a volume's slices and, if it is one, of the volume; remembered by content."""
    cache = _cache_file(job, volume, (), ("print", str(volume.is_volume))).with_suffix(".npz")
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as held:
            prints = [Print(t, d) if t.any() else None for t, d in zip(held["thumb"], held["detail"], strict=True)]
            whole = Print(held["volume_thumb"], held["volume_detail"]) if held["volume_thumb"].size else None
    else:
        array = open_array(job.read(volume.array))
        planes = (volume.window.unit(volume.plane(array, place)).astype(np.float32) for place in range(len(volume.index)))
        prints = [fingerprint(plane) for plane in planes]
        whole = None
        if volume.is_volume and len(volume.index) > 1:
            stored = np.asarray(array[tuple(slice(None, None, max(n // MOST_PRINTED, 1)) for n in array.shape)])
            whole = fingerprint(volume.window.unit(stored).astype(np.float32))
        blank = Print(np.zeros((THUMB[2],) * 2, np.uint8), np.zeros((DETAIL[2],) * 2, np.uint8))
        filled = [one or blank for one in prints]
        with writing(cache) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                thumb=np.stack([one.thumb for one in filled]),
                detail=np.stack([one.detail for one in filled]),
                volume_thumb=whole.thumb if whole else np.empty(0, np.uint8),
                volume_detail=whole.detail if whole else np.empty(0, np.uint8),
            )
    advance(len(prints))
    return prints, whole


def _with_whole_volumes(pairs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The pairs, and a row for each other slice of a pool volume of which something was found."""
    pairs = pairs.merge(table[["sample_id", "volume_id", "kind"]], left_on="pool_id", right_on="sample_id").drop(
        columns="sample_id"
    )
    hit = pairs[pairs["kind"] == "volume"].sort_values("score", ascending=False, kind="stable").drop_duplicates("volume_id")
    others = table[["sample_id", "volume_id"]].merge(hit[["volume_id", "query_id", "score"]], on="volume_id")
    others = (
        others[~others["sample_id"].isin(pairs["pool_id"])].rename(columns={"sample_id": "pool_id"}).assign(how="same volume")
    )
    found = pd.concat([pairs[PAIR_COLUMNS], others[PAIR_COLUMNS]], ignore_index=True)
    found = found.astype({name: pd.StringDtype("pyarrow", na_value=np.nan) for name in ("query_id", "pool_id", "how")})
    return found.astype({"score": np.float32}).sort_values(["query_id", "pool_id", "how"], ignore_index=True)


def _some(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs to picture: of each query its first, at even steps from the least alike to the most."""
    once = pairs.drop_duplicates("query_id").sort_values(["score", "query_id"], kind="stable")
    return once.iloc[np.unique(np.linspace(0, len(once) - 1, min(MOST_SHOWN, len(once))).astype(int))]


def _nearest(near: pd.DataFrame) -> pd.DataFrame:
    """Of the queries that were not found, those likest an image of the pool, for a person to look at."""
    ordered = near.sort_values(["score", "query_id"], ascending=[False, True], kind="stable")
    return ordered.drop_duplicates("query_id").head(MOST_SHOWN).assign(how="nearest")


def _plain(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    rows = pairs[PAIR_COLUMNS].to_numpy(dtype=object).tolist()
    return [dict(zip(PAIR_COLUMNS, (*names, round(float(score), 4)), strict=True)) for *names, score in rows]


def _leak_sheet(shown: pd.DataFrame, pool: tuple[pd.DataFrame, list[Volume]], held: tuple[pd.DataFrame, list[Volume]]) -> Any:
    """Pairs side by side: a Pillow image, or None."""
    if shown.empty:
        return None
    readers = []
    for table, volumes in (held, pool):
        place = {one: row for row, one in enumerate(table["sample_id"])}
        readers.append((place, _reader(table.index.to_numpy(), volumes)))
    tiles = []
    for row in shown.itertuples():
        (held_place, held_plane), (pool_place, pool_plane) = readers
        left, right = held_plane(held_place[row.query_id]), pool_plane(pool_place[row.pool_id])
        tiles.append((left, right, "held out", f"in pool ({row.how}, {row.score:.3g})"))
    return pictures.pair_sheet(tiles)


# Decision


def _decide(reducer: Pairs | Ranks, settings: dict[str, Any], count: int | None) -> tuple[Decision, float | None]:
    """The arm's decision, and the threshold it stands at."""
    threshold = settings.get("threshold")
    if isinstance(reducer, Ranks):
        return reducer.decide(count, threshold), threshold
    if settings["traversal"] == "balanced":
        if count is None:
            raise StudyError(
                "traversal 'balanced' shares out a number of slices: give the arm keep_frac or match, not a threshold."
            )
        return balanced(reducer, count, settings["reducer"]["name"]), None
    traverse = TRAVERSALS[settings["traversal"]]
    if count is None:
        threshold = reducer.default_threshold if threshold is None else float(threshold)
        return traverse(reducer, threshold), threshold
    tried = Remembered(reducer) if reducer.costly else reducer
    decision, threshold = nearest_threshold(
        lambda value: traverse(tried, value), count, highest=reducer.max_threshold, whole_steps=reducer.whole_steps
    )
    return exactly(decision, count, reducer.slices), threshold


def _with_leaks(decision: Decision, leaked: np.ndarray) -> Decision:
    """The decision about all slices, when it was taken about those that are no leaks."""
    if not leaked.any():
        return decision
    clean = np.flatnonzero(~leaked)
    keep, twin = np.zeros(len(leaked), bool), np.full(len(leaked), NOBODY)
    distance, reason = np.full(len(leaked), np.nan, np.float32), np.full(len(leaked), LEAK, dtype=object)
    keep[clean], distance[clean], reason[clean] = decision.keep, decision.distance, decision.reason
    twin[clean] = np.where(decision.twin == NOBODY, NOBODY, clean[decision.twin])
    return Decision(keep, twin, distance, reason)


# Outputs


def _keep_table(table: pd.DataFrame, decision: Decision) -> pd.DataFrame:
    ids = table["sample_id"].to_numpy(dtype=object)
    twin = ids[decision.twin]
    twin[decision.twin == NOBODY] = None
    keep = pd.DataFrame(
        {
            "sample_id": _texts(ids),
            "keep": decision.keep,
            "reason": _texts(decision.reason),
            "twin": _texts(twin),
            "distance": decision.distance.astype(np.float32),
        }
    )
    return keep.sort_values("sample_id", ignore_index=True)


def _texts(values: np.ndarray) -> pd.Series:
    return pd.Series(values, dtype=pd.StringDtype("pyarrow", na_value=np.nan))


def _figures(
    reducer: Pairs | Ranks, slices: Slices, decision: Decision, threshold: float | None, summary: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    if decision.keep.all():
        return
    if slices.plane is not None and (sheet := pictures.contact_sheet(slices, decision, slices.plane)) is not None:
        yield "contact.png", sheet
    runs = [members for members in slices.runs() if len(members) > 1]
    if runs:
        place = np.concatenate([np.linspace(0, 1, len(members)) for members in runs])
        yield "where.svg", pictures.where_dropped(place, decision.keep[np.concatenate(runs)])
    if isinstance(reducer, Pairs) and (curve := _curve(reducer)) is not None:
        thresholds, kept_frac, matrix = curve
        summary["curve"] = {"threshold": thresholds.tolist(), "kept_frac": kept_frac.tolist()}
        yield "curve.svg", pictures.threshold_curve(thresholds, kept_frac, threshold, summary["reducer"])
        yield "similarity.png", pictures.similarity_matrix(matrix, summary["reducer"])


def _curve(reducer: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Kept share against threshold over some volumes by the greedy pass, and the distances inside the first of them."""
    runs = [members for members in reducer.slices.runs() if len(members) > 1]
    if not runs:
        return None
    step = max(len(runs) // PICTURED_VOLUMES, 1)
    runs = [runs[0][:: max(len(runs[0]) // PICTURED_SLICES, 1)]] if reducer.costly else runs[::step][:PICTURED_VOLUMES]
    matrices = [_matrix(reducer, members) for members in runs]
    if reducer.whole_steps:
        thresholds = np.arange(0.0, min(reducer.max_threshold, CURVE_POINTS - 1) + 1)
    else:
        thresholds = np.quantile(np.concatenate([m.ravel() for m in matrices]), np.linspace(0, 1, CURVE_POINTS)).astype(float)
    total = sum(map(len, matrices))
    kept = [sum(_num_leaders(matrix, threshold) for matrix in matrices) for threshold in thresholds]
    return thresholds, np.array(kept) / total, matrices[0]


def _matrix(reducer: Pairs, members: np.ndarray) -> np.ndarray:
    """Distances (n, n) among slices `members` (n,), each pair computed once."""
    matrix = np.zeros((len(members), len(members)), np.float32)
    for place in range(len(members) - 1):
        matrix[place, place + 1 :] = reducer.distances(int(members[place]), members[place + 1 :])
    return matrix + matrix.T


def _num_leaders(matrix: np.ndarray, threshold: float) -> int:
    free, count = np.ones(len(matrix), bool), 0
    for anchor in range(len(matrix)):
        if free[anchor]:
            count += 1
            free &= matrix[anchor] > threshold
            free[anchor] = False
    return count


def _save(path: Path, figure: Any) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "medssl"}), writing(path) as temporary:
        if not hasattr(figure, "savefig"):
            figure.save(temporary, format="png")
        elif path.suffix == ".svg":
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        else:
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


# Cache


def _cache_file(job: Job, volume: Volume, sizes: tuple[int, ...], greys: tuple[str, ...]) -> Path:
    """Where the descriptors of a volume are remembered: named by its content, its window and the code that describes it."""
    receipt = volume.array.parents[1] / RECEIPT
    outputs = read_json(receipt)["outputs"] if receipt.is_file() else {}
    entry = outputs.get(str(volume.array.relative_to(receipt.parent)))
    if entry is None:
        info = volume.array.stat()
        entry = {"size": info.st_size, "time_ns": info.st_mtime_ns}
    window = volume.window
    content = [entry, [window.low, window.high, window.slope, window.intercept], volume.axis, volume.index.tolist(), sizes, greys]
    digest = sha256_text(canonical_json([content, job.spec.code]))[:24]
    return Path(job.spec.layout.state("reduce", "descriptors")) / digest[:2] / f"{digest}.parquet"


def _one_blas_thread() -> Any:
    """The chunks run in threads of their own; each product then stays on its thread."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")


# Embeddings: the only part that needs torch


def _embeddings(job: Job, described: pd.DataFrame, volumes: list[Volume]) -> np.ndarray:
    """Features (n, d) of the slices from the arm's encoder; remembered for the same weights and slices."""
    encoder = job.spec.inputs.get("encoder")
    if not encoder:
        raise StudyError(
            "reducer 'embedding' needs an encoder: name a pre-training run of the study, or a .safetensors file, under the "
            "arm's `encoder`."
        )
    weights = Path(encoder)
    weights = job.read(weights) if (weights.parent / RECEIPT).is_file() else weights
    if not weights.is_file():
        raise StudyError(f"arm's encoder: there are no weights at {weights}. Correct the path; nothing is downloaded.")
    windows = [[v.window.low, v.window.high, str(v.array)] for v in volumes]
    digest = sha256_text(canonical_json([sha256_file(weights), described["sample_id"].tolist(), windows, job.spec.code]))[:24]
    cache = Path(job.spec.layout.state("reduce", "embeddings")) / f"{digest}.npy"
    if cache.is_file():
        return np.load(cache, allow_pickle=False)
    embed = _embedder(weights, job.threads)
    plane = _reader(described.index.to_numpy(), volumes)
    features: list[np.ndarray] = []
    with job.progress("embed", len(described), "slices") as bar:
        for start in range(0, len(described), EMBED_BATCH):
            batch = [plane(index) for index in range(start, min(start + EMBED_BATCH, len(described)))]
            features.append(embed(batch))
            bar.advance(len(batch))
    found = np.concatenate(features)
    with writing(cache) as temporary, open(temporary, "wb") as file:
        np.save(file, found, allow_pickle=False)
    return found


def _embedder(weights: Path, threads: int) -> Callable[[list[np.ndarray]], np.ndarray]:
    """From slices [row, col] in 0..1 to the pooled features (n, d) of an encoder, resized to what its contract says."""
    import torch
    from torch.nn.functional import interpolate

    from medssl.nn.backbone import build, pooled
    from medssl.nn.weights import load_encoder, read_tensors

    torch.set_num_threads(threads)
    beside = weights.parent / "contract.json"
    known = read_json(beside) if beside.is_file() else None
    contract = known or _guessed_contract({name: tuple(t.shape) for name, t in read_tensors(weights).items()}, weights.name)
    if contract["spatial_dims"] != 2:
        raise StudyError(f"{weights.name} is a 3-D encoder, and slices are embedded one by one. Name a 2-D one.")
    network = build(contract["backbone"], contract["backbone_options"], 2, contract["in_channels"])
    load_encoder(weights, network, at_least=1.0 if known else 0.95)
    network.eval()

    @torch.inference_mode()
    def embed(planes: list[np.ndarray]) -> np.ndarray:
        # the network was trained on planes in (i, j) order
        resized = [
            interpolate(
                torch.from_numpy(plane.T.copy())[None, None], size=contract["input_size"], mode="bilinear", antialias=True
            )
            for plane in planes
        ]
        images = torch.cat(resized).expand(-1, contract["in_channels"], -1, -1)
        return np.asarray(pooled(network(images)).numpy(), np.float32)

    return embed


def _guessed_contract(shapes: dict[str, tuple[int, ...]], name: str) -> dict[str, Any]:
    """What a ResNet's tensor names say when no contract lies beside it (MONAI, torchvision and timm name them alike)."""
    blocks = tuple(len({n.split(".")[1] for n in shapes if n.startswith(f"layer{k}.")}) for k in (1, 2, 3, 4))
    kinds = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50"}
    first = shapes.get("conv1.weight")
    if first is None or len(first) != 4 or blocks not in kinds or kinds[blocks] not in plugins.names("backbone"):
        raise StudyError(f"{name} has no contract.json beside it and is no ResNet-18 or ResNet-50. Put its contract.json there.")
    return {
        "backbone": kinds[blocks],
        "backbone_options": {},
        "spatial_dims": 2,
        "in_channels": first[1],
        "input_size": [224, 224],
    }
