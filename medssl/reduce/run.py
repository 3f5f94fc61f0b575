"""Stage reduce: descriptors of a cohort, one arm's decision about each training slice, and the leakage firewall."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.keep import DESCRIPTORS, KEEP, LEAKAGE, Leaks, Summary
from medssl.artefacts.samples import SAMPLES
from medssl.artefacts.volumes import read_volumes
from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.files import sha256_file, writing
from medssl.core.job import Job
from medssl.core.progress import Bar
from medssl.core.tables import read_parquet, write_parquet
from medssl.reduce.caches import cache_name, content_of
from medssl.reduce.cohort import Cohort, Member, cohort_of, refuse_empty_pool
from medssl.reduce.deciding import (
    BUDGETS,
    WHERE_COLUMNS,
    count_of,
    decide,
    in_each_source,
    in_order,
    keep_table,
    slices_of,
    with_leaks,
)
from medssl.reduce.describing import described, no_descriptors
from medssl.reduce.figures import figures, leak_sheet
from medssl.reduce.firewall import (
    Prints,
    most_similar_of,
    plain,
    prints_of,
    same_ids,
    similar_pixels,
    some_of,
    with_whole_volumes,
)
from medssl.reduce.leakage import SAME
from medssl.reduce.options import DescribeOptions, FirewallOptions, ResolvedArmOptions
from medssl.reduce.pairs import Pairs
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import Decision
from medssl.volume.cache import open_array

EMBED_BATCH = 32


def describe(job: Job) -> None:
    """Descriptors of every training slice of a cohort, in one pass; volumes described before come from the cache.

    With several shards each job describes its share of the volumes; arms read the tables of all shards.
    """
    options = job.options(DescribeOptions)
    cohort = _pool(job).shard(options.shard, options.shards)
    parts: list[pd.DataFrame] = []
    cached = 0
    with (
        job.progress("describe", len(cohort.table), "slices") as bar,
        _one_blas_thread(),
        ThreadPoolExecutor(job.threads) as pool,
    ):
        for member in cohort.members:
            name = cache_name(content_of(member), options.hash_sizes, options.greys, job.spec.code)
            cache = _cache(job, "descriptors", f"{name[:2]}/{name}.parquet")
            if cache.is_file():
                columns, advance = read_parquet(cache), bar.found
                cached += 1
            else:
                columns, advance = described(member, open_array(job.read(member.volume.array)), options, pool), bar.advance
                write_parquet(cache, columns)
            parts.append(columns.set_index(member.rows))
            advance(len(member.rows))
    columns = pd.concat(parts or [no_descriptors(options)]).sort_index()
    job.log(f"described {len(cohort.members) - cached} volumes, {cached} known before")
    DESCRIPTORS.write(job.path("descriptors.parquet"), pd.concat([cohort.table[list(WHERE_COLUMNS)], columns], axis=1))
    job.wrote(job.path("descriptors.parquet"))
    job.write_receipt()


def run(job: Job) -> None:
    """One arm: which training slices are kept, which dropped, and which kept slice represents each dropped one."""
    options = job.options(ResolvedArmOptions)
    cohort = _pool(job)
    table = _descriptors(job, cohort)
    leaked = _leaked(job, cohort)
    plugin = plugins.find("reducer", options.reducer.name)
    reducer = _reducer(job, options, plugin, table[~leaked], cohort)
    matched = _matched(job, cohort, leaked)
    count = count_of(options, len(reducer.slices), None if matched is None else int(matched.sum()))
    with job.progress("", len(reducer.slices), "slices") as bar:
        if matched is not None and plugin.constant("CONTROL", default=None) == "matched":
            source = cohort.table["source"].to_numpy()[~leaked]
            decision, threshold = in_each_source(source, matched, _decider(job, options, plugin, table[~leaked], cohort)), None
        else:
            decision, threshold = decide(reducer, options, count)
        bar.advance(len(reducer.slices), f"{decision.num_kept} kept")
    decision = with_leaks(decision, leaked)

    keep = keep_table(cohort.table["sample_id"], decision)
    pictured = slices_of(table, job.spec.seed, plane=cohort.reader(table.index.to_numpy()))
    drawn, curve = figures(reducer, pictured, decision, threshold, plugin.name)
    summary = Summary(
        reducer=plugin.name,
        options=options.reducer.options,
        traversal=options.traversal if isinstance(reducer, Pairs) else None,
        budget={name: value for name in BUDGETS if (value := getattr(options, name)) is not None},
        threshold=threshold,
        count=count,
        slices=len(keep),
        volumes=len(cohort.members),
        kept=decision.num_kept,
        kept_frac=decision.num_kept / len(keep),
        reasons={str(k): int(v) for k, v in keep["reason"].value_counts().sort_index().items()},
        **({"curve": curve} if curve else {}),
    )
    for file, figure in drawn.items():
        _save(job.path(file), figure)
        job.wrote(job.path(file))
    KEEP.write(job.path("keep.parquet"), keep)
    summary.write(job.path("summary.json"))
    job.wrote(job.path("keep.parquet"), job.path("summary.json"))
    job.write_receipt()


def leakage(job: Job) -> None:
    """Which images of the pre-training pool are downstream validation or test images, by id, patient or pixels.

    A match excludes all slices of its pool volume: its neighbours show the same patient.

    Raises:
        StudyError: something was found and the study says `leakage: stop`.
    """
    options = job.options(FirewallOptions)
    policy = options.leakage
    pool = _pool(job)
    held, _ = _cohort(job, "held_samples", "held_volumes", ("val", "test"))
    pairs = unmatched = LEAKAGE.empty()
    if len(held.table):
        by_id = same_ids(pool.table, held.table)
        similar = _similar_pixels(job, pool, held) if options.look_up == "pixels" else LEAKAGE.empty()
        by_pixels = similar[similar["score"] >= SAME]
        pairs = pd.concat([by_id, by_pixels], ignore_index=True).drop_duplicates(["query_id", "pool_id", "how"])
        unmatched = similar[~similar["query_id"].isin(pairs["query_id"])]
    found = with_whole_volumes(pairs, pool.table)
    shown, nearest = some_of(pairs), most_similar_of(unmatched)
    LEAKAGE.write(job.path("leakage.parquet"), found)
    summary = Leaks(
        queries=len(held.table),
        pool=len(pool.table),
        queries_found=int(pairs["query_id"].nunique()),
        pool_excluded=int(found["pool_id"].nunique()),
        how={str(k): int(v) for k, v in pairs["how"].value_counts().sort_index().items()},
        policy=policy,
        look_up=options.look_up,
        same=SAME,
        pairs=plain(shown),
        nearest=plain(nearest),
    )
    summary.write(job.path("leakage.json"))
    job.wrote(job.path("leakage.parquet"), job.path("leakage.json"))
    if (sheet := leak_sheet(pd.concat([shown, nearest]), pool, held)) is not None:
        _save(job.path("leakage.png"), sheet)
        job.wrote(job.path("leakage.png"))
    job.log(f"{summary.queries_found} of {len(held.table)} held-out images are in the pool of {len(pool.table)}")
    if len(found) and policy == "stop":
        raise StudyError(
            f"{summary.queries_found} validation or test images are in the pre-training pool ({summary.pool_excluded} pool "
            f"slices; {job.path('leakage.parquet')}). Take their sources out of the cohort, or set reduce.leakage to exclude."
        )
    job.write_receipt()


# Inputs


def _pool(job: Job) -> Cohort:
    """The training slices of the cohort."""
    cohort, samples = _cohort(job, "samples", "volumes", ("train",))
    refuse_empty_pool(cohort, samples, job.spec.name)
    return cohort


def _cohort(job: Job, samples: str, volumes: str, parts: tuple[str, ...]) -> tuple[Cohort, list[pd.DataFrame]]:
    """The slices of some parts of the sources that two inputs name, and the tables of samples."""
    tables = [SAMPLES.read(job.read(path)) for path in job.spec.inputs[samples]]
    known = [read_volumes(job.read(path)) for path in job.spec.inputs[volumes]]
    cohort, repeated = cohort_of(list(zip(tables, known, strict=True)), parts)
    if repeated:
        job.log(f"{repeated} slices are in more than one source of the cohort; the first source's are used")
    return cohort, tables


def _descriptors(job: Job, cohort: Cohort) -> pd.DataFrame:
    """The cohort's descriptors in the order of its table."""
    given = job.spec.inputs["descriptors"]
    parts = [DESCRIPTORS.read(job.read(path)) for path in ([given] if isinstance(given, str) else given)]
    return in_order(parts, cohort.table["sample_id"])


