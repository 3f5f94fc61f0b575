"""`make slurm-test`: the bundled study as jobs of a real SLURM, then stopped in every way a cluster knows, with the same weights.

1. `pretrain_ct` on the bundled CT, shorter than the demo, with `--profile configs/profiles/slurm`, undisturbed.
2. Its pre-training again, requeued by an administrator and, later, told to stop by SIGTERM.
3. Its pre-training again, with less time than it needs: it stops before the limit and requeues itself until it is done.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cluster as slurm

from medssl.core.files import sha256_file

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = "results/slurm/4_pretrain/ct/simclr-hash-seed0"
STUDY = """\
study: slurm
id_key: demo/id_key
sources:
  ct: {path: demo/ct}
ingest: {shards: 2}
prepare:
  window_hu: [[-1000, 400]]
  split: {val_frac: 0, test_frac: 0}
reduce:
  arms:
    hash: {threshold: 6}
  controls: false
pretrain:
  simclr:
    backbone: {resnet18: {width: 0.25}}
    size: [32, 32]
    batch_size: 32
    max_steps: 300
    checkpoint_every_s: 1
    stop_before_deadline_s: 30
"""
PASS_S = 600.0  # only a guard against hanging


class Study:
    """The bundled CT in a folder of its own, run by Snakemake on a SLURM."""

    def __init__(self, folder: Path, cluster: slurm.Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        (folder / "demo").symlink_to(ROOT / "demo")
        (folder / "study.yaml").write_text(STUDY)
        self.shown: set[str] = set()

    def run(self, target: str, *options: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Bring `target` about as SLURM jobs; `meanwhile` is called again and again until they are done."""
        profile = str(ROOT / "configs" / "profiles" / "slurm")
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--profile", profile, target]
        command += ["--configfile", "study.yaml", "--max-threads", "1"]
        # without accounting, squeue tells the states
        command += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "20"]
        began_s = time.monotonic()
        with open(self.folder / "snakemake.log", "a") as log:
            running = subprocess.Popen([*command, *options], cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
            try:
                while running.poll() is None:
                    if time.monotonic() - began_s > PASS_S:
                        raise AssertionError(f"not done after {PASS_S:.0f} s")
                    meanwhile()
                    time.sleep(0.5)
            finally:
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGKILL)
                self.show()
        if running.returncode:
            print((self.folder / "snakemake.log").read_text()[-6000:])
            raise AssertionError(f"snakemake ended with {running.returncode}")
        print(f"  {time.monotonic() - began_s:.0f} s")

    def show(self) -> None:
        """A line for each SLURM job since the last call."""
        for job in self.cluster.jobs():
            if job["JobId"] not in self.shown:
                self.shown.add(job["JobId"])
                restarts = f", requeued {job['Restarts']} times" if job["Restarts"] != "0" else ""
                print(f"  job {job['JobId']:>3}  {job['JobState']:<10} {job['RunTime']}  {job['Comment']}{restarts}", flush=True)

    def step(self) -> int:
        """The newest step that pre-training has saved."""
        saved = sorted((self.folder / "results/slurm/state/pretrain").glob("*/step-*.json"))
        return int(saved[-1].stem.split("-")[1]) if saved else 0

    def weights(self) -> str:
        """Hash of the encoder."""
        return sha256_file(self.folder / RUN / "encoder.safetensors")

    def stop_before_deadline(self, seconds: int) -> None:
        """From now on pre-training stops as many seconds before its time is up; its weights do not depend on it."""
        path = self.folder / "study.yaml"
        path.write_text(re.sub(r"stop_before_deadline_s: \d+", f"stop_before_deadline_s: {seconds}", path.read_text()))

    def forget(self) -> None:
        """Remove what pre-training made, in the store too, so that it runs again instead of being restored."""
        shutil.rmtree(self.folder / RUN)
        shutil.rmtree(self.folder / "results/slurm/state/store")
        assert self.step() == 0, "a finished run leaves no state"


