"""The engine: not-finite numbers, memory, accumulation, collapse, precision, the stage's files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from prepared import receipt, write_prepared
from pretraining import made_objective, train_here, train_world
from test_pretrain_world import COHORT, SMALL

from medssl.artefacts.encoder import EMBEDDINGS, Contract, Part
from medssl.artefacts.training_images import Window
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError, NotFiniteError, OutOfMemoryError, StudyError
from medssl.nn import health


@pytest.mark.parametrize(
    ("name", "prototypes", "words"),
    [
        ("dino", 4096, "4 prototypes instead of 4096: the run has 32 samples, and each stands for 8 or more of them"),
        ("dino", 4, None),
        ("deepcluster_v2", 500, "8 prototypes instead of 500: the run has 32 samples, and each stands for 4 or more of them"),
        ("swav", 33, "33 prototypes for 32 samples: most stand for none. Lower `prototypes`, for example to 4"),
        ("swav", 32, None),
    ],
)
def test_prototypes_that_the_samples_are_too_few_for_are_reported(name: str, prototypes: int, words: str | None) -> None:
    assert made_objective(name, 2, **SMALL[name] | {"prototypes": prototypes}).remarks() == ([] if words is None else [words])


def test_remarks_are_in_the_log_of_a_run_once(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric import Fabric

    from medssl.core.progress import Bar
    from medssl.pretrain.loop import train

    monkeypatch.setattr("medssl.pretrain.objective.Objective.remarks", lambda objective: ["a remark"])
    lines: list[str] = []
    for _ in range(2):  # the second one resumes
        train(Fabric(accelerator="cpu", devices=1), make_plan("said"), Bar("test", 1, "images", None, None), lines.append)
    assert lines.count("a remark") == 1 and any("resumed" in line for line in lines)


@pytest.mark.parametrize("behind", [0, 5])
def test_a_nan_in_the_images_names_its_step_and_batch_and_keeps_the_last_good_state(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    """Read at once, or some steps late as on a GPU."""
    monkeypatch.setattr("medssl.pretrain.loop.steps_behind", lambda learner: behind)
    monkeypatch.setattr("medssl.pretrain.loop.CURVE_ROWS", 1)  # no row but those at the ends of epochs
    plan = make_plan("nan")
    row = int(plan.objective().batches(plan.seed, 0, 8)[2][5])
    break_image(plan.samples, row)
    error, state = train_here(plan)
    assert isinstance(error, NotFiniteError) and error.exit_code == 3
    assert "step 3" in str(error) and plan.samples.ids[row] in str(error)
    assert state[0] == 2
    assert all(bool(t.isfinite().all()) for t in state[1].values() if t.is_floating_point())


def test_figures_that_are_read_late_change_neither_weights_nor_curve(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.pretrain.loop.CURVE_ROWS", 1)  # no row but those at the ends of epochs
    states = []
    for behind in (0, 3):
        monkeypatch.setattr("medssl.pretrain.loop.steps_behind", lambda learner, behind=behind: behind)
        error, state = train_here(make_plan(f"behind{behind}", clip_norm=0.5))
        assert error is None
        states.append(state)
    one, other = states
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())
    drop = {"images_per_s"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in one[2]["rows"]] == [
        {k: v for k, v in row.items() if k not in drop} for row in other[2]["rows"]
    ]


def test_a_state_is_never_saved_of_a_step_that_is_not_finite(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the step's figures are still unread when the next state is due."""
    monkeypatch.setattr("medssl.pretrain.loop.steps_behind", lambda learner: 1000)
    monkeypatch.setattr("medssl.pretrain.loop.CURVE_ROWS", 1)  # no row but those at the ends of epochs
    error, state = train_here(make_plan("wild", lr=1e30, optimizer="sgd", warmup_frac=0.0))
    assert isinstance(error, NotFiniteError) and "Samples of the batch" in str(error)
    assert state is None or all(bool(t.isfinite().all()) for t in state[1].values() if t.is_floating_point())


def break_image(samples: Any, row: int) -> None:
    """A NaN into one slice."""
    volume = samples.volumes[samples.volume[row]]
    array = np.load(volume.array).astype(np.float32)
    array[3, 3, samples.index[row]] = np.nan
    np.save(volume.array, np.asfortranarray(array))


