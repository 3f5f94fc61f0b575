"""SparK's laws: what is seen, what is asked, and what the loss makes of the answer."""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from pretraining import made_batch, made_samples, train_forked, train_here
from torch import Tensor

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.finetune.segmenter import Segmenter
from medssl.nn.backbone import build
from medssl.nn.sparse import join, split
from medssl.nn.weights import part_tensors, place_parts
from medssl.pretrain.masked import normalised_patches
from medssl.pretrain.objectives.spark import SparK

SMALL_STEM = {"width": 0.125, "stem": "small"}
ROWS = [0, 1, 4, 9, 13, 17, 21, 30]
BATCH = made_batch(made_samples(), ROWS, 2)


def made(name: str = "resnet18", dims: int = 2, options: dict[str, Any] = SMALL_STEM, channels: int = 1, **of_spark: Any) -> Any:
    torch.manual_seed(0)
    return SparK(build(name, options, dims, channels), made_samples(), **of_spark)


def asked(objective: Any, images: Tensor, rows: list[int] = ROWS, epoch: int = 0) -> dict[str, Tensor]:
    batch = made_batch(made_samples(), rows, images.ndim - 2)
    batch.epoch = epoch
    return objective([images], batch)


def air_and_anatomy(side: int = 32) -> Tensor:
    """Eight images whose upper half is exactly black."""
    images = torch.rand(8, 1, side, side, generator=torch.Generator().manual_seed(3))
    images[:, :, : side // 2] = 0
    return images


def hidden_pixels(outputs: dict[str, Tensor], patch: int) -> Tensor:
    mask = outputs["active"]
    for axis in range(1, mask.ndim):
        mask = mask.repeat_interleave(patch, axis)
    return ~mask[:, None]


def test_one_visible_position_is_too_few_for_an_instance_norm() -> None:
    narrow = {"features": (4, 4, 8, 8, 8, 4)}
    objective = made("unet", options=narrow, mask_ratio=0.75)
    with pytest.raises(StudyError, match=r"Raise pretrain\.size, or lower spark\.mask_ratio"):
        objective.crops((32, 32))
    for fine, size in ((objective, 48), (made("unet", options=narrow, mask_ratio=0.5), 32)):
        assert fine.crops((size, size))
        asked(fine, torch.rand(8, 1, size, size))
    batch_norm = made("unet", options=narrow | {"norm": "batch"}, mask_ratio=0.75)
    assert batch_norm.crops((32, 32))


@pytest.mark.parametrize(
    ("name", "dims", "options"),
    [("resnet18", 2, SMALL_STEM), ("resnet50", 2, SMALL_STEM), ("convnext_tiny", 2, {"width": 0.05}),
     ("unet", 3, {"features": (4, 4, 8, 8, 8, 4)}), ("resenc", 2, {"features": (4, 8, 8), "blocks": (1, 1, 1)})],
)  # fmt: skip
def test_no_prediction_depends_on_a_hidden_pixel(name: str, dims: int, options: dict[str, Any]) -> None:
    objective = made(name, dims, options).eval()
    patch = objective.patch[0]
    images = torch.rand(2, 1, *[2 * patch] * dims)
    before = asked(objective, images, ROWS[:2])
    other = torch.where(hidden_pixels(before, patch), torch.rand_like(images), images)
    after = asked(objective, other, ROWS[:2])
    assert torch.equal(before["active"], after["active"])
    assert torch.equal(before["prediction"], after["prediction"])
    assert torch.equal(before["feature_a"], after["feature_a"])


def test_the_loss_is_that_of_a_slow_reference_over_masked_patches() -> None:
    objective = made(channels=2)
    outputs = asked(objective, torch.rand(8, 2, 32, 16))
    outputs["prediction"] = torch.randn(8, 2, 32, 16)
    total, count = 0.0, 0
    for image, prediction, active in zip(outputs["images"], outputs["prediction"], outputs["active"], strict=True):
        for row in range(4):
            for column in range(2):
                if not active[row, column]:
                    where = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                    target = image[where].double()
                    target = (target - target.mean()) / math.sqrt(target.var().item() + 1e-6)
                    total, count = total + (prediction[where].double() - target).square().mean().item(), count + 1
    assert objective.loss(outputs, BATCH).value.item() == pytest.approx(total / count, rel=1e-5)


def test_predictions_of_visible_patches_do_not_count() -> None:
    objective = made()
    outputs = asked(objective, torch.rand(8, 1, 32, 32))
    before = objective.loss(outputs, BATCH).value
    hidden = hidden_pixels(outputs, 8)
    outputs["prediction"] = torch.where(hidden, outputs["prediction"], outputs["prediction"] + 100)
    assert torch.equal(before, objective.loss(outputs, BATCH).value)


def test_saying_zero_costs_one_and_the_target_itself_nothing() -> None:
    objective = made()
    images = torch.rand(8, 1, 32, 32, dtype=torch.float64)
    outputs = asked(objective, images.float()) | {"images": images}
    zero = objective.loss(outputs | {"prediction": torch.zeros_like(images)}, BATCH).value.item()
    variance = split(images, (4, 4)).flatten(2).var(2)[~outputs["active"].flatten(1)]
    assert zero == pytest.approx((63 / 64 * variance / (variance + 1e-6)).mean().item(), rel=1e-9)
    assert zero == pytest.approx(1, abs=0.02)
    target = normalised_patches(split(images, (4, 4)).flatten(2))
    exact = join(target.reshape(8, 16, 8, 8, 1), (4, 4))
    assert objective.loss(outputs | {"prediction": exact}, BATCH).value.item() == pytest.approx(0, abs=1e-20)


def test_each_image_shows_the_asked_share_and_the_mask_is_its_own() -> None:
    objective = made(mask_ratio=0.6)
    images = torch.rand(8, 1, 56, 56)
    active = asked(objective, images)["active"]
    assert active.flatten(1).sum(1).tolist() == [20] * 8  # of 49, as in the paper
    assert len({tuple(row.flatten().tolist()) for row in active}) == 8
    assert torch.equal(active[4:], asked(objective, images[4:], ROWS[4:])["active"])  # whatever the batch
    assert not torch.equal(active, asked(objective, images, epoch=1)["active"])
    objective.start_epoch(0, 5)
    assert not torch.equal(active, asked(objective, images)["active"])


def test_foreground_masking_holds_the_ratio_in_anatomy_and_air_alike() -> None:
    objective = made(masking="foreground", mask_ratio=0.5)
    active = asked(objective, air_and_anatomy())["active"]
    assert active[:, :2].flatten(1).sum(1).tolist() == [4] * 8
    assert active[:, 2:].flatten(1).sum(1).tolist() == [4] * 8
    assert len({tuple(row.flatten().tolist()) for row in active}) > 1
    mostly_air = air_and_anatomy()
    mostly_air[:, :, :, 8:] = 0
    active = asked(objective, mostly_air)["active"]
    assert active[:, 2:, 0].sum(1).tolist() == [1] * 8
    assert active.flatten(1).sum(1).tolist() == [8] * 8


def test_constant_patches_are_reported_apart_and_left_out_if_asked() -> None:
    images = air_and_anatomy()
    kept, left_out = made(), made(constant_patches="exclude")
    outputs = asked(kept, images)
    a, b = kept.loss(outputs, BATCH), left_out.loss(outputs, BATCH)
    share = float(a.parts["constant_frac"])
    assert share == pytest.approx((~outputs["active"][:, :2]).sum().item() / (~outputs["active"]).sum().item())
    assert b.value.item() == pytest.approx(float(a.parts["loss_varied"]), rel=1e-6)
    mixed = share * float(a.parts["loss_constant"]) + (1 - share) * float(a.parts["loss_varied"])
    assert a.value.item() == pytest.approx(mixed, rel=1e-6)


def test_air_stays_constant_under_the_studys_own_views(make_plan: Any) -> None:
    """Unpredictable noise would make air varied, and the options about constant patches would do nothing."""
    assert all(not crop.noise for crop in made().crops((32, 32)))


def test_of_several_windows_the_most_varied_says_whether_a_patch_is_constant() -> None:
    torch.manual_seed(0)
    backbone = build("resnet18", {"width": 0.125, "stem": "small"}, 2, 2)
    objective = plugins.find("objective", "spark").load()(backbone, made_samples(), patch=(8,))
    images = torch.stack([torch.zeros(2, 16, 16), torch.full((2, 16, 16), 0.4)], dim=1)
    images[:, 1, 8:] = torch.rand(2, 8, 16)
    assert (objective._deviation(images) < 1e-3).tolist() == [[True, True, False, False]] * 2


def test_a_smaller_patch_leaves_deeper_stages_as_they_were(make_plan: Any) -> None:
    wide = {"resnet18": {"width": 0.125}}
    plan = make_plan(objective={"spark": {"patch": [8]}}, backbone=wide, size=[16], max_steps=2)
    before = plan.objective()
    assert before.depth == 2 and before.backbone.strides == (4, 8, 16, 32)
    start = {name: tensor.clone() for name, tensor in before.backbone.state_dict().items()}
    error, (_, tensors, _) = train_here(plan)
    assert error is None
    for name, tensor in start.items():
        if not name.endswith("num_batches_tracked"):
            same = torch.equal(tensor, tensors["encoder/" + name])
            assert same == name.startswith(("layer3", "layer4")), name


def test_a_patch_may_be_flat_for_thin_volumes() -> None:
    objective = made("resnet18", 3, SMALL_STEM, patch=(8, 8, 4))
    assert objective.depth == 3  # strides 1, 2, 4
    outputs = asked(objective, torch.rand(2, 1, 16, 16, 4), ROWS[:2])
    assert outputs["active"].shape == (2, 2, 2, 1)
    assert outputs["prediction"].shape == (2, 1, 16, 16, 4)


def test_sizes_and_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StudyError, match=r"not a multiple of the backbone's first stride 4"):
        made(options={"width": 0.125}, patch=(6,))
    with pytest.raises(StudyError, match="has 3 numbers"):
        made(patch=(8, 8, 8))
    with pytest.raises(StudyError, match="two or more whole patches"):
        made().crops((20, 16))
    with pytest.raises(StudyError, match="two or more whole patches"):
        made().crops((8, 8))
    with pytest.raises(StudyError, match="mask_ratio"):
        made(mask_ratio=1.0)
    with pytest.raises(StudyError, match="mixes whole slices"):
        made("slicewise", 3, {"slices_options": SMALL_STEM, "width": 32, "layers": 1, "heads": 2, "feed_forward": 32})
    with pytest.raises(StudyError, match="decoder begins with"):
        made("unet", 2, {"features": (4, 4, 8, 8, 8, 4)}, patch=(4,))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"features": (4, 4, 8, 8, 8, 4)}),
        ("resenc", {"features": (4, 8, 8), "blocks": (1, 1, 1)}),
        ("resnet18", SMALL_STEM),
    ],
)  # fmt: skip
def test_the_decoder_that_is_kept_is_that_of_the_segmentation(name: str, options: dict[str, Any]) -> None:
    objective = made(name, 2, options, decoder="unet" if name == "resnet18" else "auto")
    outputs = asked(objective, torch.rand(8, 1, 32, 32))
    objective.loss(outputs, BATCH).value.backward()
    for parameter_name, p in objective.named_parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all()), parameter_name
        # nnU-Net's branches begin with weight 0
        assert parameter_name.startswith("backbone.") or bool(p.grad.any()), parameter_name
    network = Segmenter(build(name, options, 2, 1), 3)
    assert place_parts(part_tensors(objective.parts()), {"decoder": network.decoder}, "test")[0].unmatched == ()
    assert all(torch.equal(a, b) for a, b in zip(network.decoder.parameters(), objective.decoder.parameters(), strict=True))
    assert made(options=SMALL_STEM).parts() == {}


