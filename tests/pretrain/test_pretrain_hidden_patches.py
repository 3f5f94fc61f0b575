"""The patch term of DINO: which patches the student does not see, and that the loss is of exactly these."""

from __future__ import annotations

import copy
import math
import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from pretraining import made_batch, made_samples, step, train_here, train_world
from test_pretrain_world import COHORT, STEPS, agree
from torch import Tensor, nn

from medssl.core import plugins
from medssl.nn.backbone import build
from medssl.nn.momentum import cosine_momentum
from medssl.nn.sparse import join
from medssl.pretrain.options import TrainingOptions

ROWS = [0, 1, 4, 9, 13, 17, 21, 30]
BATCH = made_batch(made_samples(), ROWS, 2)
WIDE: dict[str, Any] = {"width": 36, "blocks": 2, "heads": 3, "patch": 8}
OPTIONS: dict[str, Any] = {"hidden": 16, "bottleneck": 8, "prototypes": 4, "small_crops": 2, "patch_weight": 0.5}
GRIDS = {2: (6, 10), 3: (3, 4, 5)}
"""Different numbers of patches along each axis."""


def made(dims: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    backbone = build("vit", plugins.find("backbone", "vit").check(WIDE), dims, 1)
    plugin = plugins.find("objective", "dino")
    return plugin.load()(backbone, made_samples(), **plugin.check(OPTIONS | options))


def places(dims: int) -> Tensor:
    """Images in which every patch has its own flat number as value."""
    count = math.prod(GRIDS[dims])
    blocks = torch.arange(count).float().view(1, count, *[1] * dims, 1).expand(8, count, *[8] * dims, 1)
    return join(blocks, GRIDS[dims])


@pytest.mark.parametrize("dims", [2, 3])
def test_half_of_the_large_crops_hide_patches_in_even_shares(dims: int) -> None:
    objective, count = made(dims), math.prod(GRIDS[dims])
    hidden = objective.hidden(places(dims), BATCH)
    of_crops = hidden.of_crops.view(2, 8, count)
    assert int(of_crops.any(2).sum()) == 8 and bool((of_crops.any(2).sum(0) == 1).all())  # of 16, one of each image
    shares = hidden.mask.sum(1).sort().values / count
    edges = 0.1 + 0.4 * np.arange(9) / 8
    assert all(edges[n] - 1 / count <= share <= edges[n + 1] for n, share in enumerate(shares.tolist()))
    objective.start_epoch(0, 1)
    assert not torch.equal(objective.hidden(places(dims), BATCH).mask, hidden.mask)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_of_exactly_the_patches_that_the_student_does_not_see(dims: int) -> None:
    """Tokens keep their patch's number through the network, once branches and norm are off."""
    objective, images = made(dims), places(dims)
    for network in (objective.backbone, objective.teacher[0]):
        network.norm = nn.Identity()
        network.patch_embed.proj.weight.data.zero_()
        network.patch_embed.proj.weight.data[0] = 1 / 8**dims
        for block in network.blocks:
            block.ls1.gamma.data.zero_()
            block.ls2.gamma.data.zero_()
    objective.token.data.fill_(-1.0)
    student: list[Tensor] = []
    teacher: list[Tensor] = []
    objective.patch_head.register_forward_pre_hook(lambda _, inputs: student.append(inputs[0][:, 0]))
    objective.teacher[2].register_forward_pre_hook(lambda _, inputs: teacher.append(inputs[0][:, 0]))
    small = [torch.rand(8, 1, *[16] * dims) for _ in range(2)]
    outputs = objective([images, images, *small], BATCH)
    hidden, counted = objective.hidden(images, BATCH), outputs["counted"]
    seen = teacher[0].view(counted.shape)
    for image in range(8):
        wanted = hidden.mask[image].nonzero()[:, 0].tolist()
        assert sorted(round(value) for value in seen[image][counted[image]].tolist()) == wanted
    assert bool((student[0].view(counted.shape)[counted] == -1).all())
    assert bool((student[0].view(counted.shape)[~counted] >= 0).all())
    base = objective.loss(outputs, BATCH).value
    for chosen, same in ((~counted, True), (counted, False)):
        moved = outputs["patch_scores"].detach() + chosen[:, :, None] * torch.arange(4.0)
        assert torch.equal(objective.loss(outputs | {"patch_scores": moved}, BATCH).value, base) == same


def test_the_term_is_the_mean_inside_an_image_then_over_images() -> None:
    objective = made(teacher_temperature=(0.04, 0.08), warmup_frac_of_temperature=0.5, temperature=0.2)
    objective.before_step(0.25, 3)
    objective.patch_centre.copy_(torch.tensor([0.3, -0.2, 0.1, 0.0]))
    draw = torch.Generator().manual_seed(0)
    scores, wanted = (torch.rand(3, 5, 4, generator=draw) * 2 - 1 for _ in range(2))
    counted = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    of_images = []
    for n in range(3):
        of_patches = []
        for place in range(5):
            if counted[n, place]:
                target = torch.softmax((wanted[n, place] - objective.patch_centre) / 0.06, 0)
                of_patches.append(-float((target * torch.log_softmax(scores[n, place] / 0.2, 0)).sum()))
        of_images.append(np.mean(of_patches))
    outputs = {"patch_scores": scores, "patch_wanted": wanted, "counted": counted}
    whole = {"scores": torch.zeros(3, 4, 4), "wanted": torch.zeros(3, 2, 4), **outputs}
    loss = objective.loss(whole, BATCH)
    assert float(loss.parts["patch_loss"]) == pytest.approx(np.mean(of_images), rel=1e-5)
    assert loss.value.item() == pytest.approx(math.log(4) + 0.5 * np.mean(of_images), rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_teacher_sees_all_takes_no_gradient_and_follows_bit_by_bit(dims: int) -> None:
    samples, objective = made_samples(), made(dims, momentum=0.9, centre_momentum=0.8)
    objective.before_step(0.25, 4)
    batch, before = made_batch(samples, ROWS, dims, side=32), copy.deepcopy(objective.teacher)
    _, outputs = step(objective, batch, (32,) * dims, samples)
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in trained) and any(p is objective.token for p in trained)
    for parameter in trained:
        parameter.data += 0.1
    objective.after_step({name: value.detach() for name, value in outputs.items()}, batch, 0.25)
    m = cosine_momentum(0.9, 0.25)
    student = [*objective.backbone.parameters(), *objective.head.parameters(), *objective.patch_head.parameters()]
    for new, old, followed in zip(objective.teacher.parameters(), before.parameters(), student, strict=True):
        assert torch.equal(new, old.lerp(followed, 1 - m))
    wanted = outputs["patch_wanted"][outputs["counted"]].mean(0)
    assert torch.allclose(objective.patch_centre, 0.2 * wanted, atol=1e-6)


@pytest.mark.parametrize("objective", ["dino", "lejepa"])
def test_the_student_alone_skips_branches_of_each_crop_by_sample(objective: str) -> None:
    plugin = plugins.find("objective", objective)
    chosen = {key: value for key, value in OPTIONS.items() if key in plugin.options.model_fields and key != "patch_weight"}
    torch.manual_seed(0)
    backbone = build("vit", plugins.find("backbone", "vit").check(WIDE | {"layer_scale": 1.0}), 2, 1)
    made_of = plugin.load()(backbone, made_samples(), **plugin.check(chosen | {"drop_path": 0.5}))
    views = [torch.rand(8, 1, 32, 32) for _ in range(4)]
    last = made_of.backbone.blocks[1].ls2
    seen: list[Tensor] = []
    last.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    made_of(views, BATCH)
    skipped = torch.cat([(branch == 0).flatten(1).all(1) for branch in seen]).view(4, 8)
    assert 4 < int(skipped.sum()) < 28  # about half
    assert len({tuple(row) for row in skipped.tolist()}) == 4  # each crop by its own draw
    order = [3, 0, 5, 1]
    seen.clear()
    some = made_batch(made_samples(), [ROWS[n] for n in order], 2)
    made_of([view[order] for view in views], some)
    again = torch.cat([(branch == 0).flatten(1).all(1) for branch in seen]).view(4, 4)
    assert torch.equal(again, skipped[:, order])  # by sample and crop, wherever they lie
    if objective == "dino":
        branches: list[Tensor] = []
        made_of.teacher[0].blocks[1].ls2.register_forward_hook(lambda _, __, out: branches.append(out))
        made_of(views, BATCH)
        assert len(branches) == 1 and not bool((branches[0] == 0).flatten(1).all(1).any())


TINY = {"backbone": {"vit": {"width": 24, "blocks": 2, "heads": 2, "patch": 4, "layer_scale": 1.0}}}


@pytest.mark.parametrize(
    "objective",
    [
        {"dino": OPTIONS | {"drop_path": 0.3, "warmup_frac_of_temperature": 1.0}},
        {"lejepa": {"projector": (32, 16), "drop_path": 0.3}},
    ],
)
def test_neither_processes_nor_parts_nor_a_stop_change_a_run(make_plan: Any, objective: dict[str, Any]) -> None:
    options = {"objective": objective, **TINY, **STEPS, "max_steps": 2, "batch_size": 16}
    error, whole = train_here(make_plan("whole", COHORT, **options), precision="double")
    assert error is None
    error, ranks = train_world(make_plan("ranks", COHORT, **options), 2, precision="double")
    assert error is None
    agree(whole, ranks, 1e-9)
    if "dino" in objective:  # the projector of LeJEPA normalises each part by itself
        error, parts = train_here(make_plan("parts", COHORT, accumulate=2, **options), precision="double")
        assert error is None
        agree(whole, parts, 1e-9)

    plan = make_plan("stopped", COHORT, checkpoint_every_s=60.0, **options)
    stop = lambda bar: os.kill(os.getpid(), signal.SIGTERM) if bar.done == 16 else None  # noqa: E731
    error, stopped = train_here(plan, after=stop, precision="double")
    assert error is not None and error.exit_code == 75 and stopped[0] < 2
    resumed = train_here(plan, precision="double")[1]
    assert [name for name, tensor in whole[1].items() if not torch.equal(tensor, resumed[1][name])] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone": "vit", "size": [225]}, r"size \[225\] cuts the patches of the backbone vit, .* 16 pixels. .*: \[224\]"),
        ({"backbone": "vit", "spatial_dims": 3, "size": [100, 100, 33]}, r"8 pixels. .*: \[96, 96, 32\]"),
        ({"backbone": {"vit": {"patch": 14}}, "size": [28, 40]}, r"14 pixels. .*: \[28, 42\]"),
        (
            {"backbone": {"slicewise": {"slices": "vit"}}, "spatial_dims": 3, "size": [30, 32, 5]},
            r"slicewise around vit, .* 16 pixels. .*: \[32, 32, 5\]",
        ),
    ],
)
def test_a_size_that_cuts_patches_is_refused_before_work(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingOptions(**options)
    for name in ("resnet18", {"vit": {"patch": 25}}):
        TrainingOptions(backbone=name, size=[225])


def test_a_network_that_takes_no_masks_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"patch_weight of .* dino needs the backbone vit, got resnet18: convolutions"):
        TrainingOptions(objective={"dino": {"patch_weight": 1.0}})
    TrainingOptions(objective={"dino": {"patch_weight": 1.0}}, backbone="vit")
    TrainingOptions(objective="dino")


@pytest.mark.parametrize("objective", ["dino", "lejepa", "spark"])
def test_a_network_without_residual_branches_is_refused_where_they_are_to_be_skipped(objective: str) -> None:
    with pytest.raises(ValueError, match=rf"drop_path of the objective {objective} needs .*resnet18.*, got unet: there are no"):
        TrainingOptions(objective={objective: {"drop_path": 0.2}}, backbone="unet")
    TrainingOptions(objective={objective: {"drop_path": 0.2}})
    TrainingOptions(objective=objective, backbone="unet")
