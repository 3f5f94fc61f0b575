"""The last lines of a run: the results; or saved work and how to continue; or failed jobs with reasons and logs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from medssl.core.errors import PreemptedError, ended
from medssl.core.failure import Said
from medssl.core.layout import Layout
from medssl.core.shown import clock
from medssl.study.dag import Dag
from medssl.study.followed import Followed, Jobs

TYPED = "MEDSSL_TYPED"
"""Environment variable: the command that the user typed, if it was not Snakemake's own."""
UNREPORTED = "it ended without a report; it resumes from its last saved state, if there is one"
TRACE_LINES = 6
KILLED = ("SIGKILL", "exit status 137")
KERNEL_COUNTERS = Path("/proc/vmstat")


def made(dag: Dag) -> list[str]:
    """The main results that exist: encoders and their curves, models, pages."""
    layout = dag.layout
    wanted = [
        (name.partition(".")[0], layout.pretrain(cohort, str(run), name))
        for name in ("encoder.safetensors", "curve.tsv")
        for cohort, run in dag.runs()
    ]
    models = [path for task in dag.study.finetune for path in sorted(Path(layout.finetune(task, "models")).glob("*/"))]
    wanted += [("model", str(path)) for path in models if (path / "contract.json").is_file()]
    wanted += [("page", layout.report(page, "report.html")) for page in dag.pages()]
    return [f"{word:<8} {path}" for word, path in wanted if Path(path).exists()]


def counted(study: str, jobs: Jobs, spent_s: float, said: Sequence[Said] = ()) -> str:
    """A summary of the run in one line; stopped jobs count as failed only if they report another reason in `said`."""
    codes = {failure.log: failure.exit_code for failure in said}
    unreported: dict[str, int] = {"failed": 1, "stopped": PreemptedError.exit_code}
    ended_early = jobs.doing(*unreported)  # type: ignore[arg-type]
    failed = [job for job in ended_early if codes.get(str(job.log), unreported[job.doing]) != PreemptedError.exit_code]
    text = f"study {study}: {len(jobs.doing('done'))} of {len(jobs.by_number)} jobs done after {clock(spent_s)}"
    return text + (f", {len(failed)} failed" if failed else "")


def stopped(said: Sequence[Said], jobs: Jobs, command: str) -> list[str]:
    """Lines after a signal to stop: the saved work of each job, and the command to type."""
    by_log = {failure.log: failure for failure in said}
    lines = []
    for job in jobs.doing("running", "failed", "stopped"):
        failure = by_log.get(str(job.log))
        saved = failure.sentence.partition(";")[0].rstrip(".") if failure else UNREPORTED
        lines.append(f"  {job.title}: {saved}.")
    return [*lines, "Continue with the same command:", f"  {command}"]


def failed(said: Sequence[Said], jobs: Jobs, layout: Layout, oom_kills: int) -> list[str]:
    """For each failed job: the reason, the last lines of a traceback if there is one, and the log.

    Args:
        layout: of the study; it knows the files with standard error of the jobs.
        oom_kills: processes that the kernel of this machine killed for memory during the run.
    """
    by_log = {failure.log: failure for failure in said}
    lines = []
    for job in jobs.doing("failed", "stopped"):
        failure = by_log.get(str(job.log))
        written = _last_lines(layout.output(job.log))
        sentence = failure.sentence if failure else _unsaid(job, jobs, oom_kills, written=bool(written))
        lines.append(f"medssl: {job.title}: {sentence}")
        trace = failure.trace if failure else written
        lines += [f"    {line}" for line in trace[-TRACE_LINES:]]
        lines.append(f"  log: {job.log}")
    if not lines:
        lines += [f"medssl: {failure.job}: {failure.sentence}" for failure in said]
        lines += [f"medssl: {text}" for text in jobs.errors[-1:] if not lines]
    return lines


def exit_code(said: Sequence[Said], *, signalled: bool) -> int:
    """The code of the last real failure; else 75, if the run was asked to stop."""
    codes = [failure.exit_code for failure in said]
    earnest = [code for code in codes if code != PreemptedError.exit_code]
    if earnest:
        return earnest[-1]
    return PreemptedError.exit_code if signalled or codes else 1


def oom_kills() -> int:
    """Processes that the kernel has killed for memory since it started; 0 if it does not report them."""
    try:
        words = KERNEL_COUNTERS.read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0


def typed(arguments: Sequence[str], environment: dict[str, str]) -> str:
    """The command as the user typed it."""
    if TYPED in environment:
        return environment[TYPED]
    first = Path(arguments[0])
    program = [first.name] if first.name == "snakemake" else [Path(sys.executable).name, "-m", "snakemake"]
    return shlex.join([*program, *arguments[1:]])


def _unsaid(job: Followed, jobs: Jobs, oom_kills: int, *, written: bool) -> str:
    """The reason of a failed job that could not report one itself."""
    if job.said:
        return ended(job.said)
    others = [text for text in jobs.errors if "CalledProcessError" not in text]
    if others:
        return ended(others[-1].strip())
    if any(sign in text for text in jobs.errors for sign in KILLED):
        if oom_kills:
            return (
                "the job was killed, and the kernel of this machine killed a process because memory ran out. Run the same "
                "command again with `--cores 1`, or lower batch_size. Saved steps are kept."
            )
        return (
            "the job was killed (kill -9, or the kernel when memory ran out). The same command resumes from the last saved "
            "state. If memory ran out, use `--cores 1` or a lower batch_size."
        )
    return "an unexpected error." if written else "the job ended without an error message; its log may say more."


def _last_lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(errors="replace").splitlines() if line.strip()][-TRACE_LINES:]
    except OSError:
        return []