def test_a_decoder_inside_the_backbone_stays_out_of_it() -> None:
    objective = made("unet", 2, {"features": (4, 4, 8, 8, 8, 4), "decoder": True})
    still = [name for name, p in objective.named_parameters() if not p.requires_grad]
    assert still and all(name.startswith("backbone.upcat_") for name in still)


def test_parts_of_a_batch_have_the_gradient_of_the_whole(make_plan: Any) -> None:
    # A U-Net with instance norm: batch norm would be over each part.
    options = {"backbone": {"unet": {"features": (4, 4, 8, 8, 8, 4)}}, "size": [32], "max_steps": 1,
               "optimizer": "sgd", "lr": 1.0, "warmup_frac": 0.0, "weight_decay": 0.0, "momentum": 0.0}  # fmt: skip
    for rule in ("keep", "exclude"):
        chosen = {"objective": {"spark": {"constant_patches": rule}}, **options}
        one, two = (train_here(make_plan(f"{rule}{a}", accumulate=a, **chosen), precision="double")[1] for a in (1, 4))
        for name, tensor in one[1].items():
            if name.startswith("encoder/"):
                assert torch.allclose(tensor, two[1][name], atol=1e-9), (rule, name)


def test_a_killed_run_ends_like_one_that_was_not(make_plan: Any) -> None:
    chosen = {"objective": "spark", "optimizer": "lamb", "final_weight_decay": 0.2, "seed": 3, "max_steps": 6}
    whole = train_here(make_plan("whole", **chosen))[1]
    plan = make_plan("killed", **chosen)
    status = train_forked(plan, lambda pid, done: os.kill(pid, signal.SIGKILL) if done >= 24 else None)
    assert os.WIFSIGNALED(status)
    error, resumed = train_here(plan)
    assert error is None
    assert [name for name in whole[1] if not torch.equal(whole[1][name], resumed[1][name])] == []


