"""scan → convert → merge as jobs: the ledger, the store, what is kept, what is made again, what never leaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from canaries import all_text, plant
from phantoms import datasets, largest_error, random_phantom, save

from medssl.core import job as jobs
from medssl.core import listing
from medssl.core.errors import StudyError, TooManyRefusalsError
from medssl.core.files import sha256_file
from medssl.core.layout import Layout
from medssl.core.tables import read_tsv
from medssl.ingest import run
from medssl.ingest.checking import check_source
from medssl.ingest.options import IngestOptions
from medssl.study.source_files import SourceFiles
from medssl.study.sources import refresh


def spec_of(source: Path, code: str = "c1", labels: str | None = None, name: str = "ct", **options: object) -> jobs.Spec:
    layout = Layout.of("results", "s")
    key = listing.load_key(None)
    refresh(layout, name, SourceFiles.of(name, str(source), labels, IngestOptions()), key, labels=labels)
    private = layout.private(name, "listing.jsonl")
    return jobs.Spec(
        "ingest", name, "s", str(layout.root), 0, code, IngestOptions(**options).model_dump(mode="json"), {"listing": private},
        layout.ingest(name),
        private={"path": str(source), "id_key": "", "folder": str(Path(private).parent), "labels": labels},
    )  # fmt: skip


def ingest_all(source: Path, code: str = "c1", **options: object) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    spec = spec_of(source, code, **options)
    with jobs.job(spec) as job:
        run.scan(job)
    for shard in range(spec.options["shards"]):
        with jobs.job(spec) as job:
            run.convert(job, shard)
    with jobs.job(spec) as job:
        run.merge(job)
    out = Path(spec.out)
    return read_tsv(out / "series.tsv"), read_tsv(out / "rejected.tsv"), out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def three_series(root: Path) -> None:
    for seed in range(3):
        save(datasets(random_phantom(seed)), root / f"case{seed}")
    (root / "README.txt").write_text("nothing")


def test_every_file_is_counted_once_and_receipts_hold(here: Path) -> None:
    three_series(here / "in")
    series, rejected, out = ingest_all(here / "in", shards=3)
    files = [p for p in (here / "in").rglob("*") if p.is_file()]
    assert series["num_files"].sum() + rejected["num_files"].sum() == len(files)
    assert series["bytes"].sum() + rejected["bytes"].sum() == sum(p.stat().st_size for p in files)
    receipt = json.loads((out / "receipt.json").read_text())
    assert set(receipt["outputs"]) == {"series.tsv", "rejected.tsv"} | {
        f"volumes/{v}/{n}" for v in series["volume_id"] for n in ("image.npy", "volume.json")
    }
    for name, entry in receipt["outputs"].items():
        assert sha256_file(out / name) == entry["sha256"]
    for _, row in series.iterrows():
        values = np.load(out / "volumes" / row["volume_id"] / "image.npy")
        described = json.loads((out / "volumes" / row["volume_id"] / "volume.json").read_text())
        assert np.isfortran(values)
        assert list(values.shape) == described["shape"] == json.loads(row["shape"])
        assert min(largest_error(values, np.array(described["affine"]), random_phantom(n)) for n in range(3)) <= 0.51
    assert series["volume_id"].str.fullmatch(r"v-[0-9a-f]{12}").all()
    assert list(series["volume_id"]) == sorted(series["volume_id"])


def test_number_of_shards_changes_no_byte_of_the_ledger(here: Path) -> None:
    three_series(here / "in")
    ledgers = []
    for shards in (1, 4):
        _, _, out = ingest_all(here / "in", shards=shards)
        ledgers.append([(out / name).read_bytes() for name in ("series.tsv", "rejected.tsv")])
    assert ledgers[0] == ledgers[1]


def _stamps(out: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_ctime_ns for p in out.glob("volumes/*/image.npy")}


def test_new_series_converts_one_and_removed_series_removes_one(here: Path) -> None:
    three_series(here / "in")
    _, _, out = ingest_all(here / "in")
    before = _stamps(out)
    save(datasets(random_phantom(7)), here / "in" / "case7")
    ingest_all(here / "in")
    after = _stamps(out)
    assert len(after) == 4
    assert {k: after[k] for k in before} == before
    for path in (here / "in" / "case0").iterdir():
        path.unlink()
    series, _, _ = ingest_all(here / "in")
    assert len(series) == 3
    last = _stamps(out)
    assert len(last) == 3
    assert all(after[k] == v for k, v in last.items())


def test_option_that_matters_and_changed_code_convert_again(here: Path) -> None:
    three_series(here / "in")
    _, _, out = ingest_all(here / "in")
    first = _stamps(out)
    ingest_all(here / "in", max_refused_frac=0.9)
    assert _stamps(out) == first
    ingest_all(here / "in", min_slices=4)
    second = _stamps(out)
    assert all(second[k] != first[k] for k in first)
    ingest_all(here / "in", code="c2", min_slices=4)
    assert all(_stamps(out)[k] != second[k] for k in second)


def test_damaged_volume_is_made_again(here: Path) -> None:
    three_series(here / "in")
    series, _, out = ingest_all(here / "in")
    path = out / "volumes" / series["volume_id"][0] / "image.npy"
    good = path.read_bytes()
    info = path.stat()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    with jobs.job(spec_of(here / "in")) as job:
        run.merge(job)
    assert path.read_bytes() == good


def test_source_where_everything_is_refused_stops_with_counts(here: Path) -> None:
    made = datasets(random_phantom(0))
    save([ds for n, ds in enumerate(made) if n != 4], here / "in" / "case")
    with pytest.raises(TooManyRefusalsError, match=f"missing_slice {len(made) - 1}"):
        ingest_all(here / "in")
    assert TooManyRefusalsError.exit_code == 8
    assert not Path("results/s/1_ingest/ct/series.tsv").exists()
    rejected = read_tsv("results/s/1_ingest/ct/shards/0-of-1/rejected.tsv")
    assert list(rejected["code"]) == ["missing_slice"]


def test_more_refusals_than_allowed_stop(here: Path) -> None:
    three_series(here / "in")
    save(datasets(random_phantom(9))[:2], here / "in" / "short")
    assert len(ingest_all(here / "in", max_refused_frac=0.25)[0]) == 3
    with pytest.raises(TooManyRefusalsError, match="max_refused_frac"):
        ingest_all(here / "in", max_refused_frac=0.2)


def test_skipped_series_is_a_row(here: Path) -> None:
    three_series(here / "in")
    series, _, _ = ingest_all(here / "in")
    skip = [series["series_id"][1]]
    series, rejected, _ = ingest_all(here / "in", skip=skip)
    assert len(series) == 2
    assert "skipped" in set(rejected["code"])


def test_check_source_gives_the_same_ledger_and_leaves_nothing(here: Path) -> None:
    three_series(here / "in")
    save(datasets(random_phantom(9))[:2], here / "in" / "short")
    checked = check_source(here / "in")
    series, rejected = pd.DataFrame(checked.series), pd.DataFrame(checked.rejected)
    kept_series, kept_rejected, _ = ingest_all(here / "in")
    same = ["unit", "kind", "format", "modality", "dtype", "num_files", "bytes", "content_sha256"]
    assert sorted(map(tuple, series[same].values)) == sorted(map(tuple, kept_series[same].values))
    assert sorted(rejected["code"]) == sorted(kept_rejected["code"])
    assert sorted(p.name for p in here.iterdir()) == [".medssl", "in", "results"]


DYING = """\
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from test_ingest_run import ingest_all