def _leaked(job: Job, cohort: Cohort) -> np.ndarray:
    """Mask (n,) of the training slices that the leakage firewall found among the downstream validation and test images."""
    if "leakage" not in job.spec.inputs:
        return np.zeros(len(cohort.table), bool)
    found = LEAKAGE.read(job.read(job.spec.inputs["leakage"]), ["pool_id"])
    return cohort.table["sample_id"].isin(found["pool_id"]).to_numpy(dtype=bool)


def _matched(job: Job, cohort: Cohort, leaked: np.ndarray) -> np.ndarray | None:
    """Mask of what the matched arm keeps of the slices that are not leaks; None if this arm matches none."""
    if "match" not in job.spec.inputs:
        return None
    kept = KEEP.read(job.read(job.spec.inputs["match"]), ["sample_id", "keep"])
    return cohort.table["sample_id"].isin(kept.loc[kept["keep"], "sample_id"]).to_numpy(dtype=bool)[~leaked]


def _decider(
    job: Job, options: ResolvedArmOptions, plugin: plugins.Plugin, table: pd.DataFrame, cohort: Cohort
) -> Callable[[np.ndarray, int], Decision]:
    """Decides about the slices in some rows of a table of descriptors as if there were no others."""
    return lambda rows, count: decide(_reducer(job, options, plugin, table.iloc[rows], cohort), options, count)[0]