@pytest.mark.parametrize("objective", ["gsimclr", "deepcluster_v2"])
def test_a_nan_before_the_first_step_names_the_image_alone(make_plan: Any, objective: str) -> None:
    plan = make_plan("nan", objective={objective: SMALL[objective]})
    break_image(plan.samples, 5)
    error, state = train_here(plan)
    assert isinstance(error, NotFiniteError) and state is None
    assert [sample for sample in plan.samples.ids if sample in str(error)] == [plan.samples.ids[5]]


def test_a_nan_of_another_process_is_named_first(make_plan: Any) -> None:
    plan = make_plan("nan", COHORT, batch_size=32)
    row = int(plan.objective().batches(plan.seed, 0, 32)[0][20])
    break_image(plan.samples, row)
    error, _ = train_world(plan, 2)
    assert isinstance(error, NotFiniteError) and f"Samples of the batch: {plan.samples.ids[row]}, " in str(error)


@pytest.mark.parametrize("objective", ["gsimclr", "deepcluster_v2"])
def test_the_deadline_stops_what_comes_before_the_first_step(
    make_plan: Any, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("late", objective={objective: SMALL[objective]}, epochs=1)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")
    error, state = train_here(plan)
    assert error is not None and error.exit_code == 75 and "before the first step" in str(error)
    assert state is None
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert train_here(plan)[0] is None


def test_an_absurd_learning_rate_never_leaves_a_state_that_is_not_finite(make_plan: Any) -> None:
    error, state = train_here(make_plan("wild", lr=1e30, optimizer="sgd", warmup_frac=0.0))
    assert isinstance(error, NotFiniteError)
    assert state is None or all(bool(t.isfinite().all()) for t in state[1].values() if t.is_floating_point())


def test_running_out_of_memory_names_peak_batch_and_option(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from medssl.nn.denoiser import Denoiser
    from medssl.pretrain.objectives.simclr import SimCLR

    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("allocation failed")

    monkeypatch.setattr(SimCLR, "forward", too_large)
    monkeypatch.setattr(Denoiser, "forward", too_large)
    error, state = train_here(make_plan("memory"))
    assert isinstance(error, OutOfMemoryError) and error.exit_code == 4
    assert "the first step" in str(error) and "8 samples" in str(error) and "pretrain.accumulate" in str(error)
    assert state is None
    error, _ = train_here(make_plan("memory", objective={"gsimclr": SMALL["gsimclr"]}))
    assert isinstance(error, OutOfMemoryError) and "the pass before the first step" in str(error)


@pytest.mark.parametrize("objective", sorted(SMALL))
def test_accumulation_has_the_loss_and_gradient_of_the_whole_batch(make_plan: Any, objective: str) -> None:
    from medssl.core.progress import Bar
    from medssl.pretrain.loop import Loop

    gradients, losses = [], []
    for parts in (1, 4):
        from lightning_fabric import Fabric
        from pretraining import arithmetic

        plan = make_plan(cohort=COHORT, objective={objective: SMALL[objective]}, accumulate=parts, batch_size=32)
        fabric = Fabric(accelerator="cpu", devices=1, **arithmetic("double"))
        run = Loop(fabric, plan, Bar("test", 1, "images", None, None), print, lambda: False)
        if run.objective.memory_pass:
            run.begin()
            run.objective.start_epoch(0, 0)
        run.learner.module.eval()  # batch statistics are the parts' own, as the docs say; all else is the whole batch's
        batch = run.reader[(0, np.arange(32))]
        loss, _ = run.learner.forward_backward(batch, 0)
        losses.append(loss.value.item())
        gradients.append([p.grad for p in run.objective.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    scale = max(float(g.abs().max()) for g in gradients[0])
    assert max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True)) < 1e-5 * scale


@pytest.mark.parametrize("objective", sorted(SMALL))
def test_a_collapsed_network_raises_the_alarm(make_plan: Any, objective: str, tmp_path: Path) -> None:
    from medssl.nn.weights import save_encoder

    settings: dict[str, Any] = {"cohort": COHORT, "objective": {objective: SMALL[objective]}, "on_collapse": "stop", "epochs": 1}
    plan = make_plan("collapsed", lr=1e-12, **settings)
    dead = plan.objective().backbone
    with torch.no_grad():
        next(p for p in dead.parameters() if p.ndim > 3).zero_()  # the first convolution
    save_encoder(tmp_path / "dead.safetensors", dead)
    plan = make_plan("collapsed", lr=1e-12, init_weights=str(tmp_path / "dead.safetensors"), **settings)
    error, state = train_here(plan)
    assert isinstance(error, NotFiniteError) and "collapse" in str(error)
    assert state is not None
    whole = train_here(make_plan("healthy", **settings))
    assert whole[0] is None


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_collapsed_says_so_again_until_its_settings_change(make_plan: Any, epochs: int, tmp_path: Path) -> None:
    from medssl.nn.weights import save_encoder

    dead = make_plan().objective().backbone
    with torch.no_grad():
        dead.conv1.weight.zero_()
    save_encoder(tmp_path / "dead.safetensors", dead)
    settings = {"lr": 1e-12, "init_weights": str(tmp_path / "dead.safetensors"), "epochs": epochs}
    plan = make_plan("collapsed", on_collapse="stop", **settings)
    (first, state), (second, after) = train_here(plan), train_here(plan)
    assert isinstance(first, NotFiniteError) and isinstance(second, NotFiniteError) and str(first) == str(second)
    assert state[0] == after[0] == 3 and state[2]["rows"][-1]["spread"] < health.MIN_SPREAD
    error, ended = train_here(make_plan("collapsed", **settings))
    assert error is None and ended[0] == 3 * epochs and "encoder/conv1.weight" in ended[1]


@pytest.mark.parametrize("objective", ["spark", "mae"])
@pytest.mark.parametrize("air", [False, True])
def test_images_of_air_alone_raise_the_alarm(make_plan: Any, objective: str, air: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if air:
        monkeypatch.setattr("prepared.phantom", lambda seed, shape: np.full(shape, -1000, np.int16, order="F"))
    monkeypatch.setattr("medssl.pretrain.loop.collapse", lambda row: None)
    options = {"objective": {objective: SMALL[objective] | {"constant_patches": "exclude"}}, "on_collapse": "stop"}
    for epochs in (2, 3):  # of three steps
        error, _ = train_here(make_plan(str(epochs), {}, epochs=epochs, **options))
        assert (error is not None) == (air and epochs == 3)
        assert error is None or "constant_frac is 1 in all 9 rows of the curve" in str(error)


def test_both_passes_of_a_part_lose_the_same_units(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric import Fabric

    from medssl.core.progress import Bar
    from medssl.pretrain.loop import Loop
    from medssl.pretrain.objectives.joint_2d3d import Joint2D3D

    plan = make_plan(cohort=COHORT, objective={"joint_2d3d": SMALL["joint_2d3d"] | {"dropout": 0.5}}, accumulate=2, batch_size=32)
    run = Loop(Fabric(accelerator="cpu", devices=1), plan, Bar("test", 1, "images", None, None), print, lambda: False)
    run.begin()
    run.objective.start_epoch(0, 0)
    seen: list[dict[str, Any]] = []
    forward = Joint2D3D.forward
    monkeypatch.setattr(Joint2D3D, "forward", lambda *given: seen.append(forward(*given)) or seen[-1])
    run.learner.forward_backward(run.reader[(0, np.arange(32))], 0)
    assert len(seen) == 4 and len(seen[0]) > 2
    for first, second in zip(seen[:2], seen[2:], strict=True):
        assert all(torch.allclose(value, second[name], atol=1e-5) for name, value in first.items())


def test_health_of_known_clouds() -> None:
    torch.manual_seed(0)
    line, cloud = torch.outer(torch.randn(200), torch.randn(8)), torch.randn(4000, 8)
    assert health.effective_rank(line) == pytest.approx(1, abs=1e-5)
    assert health.effective_rank(cloud) == pytest.approx(8, abs=0.05)
    assert health.rankme(torch.eye(5)) == pytest.approx(5, abs=1e-6)
    # if all vectors have a large part in common, the effective rank ignores it and RankMe does not
    crossed = torch.cat([torch.eye(5), -torch.eye(5)])
    assert health.effective_rank(crossed + 1000) == pytest.approx(5, abs=1e-2)
    assert health.rankme(crossed + 1000) == pytest.approx(1, abs=0.05)
    assert health.spread(cloud) == pytest.approx(1, abs=0.02)
    assert health.spread(torch.ones(10, 8)) == pytest.approx(0, abs=1e-6)
    assert health.alignment(cloud, cloud) == 0 and health.alignment(cloud, -cloud) == pytest.approx(4, abs=1e-4)
    pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert health.uniformity(pair) == pytest.approx(-4)
    assert health.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-5)


def test_ema_keeps_a_slow_encoder(make_plan: Any) -> None:
    state = train_here(make_plan("ema", ema_decay=0.5, epochs=1))[1]
    model, kept = state[1]["model/backbone.conv1.weight"], state[1]["encoder/conv1.weight"]
    assert not torch.equal(model, kept) and torch.equal(kept, state[1]["ema/conv1.weight"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_resumes_exactly(make_plan: Any, precision: str) -> None:
    import os
    import signal

    whole = train_here(make_plan("whole", precision=precision, epochs=2))
    assert whole[0] is None
    assert all(math.isfinite(row["loss"]) for row in whole[1][2]["rows"])
    untrained = make_plan(precision=precision).objective().backbone.conv1.weight
    assert not torch.equal(whole[1][1]["encoder/conv1.weight"], untrained)
    stopped = make_plan("stopped", precision=precision, epochs=2)
    train_here(stopped, after=lambda bar: os.kill(os.getpid(), signal.SIGTERM) if bar.done == 24 else None)
    resumed = train_here(stopped)
    assert all(torch.equal(t, resumed[1][1][n]) for n, t in whole[1][1].items())


def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="fp16, which needs a GPU"):
        run_stage(tmp_path, precision="fp16", device="cpu")


def test_three_dimensions_train_on_patches(make_plan: Any) -> None:
    error, state = train_here(make_plan("3d", spatial_dims=3, size=[16, 16, 4], epochs=1))
    assert error is None
    assert state[1]["encoder/conv1.weight"].shape[2:] == (3, 3, 3)


def run_stage(
    root: Path,
    name: str = "simclr-all-seed0",
    before: Path | None = None,
    log: Path | None = None,
    labels: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    from pretraining import TINY

    from medssl.core.job import Spec, job
    from medssl.pretrain.options import RunOptions
    from medssl.pretrain.run import run

    prepared = root / "2_prepare" / "ct"
    inputs = (
        write_prepared(root)
        if not prepared.exists()
        else {
            "samples": [str(prepared / "samples.parquet")],
            "volumes": [str(prepared / "volumes.tsv")],
            "keep": str(root / "3_reduce" / "ct" / "all" / "keep.parquet"),
        }
    )
    values = RunOptions(**(TINY | {"epochs": 1, "seed": 0} | options))
    if before is not None:
        inputs = inputs | {"init_run": {part: str(before / f"{part}.safetensors") for part in ("encoder", "parts")}}
    if labels is not None:
        inputs = inputs | {"labels": labels}
    out = root / "4_pretrain" / "ct" / name
    spec = Spec(
        stage="pretrain", name=f"ct/{name}", study="t", root=str(root), seed=0, code="c",
        options=values.model_dump(mode="json"), inputs=inputs, out=str(out),
    )  # fmt: skip
    with job(spec, log_path=log) as work:
        run(work)
    return out


def test_the_stage_leaves_encoder_contract_curve_views_and_a_receipt(tmp_path: Path) -> None:
    from PIL import Image

    from medssl.nn.backbone import build
    from medssl.nn.weights import load_encoder

    out = run_stage(tmp_path)
    contract = Contract.read(out / "contract.json")
    backbone = build(contract.backbone, contract.backbone_options, contract.spatial_dims, contract.in_channels)
    assert load_encoder(out / "encoder.safetensors", backbone).matched == contract.num_tensors
    assert contract.window == Window(low=[-1000.0], high=[1000.0], differs_by_volume=False, rules=["hu"])
    assert contract.learnt is not None and contract.learnt.modalities == {"CT": contract.data.num_volumes}
    assert "parts" not in json.loads((out / "contract.json").read_text()), "it has left none"
    curve = tables.read_tsv(out / "curve.tsv")
    assert list(curve.columns[:9]) == [
        "epoch", "step", "loss", "lr", "images_per_s", "effective_rank", "rankme", "alignment", "uniformity",
    ]  # fmt: skip
    assert curve["step"].tolist() == [1, 2, 3]
    width, height = Image.open(out / "views.png").size
    assert width > 8 * 16 and width == 4 * height, "eight samples, two views"
    recorded = json.loads((out / "receipt.json").read_text())
    files = {"contract.json", "curve.tsv", "embeddings.parquet", "encoder.safetensors", "parts.safetensors", "views.png"}
    assert set(recorded["outputs"]) == files
    features = EMBEDDINGS.read(out / "embeddings.parquet").drop(columns="sample_id").to_numpy()
    assert len(features) == contract.data.num_samples and np.isfinite(features).all() and features.std(axis=0).max() > 0
    assert list((out / "events").glob("events.out.tfevents.*"))
    assert not list((tmp_path / "state" / "pretrain").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("objective", "batch_size", "views"),
    [
        ({"global_contrast": {"partitions": 3, "projector": [16, 8]}}, 12, 2),
        ({"local_contrast": {"variant": "ld", "partitions": 3, "region": 1, "projector": [16, 8]}}, 6, 2),
        ({"global_contrast": {"variant": "gd_minus", "partitions": 3, "projector": [16, 8]}}, 3, 3),
    ],
)
def test_all_views_of_a_batch_of_the_runs_own_size_are_pictured(
    tmp_path: Path, objective: Any, batch_size: int, views: int
) -> None:
    from PIL import Image

    out = run_stage(tmp_path, objective=objective, batch_size=batch_size, max_steps=1)
    width, height = Image.open(out / "views.png").size
    assert width * views == height * min(batch_size, 8), "a column for each sample, a row for each view"


def test_the_contract_declares_the_parts_that_the_run_left(tmp_path: Path) -> None:
    from medssl.nn.weights import read_tensors

    options = {"blocks": 2, "region": 1, "projector": [8, 16]}
    out = run_stage(tmp_path, objective={"local_contrast": options}, max_steps=1)
    assert {name.split(".")[0] for name in read_tensors(out / "parts.safetensors")} == {"decoder"}
    (part,) = Contract.read(out / "contract.json").parts.items()
    assert part == ("decoder", Part(encoder="own", places={"decoder": "decoder"}, required=False))


def test_a_small_healthy_pool_is_pictured_as_it_is_trained(tmp_path: Path) -> None:
    write_prepared(tmp_path, shape=(24, 20, 3), labels=("healthy", "diseased", "diseased"))
    out = run_stage(tmp_path, objective={"sepclr": {"width": 8, "projector": [8, 4]}}, batch_size=4, max_steps=1)
    assert (out / "views.png").is_file()


def test_the_healthy_pool_may_stand_in_a_label_file(tmp_path: Path) -> None:
    """A folder of volumes and a table: samples.parquet itself says no label."""
    write_prepared(tmp_path, shape=(24, 20, 3))
    volumes = tables.read_tsv(tmp_path / "2_prepare" / "ct" / "volumes.tsv")["volume_id"]
    folder = tmp_path / "1_ingest" / "ct" / "labels"
    folder.mkdir(parents=True)
    given = pd.DataFrame({"volume_id": volumes, "index": pd.array([None] * len(volumes), "Int32"), "mask": None})
    given["label"] = ["healthy", *["glaucoma"] * (len(volumes) - 1)]
    tables.write_parquet(folder / "labels.parquet", given)
    receipt(folder, "ingest")
    settings: dict[str, Any] = {"objective": {"sepclr": {"width": 8, "projector": [8, 4]}}, "batch_size": 4, "max_steps": 1}
    with pytest.raises(StudyError, match="of the background 'healthy'"):
        run_stage(tmp_path, **settings)
    out = run_stage(tmp_path, labels={"ct": str(folder / "labels.parquet")}, **settings)
    read = json.loads((out / "receipt.json").read_text())["inputs"]
    assert str(folder / "labels.parquet") in read


def test_an_array_that_was_changed_is_refused(tmp_path: Path) -> None:
    run_stage(tmp_path)
    array = next((tmp_path / "2_prepare" / "ct" / "arrays").glob("*.npy"))
    data = bytearray(array.read_bytes())
    data[-1] ^= 1
    array.write_bytes(bytes(data))
    with pytest.raises(CorruptArtefactError):
        run_stage(tmp_path)


def test_an_arm_that_keeps_nothing_is_reported(tmp_path: Path) -> None:
    write_prepared(tmp_path)
    folder = tmp_path / "3_reduce" / "ct" / "all"
    keep = tables.read_parquet(folder / "keep.parquet")
    tables.write_parquet(folder / "keep.parquet", keep.assign(keep=False))
    receipt(folder, "reduce")
    with pytest.raises(StudyError, match="no samples are left"):
        run_stage(tmp_path)


def test_starting_weights_of_another_shape_are_refused(make_plan: Any, tmp_path: Path) -> None:
    from medssl.nn.weights import save_encoder

    plan = make_plan()
    save_encoder(tmp_path / "w.safetensors", plan.objective().backbone)
    wider = {"resnet18": {"width": 0.25, "stem": "small"}}
    with pytest.raises(StudyError, match="only 20/120 tensors"):
        make_plan(backbone=wider, init_weights=str(tmp_path / "w.safetensors")).objective()


def test_a_chained_run_starts_from_the_encoder_of_the_run_before(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    first = run_stage(tmp_path)
    second = run_stage(tmp_path, "byol-all-seed0", first, objective="byol", init_run="simclr", lr=1e-12)
    before, after = (load_file(out / "encoder.safetensors") for out in (first, second))
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-7) for name in learnt)
    assert json.loads((second / "contract.json").read_text())["init_run"] == "simclr"
    receipt_inputs = json.loads((second / "receipt.json").read_text())["inputs"]
    assert any("simclr-all-seed0/encoder" in name for name in receipt_inputs), receipt_inputs
    with pytest.raises(StudyError, match="only 20/120 tensors"):
        run_stage(tmp_path, "wide-all-seed0", first, backbone={"resnet18": {"width": 0.25, "stem": "small"}}, init_run="simclr")


def test_a_part_of_the_run_before_that_has_no_place_is_refused(tmp_path: Path) -> None:
    from torch import nn

    from medssl.nn.weights import load_parts, part_tensors, save_tensors

    save_tensors(tmp_path / "parts.safetensors", part_tensors({"decoder": nn.Sequential(nn.Linear(3, 2))}))
    longer = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    fresh = longer[1].weight.clone()
    (match,) = load_parts(tmp_path / "parts.safetensors", {"decoder": longer})
    assert str(match) == "2/4 tensors matched" and torch.equal(longer[1].weight, fresh)
    for into, words in (
        ({}, "no place there"),
        ({"decoder": nn.Linear(3, 2)}, "is not there"),
        ({"decoder": nn.Sequential(nn.Linear(2, 2))}, "another shape"),
    ):
        with pytest.raises(StudyError, match=words):
            load_parts(tmp_path / "parts.safetensors", into)


@pytest.mark.full
def test_the_stage_runs_on_two_processes_that_it_starts_itself(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    one, log = run_stage(tmp_path / "one", warmup_frac=0.0), tmp_path / "two.log"
    two = run_stage(tmp_path / "two", devices=2, device="cpu", warmup_frac=0.0, log=log)
    assert "24/24 images" in log.read_text()
    a, b = (tables.read_tsv(out / "curve.tsv")["loss"].tolist() for out in (one, two))
    assert a[0] == pytest.approx(b[0], abs=1e-5)
    assert load_file(one / "encoder.safetensors").keys() == load_file(two / "encoder.safetensors").keys()


@pytest.mark.full
def test_killed_at_fifty_random_steps_a_run_still_ends_the_same(make_plan: Any) -> None:
    import os
    import random
    import signal

    from pretraining import train_forked
    from test_pretrain_resume import same

    whole = train_here(make_plan("whole", epochs=6))[1]
    for trial in range(50):
        at = random.Random(trial).randrange(1, whole[0])
        plan = make_plan(f"stopped{trial}", epochs=6)
        train_forked(plan, lambda pid, done, at=at: os.kill(pid, signal.SIGKILL) if done >= at * 8 else None)
        same(whole, train_here(plan)[1])


def test_a_memory_is_filled_with_what_a_step_sees(make_plan: Any) -> None:
    """Batch norm by the batch, without updates; a fresh network's own statistics would make images look the same."""
    from lightning_fabric import Fabric

    from medssl.core.progress import Bar
    from medssl.pretrain.loop import Loop

    plan = make_plan(cohort=COHORT, objective={"deepcluster_v2": SMALL["deepcluster_v2"]}, batch_size=32)
    run = Loop(Fabric(accelerator="cpu", devices=1), plan, Bar("test", 1, "images", None, None), print, lambda: False)
    before = {name: value.clone() for name, value in run.objective.backbone.state_dict().items()}
    run.begin()
    assert all(torch.equal(value, before[name]) for name, value in run.objective.backbone.state_dict().items())
    batch = run.reader[(0, run.objective.memory_order(0, 32)[32:64])]
    remembered = run.objective.clusters.memory[:, batch.rows].flatten(0, 1)
    seen = {}
    for training in (True, False):
        run.learner.module.train(training)
        with torch.no_grad():
            z = run.learner.module(run.learner.make_views(batch), batch)["z"]
        seen[training] = z.transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(remembered, seen[True], rtol=1e-5, atol=1e-6)
    alike = {
        "remembered": remembered.mean(0).norm(),
        "eval": seen[False].mean(0).norm(),
    }  # of unit vectors: 1 where all are equal
    assert alike["remembered"] < 0.7 < 0.95 < alike["eval"]