def run_time_s(job: dict[str, str]) -> int:
    """How long a job of less than a day ran, from `hours:minutes:seconds`."""
    hours, minutes, seconds = map(int, job["RunTime"].split(":"))
    return 3600 * hours + 60 * minutes + seconds


def undisturbed(study: Study) -> str:
    """End to end; every job of the DAG is a SLURM job."""
    study.run("pretrain_ct")
    assert (study.folder / "results/slurm/7_report/ct/report.html").is_file()
    rules = {job["Comment"].split("_wildcards")[0] for job in study.cluster.jobs()}
    wanted = {"ingest_scan", "ingest_convert", "prepare", "reduce_describe", "reduce", "pretrain", "page"}
    missing = {rule for rule in wanted if not any(rule in found for found in rules)}
    assert not missing, f"these were no SLURM jobs: {missing} (found {rules})"
    assert {job["JobState"] for job in study.cluster.jobs()} == {"COMPLETED"}
    return study.weights()


def requeued_and_terminated(study: Study) -> str:
    """`scontrol requeue` and then `scancel --signal=TERM`, each in the middle of training."""
    study.forget()
    done: dict[str, int] = {}

    def disturb() -> None:
        job = next((j for j in study.cluster.jobs() if "pretrain" in j["Comment"] and j["JobState"] == "RUNNING"), None)
        if job and "requeue" not in done and study.step() >= 20:
            done["requeue"] = study.step()
            study.cluster.call("scontrol", "requeue", job["JobId"])
        elif job and "requeue" in done and "term" not in done and study.step() >= done["requeue"] + 40:
            done["term"] = study.step()
            study.cluster.call("scancel", "--signal=TERM", job["JobId"])

    study.run(f"{RUN}/encoder.safetensors", meanwhile=disturb)
    assert set(done) == {"requeue", "term"}, f"the run was over before it could be disturbed: {done}"
    print(f"  requeued at step {done['requeue']}, SIGTERM at step {done['term']}")
    return study.weights()


def out_of_time(study: Study) -> str:
    """One minute of time, of which the run uses 0.6 of what it needs: the job requeues itself, and no try is lost."""
    study.forget()
    before = {job["JobId"] for job in study.cluster.jobs()}
    needed_s = next(run_time_s(job) for job in study.cluster.jobs() if "pretrain" in job["Comment"])
    study.stop_before_deadline(60 - min(50, max(15, round(0.6 * needed_s))))
    study.run(f"{RUN}/encoder.safetensors", "--set-resources", "pretrain:runtime=1", "--restart-times", "0")
    jobs = [job for job in study.cluster.jobs() if job["JobId"] not in before]
    assert len(jobs) == 1, f"one job was to be requeued, not {len(jobs)} started"
    assert int(jobs[0]["Restarts"]) >= 1, "the run ended before its time was up: it was to be stopped"
    return study.weights()


def main() -> None:
    """Run the passes; the last line says that the weights are the same."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemons end with us
    try:
        with slurm.running() as running, tempfile.TemporaryDirectory(prefix="medssl-slurm-study-") as folder:
            print(running.call("sinfo", "--version").strip(), flush=True)
            study = Study(Path(folder), running)
            found: dict[str, Any] = {}
            for test in (undisturbed, requeued_and_terminated, out_of_time):
                print(f"{test.__name__}: {(test.__doc__ or '').strip()}", flush=True)
                found[test.__name__] = test(study)
                print(f"  encoder {found[test.__name__][:16]}", flush=True)
            assert len(set(found.values())) == 1, f"the weights differ: {found}"
            print(f"RESULT slurm-test: {len(study.shown)} jobs; stopped and unstopped runs have the same weights")
    except slurm.NotPossibleHereError as error:
        print(f"SKIPPED slurm-test: {error}")


if __name__ == "__main__":
    main()