def _reducer(job: Job, options: ResolvedArmOptions, plugin: plugins.Plugin, table: pd.DataFrame, cohort: Cohort) -> Pairs | Ranks:
    """The arm's reducer on the slices of a table of descriptors, with pixels or embeddings if it needs them."""
    kind = plugin.load()
    given: dict[str, Any] = {}
    if "plane" in kind.needs:
        given["plane"] = cohort.reader(table.index.to_numpy())
    if "vectors" in kind.needs:
        given["vectors"] = _vectors(job, plugin, table, cohort)
    reducer: Pairs | Ranks = kind(slices_of(table, job.spec.seed, **given), **options.reducer.options)
    return reducer


def _vectors(job: Job, plugin: plugins.Plugin, table: pd.DataFrame, cohort: Cohort) -> np.ndarray:
    """Features (n, d) of the slices from the arm's encoder; cached for the same encoder and slices."""
    weights, contract = _encoder(job, plugin.name)
    encoder = [sha256_file(weights), sha256_file(contract) if contract else None]
    content = [content_of(member) for member in cohort.members]
    cache = _cache(job, "embeddings", cache_name(encoder, table["sample_id"].tolist(), content, job.spec.code) + ".npy")
    if cache.is_file():
        return np.load(cache, allow_pickle=False)
    embed = import_module(plugin.constant("VECTORS")).embedder(weights, contract, job.threads)
    plane = cohort.reader(table.index.to_numpy())
    features: list[np.ndarray] = []
    with job.progress("embed", len(table), "slices") as bar:
        for start in range(0, len(table), EMBED_BATCH):
            batch = [plane(index) for index in range(start, min(start + EMBED_BATCH, len(table)))]
            features.append(embed(batch))
            bar.advance(len(batch))
    found = np.concatenate(features)
    with writing(cache) as temporary, open(temporary, "wb") as file:
        np.save(file, found, allow_pickle=False)
    return found


def _encoder(job: Job, reducer: str) -> tuple[Path, Path | None]:
    """The weights of the arm's encoder, and their contract: from a run of the study, or beside a user's file."""
    if "encoder" not in job.spec.inputs:
        raise StudyError(
            f"reducer {reducer!r} needs an encoder: name a pre-training run of the study, or a .safetensors file, under the "
            "arm's `encoder`."
        )
    given = job.spec.inputs["encoder"]
    if "contract" in given:
        return job.read(given["weights"]), job.read(given["contract"])
    weights = Path(given["weights"])
    if not weights.is_file():
        raise StudyError(f"arm's encoder: there are no weights at {weights}. Correct the path; nothing is downloaded.")
    beside = weights.parent / "contract.json"
    return weights, beside if beside.is_file() else None


def _similar_pixels(job: Job, pool: Cohort, held: Cohort) -> pd.DataFrame:
    """Pairs with similar pixels, from cached prints."""
    with job.progress("fingerprints", len(pool.table) + len(held.table), "slices") as bar:
        pool_prints, held_prints = ([_prints(job, member, bar) for member in side.members] for side in (pool, held))
    with job.progress("look-up", len(held.table) + len(held.members), "images") as bar:
        return similar_pixels(pool, held, pool_prints, held_prints, threads=job.threads, advance=bar.advance)


def _prints(job: Job, member: Member, bar: Bar) -> Prints:
    """Prints of a volume's slices and, if it is one, of the volume; cached by content."""
    name = cache_name(content_of(member), member.volume.kind, "prints", job.spec.code)
    cache = _cache(job, "descriptors", f"{name[:2]}/{name}.npz")
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as held:
            prints, advance = Prints.unpacked(held), bar.found
    else:
        prints, advance = prints_of(member, open_array(job.read(member.volume.array))), bar.advance
        with writing(cache) as temporary, open(temporary, "wb") as file:
            np.savez(file, **prints.packed())  # type: ignore[arg-type]
    advance(len(prints.slices))
    return prints


# Outputs


def _cache(job: Job, what: str, name: str) -> Path:
    return Path(job.spec.layout.state("reduce", what)) / name


def _save(path: Path, figure: Any) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "medssl"}), writing(path) as temporary:
        if not hasattr(figure, "savefig"):
            figure.save(temporary, format="png")
        elif path.suffix == ".svg":
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        else:
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _one_blas_thread() -> Any:
    """Limit BLAS to one thread: the chunks run in threads of their own."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")