def test_pictures_show_input_mask_and_prediction() -> None:
    objective = made()
    outputs = asked(objective, torch.rand(8, 1, 32, 32))
    image, seen, told = objective.pictures(outputs)
    hidden = hidden_pixels(outputs, 8)
    assert torch.equal(image, outputs["images"])
    assert bool((seen[hidden] == 0.5).all()) and torch.equal(seen[~hidden], image[~hidden])
    assert torch.equal(told[~hidden], image[~hidden]) and not torch.equal(told[hidden], image[hidden])
    target = normalised_patches(split(image, (4, 4)).flatten(2)).reshape(8, 16, 8, 8, 1)
    exact = objective.pictures(outputs | {"prediction": join(target, (4, 4))})[2]
    assert torch.allclose(exact, image, atol=1e-5)


def test_each_epoch_leaves_one_picture_with_a_column_for_each_sample(make_plan: Any) -> None:
    drawn: dict[int, np.ndarray] = {}
    error, _ = train_here(make_plan(objective="spark", epochs=3), keep_picture=drawn.__setitem__)
    assert error is None
    assert sorted(drawn) == [0, 1, 2]
    assert drawn[0].shape == (3 * 162, 8 * 162) and drawn[0].dtype == np.uint8
    error, _ = train_here(make_plan("other", epochs=1), keep_picture=drawn.__setitem__)
    assert error is None and len(drawn) == 3  # SimCLR draws nothing


def test_half_of_the_patches_are_seen_on_average_everywhere() -> None:
    objective = made(mask_ratio=0.5)
    images = torch.rand(8, 1, 32, 32)
    share = torch.stack([asked(objective.eval(), images, epoch=e)["active"].float().mean(0) for e in range(60)]).mean(0)
    assert np.abs(share.numpy() - 0.5).max() < 0.15
