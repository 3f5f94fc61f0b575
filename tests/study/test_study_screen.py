"""What a person sees of a run: no line wider than the terminal, time left that adds up, last lines for every kind of end."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from medssl.core.failure import Said
from medssl.core.layout import Layout
from medssl.core.shown import HowFar, clock
from medssl.study import last_lines
from medssl.study.followed import Followed, Jobs
from medssl.study.screen import Picture, Screen, Seen, job_lines, left_in_words, packed
from medssl.study.time_left import TimeLeft, planned_s, time_left, write_plan


def jobs(*rows: dict[str, Any]) -> Jobs:
    """Jobs numbered by place; `name` is `stage/log`."""
    made = [
        Followed(number, row.pop("kind", row["name"].split("/")[0]), Path("logs", f"{row.pop('name')}.log"), **row)
        for number, row in enumerate(rows)
    ]
    return Jobs({job.number: job for job in made})


def study(num_running: int = 3) -> Jobs:
    """A study with a job of each kind of state."""
    running = [{"name": f"pretrain/ct-simclr-with-a-long-name-hash-seed{n}", "doing": "running"} for n in range(num_running)]
    rest = [{"name": "finetune/lesions"}, {"name": "evaluate/lesions"}, {"name": "report/study"}]
    return jobs({"name": "ingest/ct-scan", "doing": "done"}, {"name": "prepare/ct", "doing": "failed"}, *running, *rest)


def seen(found: Jobs, **changes: Any) -> Seen:
    bars = {job.number: HowFar("t", 64, 2880, "images", 0, 10.0, "loss 3.214") for job in found.doing("running")[:2]}
    values = {"study": "demo", "jobs": found, "bars": bars, "left": TimeLeft(840.0), "spent_s": 182.0, "now_s": 10.0}
    return Seen(**values | {"log": ".snakemake/log/2026.log"} | changes)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_no_line_is_wider_and_no_picture_higher_than_the_terminal(count: int) -> None:
    looked = seen(study(count))
    for width, height in itertools.product((20, 33, 60, 79, 100, 200), (6, 16, 50)):
        lines = Picture(looked, height).lines(width)
        assert max(cell_len(line.plain) for line in lines) <= width
        assert len(lines) <= height or height < 16 or width < 60


def test_each_running_job_has_a_line_with_its_bar_and_the_study_one_for_all() -> None:
    text = "\n".join(line.plain for line in Picture(seen(study())).lines(140))
    assert "study demo   1 of 8 jobs done   3 min 2 s so far   about 14 min left" in text
    assert "ingest 1/1   prepare 0/1   pretrain 0/3   finetune 0/1   evaluate 0/1   report 0/1" in text
    assert text.count("64/2,880 images  6.4 images/s  7 min 20 s left  loss 3.214") == 2 and "since 10 s" in text


def test_a_narrow_terminal_keeps_bar_count_time_left_and_the_ends_of_the_name() -> None:
    lines = [line.plain for line in Picture(seen(study(1))).lines(60)]
    (line,) = [line for line in lines if "━" in line or "─" in line]
    assert "64/2,880" in line and "seed0" in line and "7 min 20 s left" in line and len(line) <= 60


@pytest.mark.parametrize(("done", "full"), [(0, 0), (1440, 20), (2880, 40), (4000, 40)])
def test_a_bar_is_as_full_as_the_work_is_done(done: int, full: int) -> None:
    found = jobs({"name": "pretrain/a", "doing": "running"})
    bar = HowFar("t", done, 2880, "images", spent_s=1.0)
    (line,) = job_lines([(found.by_number[0], bar)], 0.0, 200, ("#", "-"))
    assert (line.plain.count("#"), line.plain.count("-")) == (full, 40 - full)


@pytest.mark.parametrize("width", [16, 20, 33, 60, 200])
def test_packing_breaks_no_item_and_loses_none(width: int) -> None:
    for count in range(7):
        items = [f"stage{number} {number}/{10**number}" for number in range(count)]
        lines = packed(items, width)
        assert "   ".join(filter(None, lines)) == "   ".join(items) and all(len(line) <= width for line in lines)


def test_printed_lines_stay_above_and_a_narrower_window_is_cleared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, height=30, _environ={})
    screen = Screen(lambda: seen(study()), console)
    screen.open()
    screen.say("a remark")
    before = written.getvalue()
    console.width = 60
    screen._live.refresh()  # type: ignore[union-attr]
    screen.close()
    wiped = "\x1b[H\x1b[2J"
    assert "a remark" in before and wiped not in before
    assert written.getvalue().count(wiped) == 1 and written.getvalue().split(wiped)[1].count("a remark") == 1


# Time left


def left(found: Jobs, cores: int | None = None, bars: dict[int, float] | None = None, **more: Any) -> TimeLeft:
    return time_left(found, 100.0, bars=bars or {}, planned=more.get("planned", {}), cores=cores)


def test_time_left_is_the_longest_chain_or_all_work_on_all_cores() -> None:
    rows = [{"name": f"pretrain/{n}", "earlier_s": 10.0} for n in range(4)]
    rows.append({"name": "report/a", "earlier_s": 5.0, "after": (0, 1, 2, 3)})
    assert left(jobs(*map(dict, rows))) == TimeLeft(15.0)  # on a cluster all at once
    assert left(jobs(*map(dict, rows)), cores=2) == TimeLeft(22.5)
    assert left(jobs(*map(dict, rows)), cores=1) == TimeLeft(45.0)


def test_a_running_job_counts_by_its_bar_and_a_silent_one_by_what_its_kind_takes() -> None:
    rows: list[dict[str, Any]] = [{"name": "pretrain/a", "doing": "running", "began_s": 70.0, "earlier_s": 50.0}]
    assert left(jobs(*map(dict, rows))) == TimeLeft(20.0)
    assert left(jobs(*map(dict, rows)), bars={0: 7.0}) == TimeLeft(7.0)


def test_this_run_counts_more_than_receipts_and_a_plan_more_than_both() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "pretrain/a", "doing": "done", "took_s": 30.0, "earlier_s": 99.0},
        {"name": "pretrain/b", "earlier_s": 99.0},
    ]
    assert left(jobs(*map(dict, rows))) == TimeLeft(30.0)
    assert left(jobs(*map(dict, rows)), planned={Path("logs/pretrain/b.log"): 12.0}) == TimeLeft(12.0)


def test_jobs_of_an_unknown_kind_are_counted_as_such() -> None:
    assert left(jobs({"name": "pretrain/a"}, {"name": "report/b", "earlier_s": 3.0})) == TimeLeft(3.0, unknown=1)


@pytest.mark.parametrize(
    ("seconds", "unknown", "words"),
    [
        (2.0, 1, "time left not known yet"),
        (341.0, 1, "more than 5 min 40 s left"),
        (2.0, 0, "about 2 s left"),
        (341.0, 0, "about 5 min 40 s left"),
    ],
)
def test_a_short_time_is_not_shown_while_other_times_are_unknown(seconds: float, unknown: int, words: str) -> None:
    assert left_in_words(TimeLeft(seconds, unknown)) == words


def test_a_plan_is_shared_by_the_steps_of_an_ingest(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", {("ingest", "ct"): 1.0, ("pretrain", "ct/simclr-all-seed0"): 2.0})
    names = ("ingest/ct-scan", "ingest/ct-0-of-1", "ingest/ct", "ingest/ct-labels", "pretrain/ct-simclr-all-seed0")
    found = planned_s(tmp_path / "plan.json", jobs(*({"name": name} for name in names)))
    assert found == dict(zip(map(Path, (f"logs/{name}.log" for name in names if "labels" not in name)), [1200.0] * 3 + [7200.0]))
    (tmp_path / "plan.json").write_text("half a pla")
    assert planned_s(tmp_path / "plan.json", jobs({"name": "ingest/ct"})) == {}


# Snakemake's events


def event_stream(*events: tuple[str, dict[str, Any]]) -> Jobs:
    found = jobs({"name": "pretrain/a"})
    for now_s, (event, values) in enumerate(events):
        found.hear(event, values, float(now_s))
    return found


def test_a_job_that_is_tried_again_runs_again() -> None:
    tried = [("job_info", {"jobid": 0}), ("job_error", {"jobid": 0, "rule_msg": "OUT_OF_MEMORY"}), ("job_info", {"jobid": 0})]
    assert event_stream(*tried[:2]).doing("failed") and event_stream(*tried).doing("running")
    done = event_stream(*tried, ("job_finished", {"job_id": 0}))
    assert done.doing("done")[0].took_s == 1.0 and done.stages() == {"pretrain": (1, 1)}


def test_a_restored_job_says_nothing_of_how_long_its_kind_takes(tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps({"outputs": {}, "stage": "", "name": "", "spec": "", "restored": {}}))
    found = jobs({"name": "pretrain/a", "receipt": receipt})
    found.hear("job_info", {"jobid": 0}, 0.0)
    found.hear("job_finished", {"job_id": 0}, 5.0)
    assert found.by_number[0].doing == "done" and found.by_number[0].took_s is None


# Last lines

SIGKILL = "CalledProcessError … died with <Signals.SIGKILL: 9>"


def failed(tmp_path: Path, said: list[Said], errors: list[str], oom_kills: int = 0, job_said: str = "", output: str = "") -> str:
    found = jobs({"name": "pretrain/a", "doing": "failed", "said": job_said})
    found.errors = errors
    layout = Layout(tmp_path / "results")
    if output:
        place = layout.output("logs/pretrain/a.log")
        place.parent.mkdir(parents=True)
        place.write_text(output)
    return "\n".join(last_lines.failed(said, found, layout, oom_kills))


TRACE = "Traceback …\n  File x.py, line 3\nKeyError: 'q'\n"
KINDS = {
    "sentence": ({"said": [Said("pretrain a", 3, "loss is NaN.", "logs/pretrain/a.log")]}, ["loss is NaN."]),
    "traceback": (
        {"said": [Said("pretrain a", 1, "unforeseen", "logs/pretrain/a.log", ["KeyError"])]},
        ["    KeyError"],
    ),
    "killed": ({"errors": [SIGKILL]}, ["was killed (kill -9"]),
    "out of memory": ({"errors": [SIGKILL], "oom_kills": 2}, ["because memory ran out"]),
    "of SLURM": ({"job_said": "SLURM status is: 'OUT_OF_MEMORY'"}, ["OUT_OF_MEMORY"]),
    "of Snakemake": ({"errors": ["MissingOutputException: x"]}, ["MissingOutputException: x."]),
    "before it could say": ({"output": TRACE}, ["    KeyError: 'q'"]),
    "silent": ({}, ["without an error message"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_failure_names_the_job_why_and_its_log(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given_values, wanted = KINDS[kind]
    text = failed(tmp_path, **{"said": [], "errors": []} | given_values)
    assert text.startswith("medssl: pretrain a: ") and text.endswith("log: logs/pretrain/a.log")
    assert all(word in text for word in wanted)


def test_a_stop_reports_what_each_job_saved_and_what_to_type() -> None:
    found = jobs({"name": "pretrain/a", "doing": "failed"}, {"name": "prepare/b", "doing": "running"}, {"name": "report/c"})
    sentence = "stopped at step 64 of 2,880 and saved; the same command goes on from there."
    said = [Said("pretrain a", 75, sentence, "logs/pretrain/a.log")]
    lines = last_lines.stopped(said, found, "snakemake --cores all")
    assert lines[0] == "  pretrain a: stopped at step 64 of 2,880 and saved."
    assert lines[1] == f"  prepare b: {last_lines.UNREPORTED}."
    assert lines[-1] == "  snakemake --cores all" and len(lines) == 4
    assert last_lines.counted("demo", found, 9.0, said) == "study demo: 0 of 3 jobs done after 9 s"
    assert last_lines.counted("demo", found, 9.0).endswith(", 1 failed")


def test_a_job_that_ends_after_a_signal_has_stopped_unless_it_reports_another_reason() -> None:
    found = jobs({"name": "pretrain/a", "doing": "running"}, {"name": "pretrain/b", "doing": "running"})
    found.hear("job_error", {"jobid": 0}, 1.0)
    found.hear("job_error", {"jobid": 1}, 2.0, signalled=True)
    assert [job.doing for job in found.by_number.values()] == ["failed", "stopped"]
    assert last_lines.counted("demo", found, 9.0).endswith(", 1 failed")
    full = Said("pretrain b", 5, "the disk is full.", "logs/pretrain/b.log")
    assert last_lines.counted("demo", found, 9.0, [full]).endswith(", 2 failed")
    assert "the disk is full." in "\n".join(last_lines.failed([full], found, Layout(Path("results")), 0))


@pytest.mark.parametrize(
    ("codes", "signalled", "code"),
    [([], False, 1), ([], True, 75), ([75], False, 75), ([75, 3, 75], True, 3), ([4, 3], False, 3)],
)
def test_the_exit_code_is_that_of_the_last_failure_in_earnest(codes: list[int], signalled: bool, code: int) -> None:
    assert last_lines.exit_code([Said("a", number, "") for number in codes], signalled=signalled) == code


def test_the_typed_command_is_the_one_to_continue_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert last_lines.typed(["/bin/snakemake", "--cores", "all", "a b"], {}) == "snakemake --cores all 'a b'"
    assert "-m snakemake -n" in last_lines.typed(["/x/snakemake/__main__.py", "-n"], {})
    assert last_lines.typed(["x"], {last_lines.TYPED: "medssl run x"}) == "medssl run x"


def test_what_was_made_is_named_where_it_exists(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    dag: Any = SimpleNamespace(
        layout=layout, study=SimpleNamespace(finetune=["t"]), runs=lambda: [("ct", "run")], pages=lambda: ["ct", "study"]
    )
    for name in (layout.pretrain("ct", "run", "encoder.safetensors"), layout.report("study", "report.html")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    (Path(layout.finetune("t", "models")) / "scratch").mkdir(parents=True)
    (Path(layout.finetune("t", "models")) / "scratch" / "contract.json").touch()
    assert [line.split()[0] for line in last_lines.made(dag)] == ["encoder", "model", "page"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.7, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3600, "1 h"), (100_800, "1 d 4 h")],
)
def test_time_has_two_units(seconds: float, words: str) -> None:
    assert clock(seconds) == words
