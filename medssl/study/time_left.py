"""The time left for a study: from bars, jobs of the same kind, a plan, and receipts of earlier runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from medssl.core.files import read_json, write_json
from medssl.study.followed import Followed, Jobs

PLAN = "plan.json"
"""Below `state/`: hours of each job, as `medssl plan` measured them."""


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last job ends, without the `unknown` jobs, for whose kind no time is known."""

    seconds: float
    unknown: int = 0


def time_left(
    jobs: Jobs, now_s: float, *, bars: Mapping[int, float], planned: Mapping[Path, float], cores: int | None
) -> TimeLeft:
    """The time until all jobs are done: the longer of the longest chain of jobs and all work divided by all cores.

    Args:
        bars: by job, the seconds left according to its bar.
        planned: by log, the seconds of the job according to `medssl plan`.
        cores: of the machine; None on a cluster, where all jobs can run at once.
    """
    left: dict[int, float] = {}
    unknown = 0
    usual = {kind: found for kind in {job.kind for job in jobs.by_number.values()} if (found := _usual_s(jobs, kind)) is not None}
    for number, job in jobs.by_number.items():
        if job.doing in ("done", "failed", "stopped"):
            continue
        if job.doing == "running" and number in bars:
            left[number] = bars[number]
            continue
        whole = planned.get(job.log, usual.get(job.kind))
        if whole is None:
            unknown += 1
        left[number] = max(0.0, (whole or 0.0) - (now_s - job.began_s if job.doing == "running" else 0.0))
    chains: dict[int, float] = {}
    longest = max((_chain(number, jobs.by_number, left, chains) for number in left), default=0.0)
    work = sum(left[number] * min(jobs.by_number[number].threads, cores) for number in left) / cores if cores else 0.0
    return TimeLeft(max(longest, work), unknown)


def _usual_s(jobs: Jobs, kind: str) -> float | None:
    """Usual seconds of a kind of job: from jobs of this run, else from receipts of earlier runs."""
    alike = [job for job in jobs.by_number.values() if job.kind == kind]
    now = [job.took_s for job in alike if job.took_s is not None]
    earlier = [job.earlier_s for job in alike if job.earlier_s is not None]
    return median(now or earlier) if now or earlier else None


def _chain(number: int, jobs: Mapping[int, Followed], left: Mapping[int, float], known: dict[int, float]) -> float:
    """Seconds until a job ends if every job starts as soon as the jobs before it have ended."""
    if number not in left:
        return 0.0
    if number not in known:
        before = (_chain(other, jobs, left, known) for other in jobs[number].after if other in jobs)
        known[number] = left[number] + max(before, default=0.0)
    return known[number]


def write_plan(file: Path, hours: Mapping[tuple[str, str], float]) -> None:
    """Store the hours of a plan, by stage and name of the job, for the screen of the study."""
    write_json(file, {f"{stage} {name.replace('/', '-')}": value for (stage, name), value in hours.items()})


def planned_s(file: Path, jobs: Jobs) -> dict[Path, float]:
    """Planned seconds by log; the steps of an ingest share the time of the whole."""
    try:
        hours = read_json(file)
        named = {job.log: _name_in_plan(job) for job in jobs.by_number.values()}
        shares = Counter(named.values())
        return {log: 3600.0 * hours[name] / shares[name] for log, name in named.items() if name in hours}
    except (OSError, ValueError, TypeError):
        return {}


def _name_in_plan(job: Followed) -> str:
    stem = job.log.stem
    steps = job.stage == "ingest" and not stem.endswith("-labels") and "-records-" not in stem
    return f"{job.stage} {job.log.stem.partition('-')[0]}" if steps else job.title
