"""A run that continues from weights: rates that fall from block to block, files under their released names, and the example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pretraining import TINY, TRANSFORMER, made_samples
from pydantic import ValidationError
from safetensors.torch import save_file

from medssl.nn.backbone import build
from medssl.nn.stepping import one_device
from medssl.pretrain.learner import Learner
from medssl.pretrain.options import TrainingOptions
from medssl.pretrain.plan import Plan
from medssl.study.dag import Dag
from medssl.study.file import load_study

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "examples" / "continue_dinov3.yaml"
BLOCKS = 2


def learner(folder: Path, **options: Any) -> Learner:
    import torch

    weights = folder / "start.safetensors"
    save_file(build("vit", TRANSFORMER, 2, 1).state_dict(), weights)
    given = TrainingOptions(
        **TINY | {"objective": "dino", "backbone": {"vit": TRANSFORMER}, "init_weights": str(weights), "lr": 0.4} | options
    )
    return Learner(one_device(torch.device("cpu"), "fp32"), Plan(given, 0, made_samples(), folder))


def test_rates_fall_block_by_block_and_the_patches_have_a_share_of_theirs(tmp_path: Path) -> None:
    made = learner(tmp_path, layer_decay=0.9, stem_lr_frac=0.2, warmup_frac=0.0)
    made.set_schedule(0, 10)
    rate = {id(p): group["lr"] for group in made.optimizer.param_groups for p in group["params"]}
    seen = set()
    for name, parameter in made.objective.named_parameters():
        if not parameter.requires_grad:
            continue
        parts, share = name.split("."), 1.0
        if parts[0] == "backbone":
            depth = BLOCKS - int(parts[2]) if parts[1] == "blocks" else 1 if parts[1] == "norm" else BLOCKS + 1
            share = 0.9**depth * (0.2 if depth == BLOCKS + 1 else 1)
        assert rate[id(parameter)] == pytest.approx(0.4 * share), name
        seen.add(share)
    assert len(seen) == BLOCKS + 2


def test_without_them_there_are_the_two_groups_of_before(tmp_path: Path) -> None:
    groups = learner(tmp_path).optimizer.param_groups
    assert [(group["decays"], group["share"]) for group in groups] == [(True, 1.0), (False, 1.0)]


@pytest.mark.parametrize("option", ["layer_decay", "stem_lr_frac"])
def test_they_are_for_weights_that_are_there(option: str) -> None:
    with pytest.raises(ValidationError, match=r"this one begins at random\. Set both to 1, or give init_weights or init_run"):
        TrainingOptions(**{option: 0.5})
    TrainingOptions(**{option: 0.5}, init_run="first")


def test_the_example_compares_scratch_the_weights_and_the_run_from_them() -> None:
    study = load_study(yaml.safe_load(EXAMPLE.read_text()), [str(EXAMPLE)])
    (run,) = study.pretrain.values()
    for task in study.finetune.values():
        assert task.scratch and set(task.weights.values()) == {run.init_weights}, "one file, as it is and continued"
        assert len(Dag(study).runs_for(task)) == 1
    assert (run.layer_decay, run.stem_lr_frac) == (0.9, 0.2)
    # the options of the backbone are those of the released network, and it is the same in all arms
    (name, options) = run.backbone.name, run.backbone.options
    assert name == "vit" and options["size"] == "small" and (options["patch"], options["registers"]) == (16, 4)