renames, replace = 0, os.replace

def dying(*paths):
    global renames
    renames += 1
    if renames == int(sys.argv[2]):
        os.killpg(0, signal.SIGKILL)
    replace(*paths)

os.replace = dying
ingest_all(Path("in"), code=sys.argv[1])
print(renames)
"""
"""Ingests `in`, and kills itself and its reading processes before the n-th file or folder comes into its place."""


def test_killed_conversion_resumes_and_ends_in_the_same_bytes(here: Path, request: pytest.FixtureRequest) -> None:
    for seed in range(6):
        save(datasets(random_phantom(seed, columns=180, rows=160)), here / "in" / f"case{seed}")
    (here / "dying.py").write_text(DYING)

    def started(code: str, at: int) -> subprocess.Popen[str]:
        command = [sys.executable, "dying.py", code, str(at), str(Path(__file__).parent), str(Path(__file__).parent.parent)]
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    _, num_renames = (int(started(code, 0).communicate()[0]) for code in ("c1", "c2"))  # of a source that is known already
    out = here / "results" / "s" / "1_ingest" / "ct"
    wanted = {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.glob("volumes/*/*"))}
    ledger = (out / "series.tsv").read_bytes()
    assert len(wanted) >= 12 and num_renames > 12
    kills = 20 if request.config.getoption("--full") else 2
    moments = [1 + number * (num_renames - 1) // (kills - 1) for number in range(kills)]
    for number, moment in enumerate([0, *moments]):
        code = f"kill{number}"
        process = started(code, moment)
        if moment == 0:  # within a volume: its room is taken before its slices come in
            while not any(out.glob("volumes/.part-*/*/image.npy")):
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        for path in out.glob("volumes/*/image.npy"):
            np.load(path)
        ingest_all(here / "in", code=code)
        assert {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.glob("volumes/*/*"))} == wanted
        assert (out / "series.tsv").read_bytes() == ledger
        assert not list(out.glob("volumes/.part-*"))


# ---- image sets


def test_pictures_become_one_volume_per_shape_with_their_labels(here: Path) -> None:
    from PIL import Image

    truth = {}
    for split in ("train", "val"):
        for label in ("ill", "well"):
            for n in range(3):
                shape = (20, 30) if n else (24, 24)
                pixels = (np.arange(shape[0] * shape[1]).reshape(shape) * (n + 2) % 251).astype(np.uint8)
                path = here / "in" / split / label / f"{label} {n}%.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
                truth.setdefault(shape[::-1], []).append((split, label, pixels.T))
    (here / "in" / "train" / "ill" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    series, rejected, out = ingest_all(here / "in")
    assert len(series) == 2
    assert set(series["unit"]) == {"image"}
    assert list(rejected["code"]) == ["corrupt"]
    for _, row in series.iterrows():
        folder = out / "volumes" / row["volume_id"]
        values, images = np.load(folder / "image.npy"), pd.read_parquet(folder / "images.parquet")
        assert values.dtype == np.uint8
        found = [(images["split"][n], images["label"][n], values[:, :, n].tobytes("F")) for n in range(values.shape[2])]
        wanted = [(s, label, p.tobytes("F")) for s, label, p in truth[values.shape[:2]]]
        assert sorted(found) == sorted(wanted)
        assert list(images.columns) == ["index", "image_id", "label", "split", "subject_id"]


def test_folder_names_are_labels_only_when_asked_or_certain(here: Path) -> None:
    from PIL import Image

    for name in ("Smith_John", "Doe_Jane"):
        (here / "in" / name).mkdir(parents=True)
        Image.fromarray(np.full((9, 9), 7, np.uint8)).save(here / "in" / name / "1.png")
    series, _, out = ingest_all(here / "in")
    assert list(series["label"]) == [False]
    assert "Smith" not in all_text(out)
    series, _, out = ingest_all(here / "in", labels="folders")
    assert list(series["label"]) == [False]
    assert "Smith" not in all_text(out)


def test_labels_table_gives_split_and_subject_early_and_no_label(here: Path) -> None:
    from PIL import Image

    (here / "in").mkdir()
    for n in range(4):
        Image.fromarray(np.full((9, 9), n, np.uint8)).save(here / "in" / f"{n}.png")
    columns = {"label": list("abab"), "subject": list("xxyy"), "split": ["train"] * 4}
    table = pd.DataFrame({"file": [f"{n}.png" for n in range(4)], **columns})
    table.to_csv(here / "labels.tsv", sep="\t", index=False)
    series, _, out = ingest_all(here / "in", labels=str(here / "labels.tsv"))
    images = pd.read_parquet(out / "volumes" / series["volume_id"][0] / "images.parquet")
    assert images["label"].isna().all() and list(images["split"]) == ["train"] * 4
    assert images["subject_id"].nunique() == 2
    assert list(series["unit"]) == ["patient"]
    for other in ("0", "./0.png"):
        (here / "labels.tsv").write_text(f"file\tlabel\tsplit\n1.png\ta\ttrain\n{other}\ta\ttest\n")
        with pytest.raises(StudyError, match=r"row 3 of the table has split, and its id is not the path"):
            ingest_all(here / "in", labels=str(here / "labels.tsv"))


def test_npz_set_keeps_its_labels_and_splits(here: Path) -> None:
    check_npz(here, (12, 10))


def test_large_npz_set_is_read_from_its_map(here: Path) -> None:
    check_npz(here, (700, 650))


def check_npz(here: Path, shape: tuple[int, int]) -> None:
    r = np.random.default_rng(0)
    arrays = {f"{s}_images": r.integers(0, 255, (n, *shape), dtype=np.uint8) for s, n in (("train", 5), ("val", 2), ("test", 3))}
    labels = {k.replace("images", "labels"): r.integers(0, 3, (len(v), 1)) for k, v in arrays.items()}
    (here / "in").mkdir()
    np.savez(here / "in" / "set.npz", **arrays, **labels)
    series, rejected, out = ingest_all(here / "in")
    folder = out / "volumes" / series["volume_id"][0]
    values, images = np.load(folder / "image.npy"), pd.read_parquet(folder / "images.parquet")
    assert len(rejected) == 0
    assert values.shape == (*shape[::-1], 10)
    assert np.array_equal(values.transpose(2, 1, 0), np.concatenate(list(arrays.values())))
    assert list(images["split"]) == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    assert list(images["label"]) == [str(v) for v in np.concatenate(list(labels.values())).ravel()]


@pytest.mark.parametrize("names", [("images", "train_images"), ("images", "imgs"), ("train_images", "valid_images")])
def test_an_npz_with_several_arrays_that_may_be_the_images_is_refused(names: tuple[str, str], here: Path) -> None:
    """`images` beside its own parts would count each image twice; a part of another name would be lost unnoticed."""
    (here / "in").mkdir()
    np.savez(here / "in" / "set.npz", **{name: np.zeros((3, 9, 9), np.uint8) for name in names})
    checked = check_source(here / "in")
    assert not checked.series and [row["code"] for row in checked.rejected] == ["ambiguous_images"]
    assert not any(name in row["sentence"].split(":")[-1] for row in checked.rejected for name in names), "names stay out of it"


def test_npz_whose_labels_do_not_match_is_refused(here: Path) -> None:
    (here / "in").mkdir()
    np.savez(here / "in" / "a.npz", images=np.zeros((4, 9, 9), np.uint8), labels=np.zeros(3, int))
    np.savez(here / "in" / "b.npz", images=np.array([{"an": "object"}]))
    np.savez(here / "in" / "c.npz", something=np.zeros(3))
    np.savez(here / "in" / "d.npz", images=np.zeros((4, 9, 9, 3), np.uint8))
    rejected = check_source(here / "in").rejected
    assert sorted(row["code"] for row in rejected) == ["colour", "corrupt", "labels_mismatch", "no_images"]


# ---- nothing personal leaves


def test_no_canary_leaves_ingest(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = plant(here / "in", 100)
    assert len(words) >= 80
    spec = spec_of(here / "in", shards=2)
    log = here / "results" / "s" / "logs" / "ingest.log"
    for step in (run.scan, lambda j: run.convert(j, 0), lambda j: run.convert(j, 1), run.merge):
        with jobs.job(spec, log_path=log) as job:
            step(job)
    text = all_text(here / "results") + "".join(capfd.readouterr())
    assert [word for word in words if word in text] == []
    assert len(read_tsv(Path(spec.out) / "series.tsv")) >= 3
    private = (here / ".medssl" / "s" / "ct" / "items.tsv").read_text()
    assert any(word in private for word in words), "the private table does name the refused files"


def test_no_canary_is_in_an_error_message(here: Path) -> None:
    root = here / "CANARYPATH"
    made = datasets(random_phantom(0))
    save(made[:2], root / "CANARYFOLDER")
    with pytest.raises(TooManyRefusalsError) as caught:
        ingest_all(root)
    assert "CANARY" not in str(caught.value)


def test_no_pickle_shell_or_socket_is_used(here: Path) -> None:
    three_series(here / "in")
    script = here / "audit.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]\n"
        "from pathlib import Path\nfrom test_ingest_run import ingest_all\n"
        "seen = []\n"
        "def hook(event, args):\n"
        "    if event in ('pickle.find_class', 'os.system', 'socket.connect'): seen.append(event)\n"
        "    if event == 'subprocess.Popen' and not isinstance(args[1], (list, tuple)): seen.append(event)\n"
        "sys.addaudithook(hook)\n"
        "ingest_all(Path('in'))\n"
        "sys.exit(len(seen))\n"
    )
    assert subprocess.run([sys.executable, str(script)], stderr=subprocess.DEVNULL).returncode == 0


def test_sources_with_files_of_one_name_share_no_id(here: Path) -> None:
    found = []
    for name in ("one", "two"):
        (here / name).mkdir()
        np.savez(here / name / "set.npz", train_images=np.full((4, 12, 12), len(found), np.uint8))
        series, rejected, _ = ingest_all(here / name, name=name)
        assert rejected.empty
        found.append({*series["volume_id"], *series["series_id"]})
    assert len(found[0]) == len(found[1]) == 2
    assert not found[0] & found[1]
