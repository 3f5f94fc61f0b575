"""One batch is one batch, on however many processes it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pretraining import train_world

from medssl.core.errors import NotFiniteError, StudyError

SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"projector": (32, 16)},
    "moco": {"projector": (32, 16), "queue": 96},
    "byol": {"projector": (32, 16), "predictor_hidden": 32},
    "beclr": {"projector": (32, 16), "predictor_hidden": 16, "memory": 160, "clusters": 6, "memory_start": 0.0,
              "memory_ramp": 0.0, "recluster": 0.6, "patch": 4},
    "swav": {"projector": (32, 16), "prototypes": 20, "queue": 64, "queue_start_frac": 0.3, "freeze_prototypes_steps": 1,
             "small_crops": 2, "iterations": 3, "epsilon": 0.2},
    "deepcluster_v2": {"projector": (32, 16), "prototypes": 6, "heads": 2},
    "lejepa": {"projector": (32, 16), "directions": 20, "small_crops": 2},
    "dino": {"hidden": 32, "bottleneck": 16, "prototypes": 6, "small_crops": 2, "koleo_weight": 0.1,
             "freeze_prototypes_frac": 0, "warmup_frac_of_temperature": 1.0},
    "gsimclr": {"projector": (32, 16), "denoiser_epochs": 2},
    "joint_2d3d": {"projector": (32, 16), "prototypes": 6, "heads": 2, "slices": 4, "width": 32, "attention_heads": 2,
                   "layers": 1, "feed_forward": 32, "freeze_prototypes_steps": 1},
    "sepclr": {"width": 8, "projector": (16, 8)},
    "spark": {"constant_patches": "exclude", "masking": "foreground", "drop_path": 0.3},
    "mae": {"drop_path": 0.3, "masking": "foreground"},
    "global_contrast": {"projector": (32, 16)},
    "guided_contrast": {"projector": (32, 16), "near_label": True, "near_place": 0.2, "class_share": 0.1, "hardness": 0.5,
                        "spurious": ["sex", "age"]},
    "hydra": {"projector": (32, 16), "embedding": 8, "label": True, "gate": "stochastic"},
    "table_contrast": {"projector": (32, 16), "table_width": 16, "reconstruct_weight": 0.5},
    "local_contrast": {"variant": "ld", "projector": (8, 16)},
}  # fmt: skip
COHORT = {"volumes": 9, "shape": (20, 20, 8), "labels": ("healthy", "diseased")}
MANY = COHORT | {"volumes": 72, "shape": (20, 20, 1)}
STEPS = {"max_steps": 3, "batch_size": 64, "warmup_frac": 0.0, "optimizer": "sgd", "lr": 0.05, "weight_decay": 0.0,
         "views": {"gamma": 1, "blur_prob": 0, "noise": 0}}  # fmt: skip


def cohort_of(objective: str) -> dict[str, Any]:
    """72 slices of nine volumes; of as many patients for an objective whose batch holds a patient once."""
    return MANY if objective == "table_contrast" else COHORT


def agree(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Losses of all steps, all weights, statistics, queues and memories of two runs are the same to rounding."""
    for row_a, row_b in zip(a[2]["rows"], b[2]["rows"], strict=True):
        assert row_a["loss"] == pytest.approx(row_b["loss"], rel=tolerance, abs=tolerance)
        assert row_a["grad_norm"] == pytest.approx(row_b["grad_norm"], rel=1e-3)
    for name, x in a[1].items():
        if name.startswith("model/") and x.is_floating_point():
            y = b[1][name]
            apart = (x - y).abs().max().item()
            assert apart <= tolerance * max(1.0, x.abs().max().item()), (name, apart)


@pytest.mark.parametrize("objective", sorted(SMALL))
def test_the_number_of_processes_does_not_change_a_run(make_plan: Any, objective: str, request: pytest.FixtureRequest) -> None:
    options = {"objective": {objective: SMALL[objective]}, **STEPS}
    full = request.config.getoption("--full")
    if not full:
        options |= {"max_steps": 2, "batch_size": 32}
    results = {}
    for world in (1, 2, 4) if full else (1, 2):
        error, results[world] = train_world(make_plan(str(world), cohort_of(objective), **options), world, precision="double")
        assert error is None
        agree(results[1], results[world], 1e-9)


@pytest.mark.parametrize("objective", ["dino", "mae"])
def test_what_a_transformer_draws_for_a_step_is_the_same_for_the_whole_batch(make_plan: Any, objective: str) -> None:
    transformer = {"vit": {"width": 24, "blocks": 2, "heads": 2, "patch": 4, "rescale": 2.0}}
    options = {"objective": {objective: SMALL[objective]}, **STEPS, "backbone": transformer, "max_steps": 2, "batch_size": 32}
    whole, *others = (
        train_world(make_plan(f"{world}{parts}", COHORT, **options, accumulate=parts), world, precision="double")
        for world, parts in ((1, 1), (2, 1), (1, 2))
    )
    assert whole[0] is None
    for error, result in others:
        assert error is None
        agree(whole[1], result, 1e-9)


def test_in_single_precision_loss_and_statistics_agree(make_plan: Any) -> None:
    # Gradients agree only to the rounding that moves activations across ReLU's kink, as they do between one process and float64.
    options = {"objective": {"simclr": SMALL["simclr"]}, **STEPS, "max_steps": 1, "lr": 1.0, "momentum": 0.0}
    one, many = (train_world(make_plan(str(world), COHORT, **options), world)[1] for world in (1, 4))
    assert one[2]["rows"][0]["loss"] == pytest.approx(many[2]["rows"][0]["loss"], abs=1e-5)
    for name in ("backbone.bn1.running_mean", "backbone.layer4.1.bn2.running_var", "projector.0.weight"):
        assert (one[1]["model/" + name] - many[1]["model/" + name]).abs().max().item() < 2e-4


def test_whitening_and_volume_exclusion_see_the_whole_batch(make_plan: Any) -> None:
    options = {"projector": (32, 16), "whitening_groups": 4, "exclude_same_volume": True}
    plans = [make_plan(str(world), COHORT, objective={"simclr": options}, **STEPS) for world in (1, 2)]
    (error, one), (_, many) = (train_world(plan, 1 + at, precision="double") for at, plan in enumerate(plans))
    assert error is None
    agree(one, many, 1e-9)


def test_a_batch_that_does_not_divide_is_refused(make_plan: Any) -> None:
    with pytest.raises(StudyError, match="cannot be divided by 4"):
        make_plan(cohort=COHORT, batch_size=10).batch_size(4, 1)


def test_what_stops_the_first_process_while_saving_stops_all_with_its_sentence(make_plan: Any, tmp_path: Path) -> None:
    from medssl.pretrain.loop import Loop

    def save_broken(self: Any) -> None:
        if self.fabric.is_global_zero:  # the others have nothing to say against this state
            next(self.objective.parameters()).data.fill_(float("nan"))
        if self.history.step == 1:
            try:
                self.save()
            except NotFiniteError as error:
                (tmp_path / f"rank{self.fabric.global_rank}").write_text(str(error))
                raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "save_or_stop", save_broken)
        error, state = train_world(make_plan(cohort=COHORT, batch_size=32), 2)
    assert isinstance(error, NotFiniteError) and state is None
    assert [(tmp_path / f"rank{number}").read_text() for number in range(2)] == [str(error)] * 2
