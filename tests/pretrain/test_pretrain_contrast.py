"""Global and local contrast: the losses equal slow references, partitions hold all slices, decoders are handed on."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.core.rng import rng
from medssl.pretrain.objectives.global_contrast import partition_contrast
from medssl.pretrain.objectives.local_contrast import region_contrast
from medssl.pretrain.partitions import next_in_partition, partition_batches, partitions_of
from medssl.pretrain.regions import NEIGHBOURS_2D, Regions, corners_of

TEMPERATURE = 0.2


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def term(anchor: Tensor, positive: Tensor, negatives: list[Tensor]) -> float:
    """Equation 1 as it is written."""
    attracted = math.exp(float(anchor @ positive) / TEMPERATURE)
    return -math.log(attracted / (attracted + sum(math.exp(float(anchor @ other) / TEMPERATURE) for other in negatives)))


# Partitions


@pytest.mark.parametrize("slices", [1, 3, 4, 10, 17])
def test_every_slice_has_a_partition_in_order_and_their_sizes_differ_by_one(slices: int) -> None:
    found = partitions_of(made_samples(2, slices), 4, "index").reshape(2, slices)
    assert (found[0] == found[1]).all() and (np.diff(found[0]) >= 0).all() and found.max() < 4
    sizes = np.bincount(found[0], minlength=4)
    assert sizes.max() - sizes.min() <= 1


def test_partitions_by_position_follow_millimetres_and_not_the_number_of_the_slice() -> None:
    samples = made_samples(2, 8)
    shifted = replace(samples, position_mm=np.concatenate([np.arange(8), np.arange(8) + 4.0]).astype(np.float32))
    found = partitions_of(shifted, 2, "position_mm")
    assert found.tolist() == [0] * 6 + [1] * 2 + [0] * 2 + [1] * 6
    with pytest.raises(StudyError, match="no position in millimetres"):
        partitions_of(replace(samples, position_mm=np.full(16, np.nan, np.float32)), 2, "position_mm")


def test_what_a_reduction_dropped_moves_no_partition() -> None:
    """Slices at one depth are in one partition, however many of their volume were kept."""
    samples = made_samples(2, 12)
    whole = partitions_of(samples, 4, "index")
    kept = np.r_[np.arange(12), 12 + np.array([0, 1, 2, 3, 4, 5, 11])]
    assert partitions_of(samples.rows(kept), 4, "index").tolist() == whole[kept].tolist()


def test_positives_across_volumes_need_other_volumes() -> None:
    with pytest.raises(StudyError, match="the kept samples are of 1"):
        made_objective("global_contrast", 2, samples=made_samples(1, 8), variant="gd")
    with pytest.raises(StudyError, match="the kept samples are of 1"):
        made_objective("local_contrast", 2, samples=made_samples(1, 8), variant="ld")
    assert made_objective("global_contrast", 2, samples=made_samples(1, 8), variant="gd_minus")
    with pytest.raises(StudyError, match="Set batch_size to 8 or more"):
        made_objective("global_contrast", 2, variant="gd").batches(0, 0, 4)
    assert made_objective("global_contrast", 2, variant="gd_minus").batches(0, 0, 4)


def test_a_batch_size_that_is_advised_fits() -> None:
    samples = made_samples(3, 8)
    with pytest.raises(StudyError, match="a multiple of 4, such as 20"):
        partition_batches(samples.volume, partitions_of(samples, 4, "index"), 4, 22, rng(0))
    assert partition_batches(samples.volume, partitions_of(samples, 4, "index"), 4, 20, rng(0))


def test_views_of_the_losses_vary_as_the_paper_says() -> None:
    """G^D: the slice itself and moved views; L^R: places must correspond; G^R: two moved views."""
    crops = {
        name: [(crop.count, crop.varies) for crop in made_objective(objective, 2, variant=name).crops((48, 48))]
        for objective, name in (
            ("global_contrast", "gr"), ("global_contrast", "gd_minus"), ("global_contrast", "gd"),
            ("local_contrast", "lr"), ("local_contrast", "ld"),
        )
    }  # fmt: skip
    assert crops == {
        "gr": [(2, "all")],
        "gd_minus": [(1, "nothing"), (2, "all")],
        "gd": [(1, "nothing"), (1, "all")],
        "lr": [(2, "intensity")],
        "ld": [(2, "intensity")],
    }


def test_images_that_are_not_slices_are_refused() -> None:
    samples = made_samples(2, 8)
    loose = replace(samples, volumes=tuple(replace(volume, kind="images") for volume in samples.volumes))
    with pytest.raises(StudyError, match="no partitions"):
        partitions_of(loose, 4, "index")
    with pytest.raises(StudyError, match="cut into 2 or more"):
        partitions_of(samples, 1, "index")


def test_batches_hold_all_partitions_alike_and_in_time_every_slice_the_tail_included() -> None:
    samples = made_samples(6, 10)
    partition = partitions_of(samples, 4, "index")
    seen: set[int] = set()
    for epoch in range(2):
        batches = partition_batches(samples.volume, partition, 4, 12, rng(0, epoch))
        assert len(batches) == 60 // 12
        for batch in batches:
            assert len(set(batch.tolist())) == 12 and batch.min() >= 0 and batch.max() < 60
            assert partition[batch].tolist() == [0, 1, 2, 3] * 3
            following = next_in_partition(torch.from_numpy(partition[batch]))
            assert (samples.volume[batch] != samples.volume[batch[following]]).all()
            seen |= set(batch.tolist())
    assert seen == set(range(60))


def test_volumes_that_are_alike_share_all_partitions_of_a_batch() -> None:
    samples = made_samples(6, 8)
    for batch in partition_batches(samples.volume, partitions_of(samples, 4, "index"), 4, 8, rng(0)):
        assert (samples.volume[batch].reshape(2, 4) == samples.volume[batch].reshape(2, 4)[:, :1]).all()


@pytest.mark.parametrize(("batch_size", "words"), [(10, "multiple of 4"), (32, "has 6 slices, and a batch of 32 takes 8")])
def test_a_batch_that_does_not_fit_the_partitions_is_refused(batch_size: int, words: str) -> None:
    samples = made_samples(3, 8)
    with pytest.raises(StudyError, match=words):
        partition_batches(samples.volume, partitions_of(samples, 4, "index"), 4, batch_size, rng(0))


def test_the_next_in_a_partition_is_a_ring() -> None:
    assert next_in_partition(torch.tensor([0, 1, 0, 2, 1, 0])).tolist() == [2, 4, 5, 3, 1, 0]


@pytest.mark.parametrize("variant", ["gd_minus", "gd"])
def test_every_image_of_a_batch_is_real(make_plan: Any, variant: str) -> None:
    from medssl.nn.views import Views

    plan = make_plan(objective={"global_contrast": {"variant": variant}}, cohort={"volumes": 4})
    objective = plan.objective()
    views = Views(plan.options.views, objective.crops(plan.size), plan.samples, seed=0)
    for rows in objective.batches(0, 0, 8):
        for view in views(plan.reader()[(0, rows)]):
            assert len(view) == 8 and bool((view.flatten(1).std(1) > 0.01).all())


# The global loss


def slow_global(z: Tensor, volume: list[int], partition: list[int], *, across: bool) -> float:
    """Equations 1 to 3 term by term; for `across` the eight terms of each pair of neighbouring volumes and each partition."""
    copies, n = z.shape[:2]
    at = {(v, s): place for place, (v, s) in enumerate(zip(volume, partition, strict=True))}

    def pulled(a: tuple[int, int], b: tuple[int, int]) -> float:
        others = [z[c, k] for c in range(copies) for k in range(n) if partition[k] != partition[a[1]]]
        return term(z[a], z[b], others)

    terms = []
    if not across:
        for k, (one, other) in itertools.product(range(n), itertools.permutations(range(copies), 2)):
            terms.append(pulled((one, k), (other, k)))
        return float(np.mean(terms))
    volumes = list(dict.fromkeys(volume))
    for s in set(partition):
        for v, following in zip(volumes, volumes[1:] + volumes[:1], strict=True):
            i, j = at[v, s], at[following, s]
            for one, other in (((0, i), (1, i)), ((0, i), (0, j)), ((0, j), (1, j)), ((1, i), (1, j))):
                terms += [pulled(one, other), pulled(other, one)]
    return float(np.mean(terms))


@pytest.mark.parametrize(("copies", "across"), [(3, False), (2, True)])
def test_the_global_loss_is_the_double_loop_of_the_paper(copies: int, across: bool) -> None:
    volume, partition = np.repeat(np.arange(3), 4).tolist(), [0, 1, 2, 3] * 3
    z = unit(copies, 12, 5)
    found = partition_contrast(z.float(), torch.tensor(partition), TEMPERATURE, across=across)
    assert float(found) == pytest.approx(slow_global(z, volume, partition, across=across), rel=1e-5)


@pytest.mark.parametrize(("copies", "across"), [(3, False), (2, True)])
def test_slices_of_one_partition_never_repel(copies: int, across: bool) -> None:
    z = torch.eye(4).repeat(copies, 3, 1)
    assert float(partition_contrast(z, torch.tensor([0, 1, 2, 3] * 3), 0.01, across=across)) < 1e-6


def test_the_order_of_the_ring_of_volumes_does_not_matter_where_it_begins() -> None:
    z, partition = unit(2, 12, 5), torch.tensor([0, 1, 2, 3] * 3)
    turned = partition_contrast(z.roll(4, dims=1), partition, TEMPERATURE, across=True)
    assert torch.allclose(turned, partition_contrast(z, partition, TEMPERATURE, across=True))


def test_g_r_is_simclr() -> None:
    samples, z = made_samples(), {f"z_{number}": unit(8, 6, seed=number).float() for number in range(2)}
    batch = made_batch(samples, list(range(8)), 2)
    ours = made_objective("global_contrast", 2, variant="gr").loss(z, batch).value
    theirs = made_objective("simclr", 2).loss({"z_a": z["z_0"], "z_b": z["z_1"]}, batch).value
    assert torch.equal(ours, theirs)


def test_a_large_plane_that_is_cropped_and_not_stretched_is_read_as_it_is(make_plan: Any) -> None:
    plans = {fit: make_plan(size=[4], views={"fit": fit, "scale": [1.0, 1.0]}) for fit in ("stretch", "crop")}
    read = {fit: plan.reader()[(0, np.array([0]))].extent.tolist()[0] for fit, plan in plans.items()}
    row = plans["crop"].samples
    plane = [n for axis, n in enumerate(row.volumes[row.volume[0]].shape) if axis != row.axis[0]]
    assert read["crop"] == plane and max(read["stretch"]) < min(plane)


# Regions


def test_the_regions_of_the_paper_lie_where_its_code_puts_them() -> None:
    regions, corners = Regions.of(2), corners_of((48, 48), 3)
    places = {corners[at] for at in regions.places.tolist()}
    assert places == {*itertools.product((0, 22, 44), repeat=2), *itertools.product((11, 33), repeat=2)}
    assert corners[regions.places[9]] == (11, 11)
    assert {corners[at] for at in regions.negatives[9].tolist()} == {(0, 0), (0, 22), (22, 0), (22, 22), (11, 33)}


def test_every_place_is_distinguished_from_the_neighbours_of_the_authors_table() -> None:
    """The negatives of the released code at a map of 48² and regions of 3, first corners by place."""
    table = {
        (0, 0): [(0, 22), (11, 11), (11, 22), (22, 0), (22, 11)],
        (0, 22): [(0, 0), (0, 44), (11, 11), (11, 33), (22, 22)],
        (0, 44): [(0, 22), (11, 22), (11, 33), (22, 33), (22, 44)],
        (22, 0): [(0, 0), (11, 11), (22, 22), (44, 0), (33, 11)],
        (22, 22): [(11, 11), (11, 33), (33, 11), (33, 33), (22, 0)],
        (22, 44): [(0, 44), (22, 22), (44, 44), (11, 33), (33, 33)],
        (44, 0): [(22, 0), (22, 11), (44, 22), (33, 11), (33, 22)],
        (44, 22): [(22, 22), (44, 0), (44, 44), (33, 11), (33, 33)],
        (44, 44): [(22, 33), (22, 44), (44, 22), (33, 33), (33, 22)],
        (11, 11): [(0, 0), (0, 22), (22, 0), (22, 22), (11, 33)],
        (11, 33): [(0, 22), (0, 44), (11, 11), (22, 22), (22, 44)],
        (33, 11): [(22, 0), (22, 22), (44, 0), (44, 22), (33, 33)],
        (33, 33): [(22, 22), (22, 44), (44, 22), (44, 44), (33, 11)],
    }
    regions, corners = Regions.of(2), corners_of((48, 48), 3)
    found = {
        corners[place]: [corners[at] for at in others]
        for place, others in zip(regions.places.tolist(), regions.negatives.tolist(), strict=True)
    }
    assert found == table


def test_in_3d_a_place_is_distinguished_from_the_nearest_others() -> None:
    regions = Regions.of(3)
    nodes = np.array(regions.nodes)
    for place, others in zip(regions.places.tolist(), regions.negatives.tolist(), strict=True):
        away = ((nodes - nodes[place]) ** 2).sum(1)
        nearest = np.sort(away[[at for at in regions.places.tolist() if at != place]])
        assert sorted(away[others]) == nearest[:5].tolist()


@pytest.mark.parametrize(("size", "places"), [((15, 21), 13), ((16, 15, 33), 35)])
def test_regions_stay_inside_and_no_negative_overlaps_its_anchor(size: tuple[int, ...], places: int) -> None:
    regions, corners = Regions.of(len(size)), corners_of(size, 3)
    assert len(regions.places) == places and regions.negatives.shape == (places, 5)
    assert all(0 <= at <= side - 3 for corner in corners for at, side in zip(corner, size, strict=True))
    for anchor, others in zip(regions.places.tolist(), regions.negatives.tolist(), strict=True):
        assert len(set(others)) == 5
        for other in others:
            assert max(abs(x - y) for x, y in zip(corners[anchor], corners[other], strict=True)) >= 3


def test_a_map_without_room_for_its_regions_is_refused() -> None:
    with pytest.raises(StudyError, match="it needs 15"):
        corners_of((14, 20), 3)


def test_the_local_loss_is_the_double_loop_of_the_paper() -> None:
    a, b = unit(2, 25, 4, seed=1), unit(2, 25, 4, seed=2)
    node = {corner: at for at, corner in enumerate(Regions.of(2).nodes)}
    expected = [
        [
            term(a[n, node[place]], b[n, node[place]], [m[n, node[other]] for m in (a, b) for other in others])
            for place, others in NEIGHBOURS_2D.items()
        ]
        for n in range(2)
    ]
    found = region_contrast(a, b, Regions.of(2), TEMPERATURE)
    assert np.allclose(found.numpy(), expected, rtol=1e-9)


def test_equal_maps_of_distinct_regions_cost_nothing_and_a_constant_map_the_logarithm_of_eleven() -> None:
    distinct = torch.eye(25)[None]
    assert float(region_contrast(distinct, distinct, Regions.of(2), 0.01).max()) < 1e-6
    constant = torch.ones(1, 25, 1)
    assert torch.allclose(region_contrast(constant, constant, Regions.of(2), 0.1), torch.tensor(math.log(11)))


def slow_local_across(first: Tensor, second: Tensor) -> float:
    """Image by image, place by place, pair by pair: three volumes of four slices, maps `(12, nodes, d)` of both views.

    Anchors are places of the first view alone. Each has three positives at its place, one at a time: in the second view of its
    slice, and in the first view of the slices of that partition in the next volume and the next but one. The negatives of a pair
    are four neighbours in both of its maps.
    """
    node = {corner: at for at, corner in enumerate(Regions.of(2).nodes)}
    terms = []
    for n in range(12):
        for other in (second[n], first[(n + 4) % 12], first[(n + 8) % 12]):
            for place, neighbours in NEIGHBOURS_2D.items():
                anchor, repelling = first[n, node[place]], [node[at] for at in neighbours[:4]]
                repelled = [m[at] for m in (first[n], other) for at in repelling]
                terms.append(term(anchor, other[node[place]], repelled))
    return float(np.mean(terms))


def test_the_local_loss_across_volumes_is_the_loop_of_the_released_code() -> None:
    samples, objective = made_samples(), made_objective("local_contrast", 2, variant="ld", temperature=TEMPERATURE)
    batch = made_batch(samples, list(range(12)), 2)  # three volumes of four slices, one a partition
    a, b = unit(12, 25, 4, seed=1), unit(12, 25, 4, seed=2)
    assert float(objective.loss({"z_a": a, "z_b": b}, batch).value) == pytest.approx(slow_local_across(a, b), rel=1e-9)


# Chained: global, local, segmentation


def test_the_local_stage_leaves_the_encoder_alone_and_its_decoder_begins_the_segmentation(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from test_pretrain_engine import run_stage

    from medssl.nn.backbone import build
    from medssl.nn.decoder import Decoder
    from medssl.nn.weights import load_parts

    first = run_stage(tmp_path, "global-all-seed0", objective="global_contrast")
    options = {"objective": {"local_contrast": {"projector": [8, 16]}}, "init_run": "global", "lr": 1e-2}
    second = run_stage(tmp_path, "local-all-seed0", first, **options)
    before, after = (load_file(out / "encoder.safetensors") for out in (first, second))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert load_file(first / "parts.safetensors") == {}
    learnt = load_file(second / "parts.safetensors")
    assert learnt and all(name.startswith("decoder.levels.") for name in learnt)
    decoder = Decoder(build("resnet18", {"width": 0.125, "stem": "small"}, 2, 1))
    (match,) = load_parts(second / "parts.safetensors", {"decoder": decoder})
    assert match.matched == len(learnt) < match.total
    assert all(name.startswith(("shallow.", "levels.3.")) for name in match.unmatched)
    assert torch.equal(decoder.state_dict()["levels.2.conv_0.conv.weight"], learnt["decoder.levels.2.conv_0.conv.weight"])
    third = run_stage(tmp_path, "again-all-seed0", second, **(options | {"init_run": "local", "lr": 1e-12}))
    assert all(torch.allclose(t, learnt[name], atol=1e-6) for name, t in load_file(third / "parts.safetensors").items())
    with pytest.raises(StudyError, match=r"decoder.* has no place there"):
        run_stage(tmp_path, "simclr-all-seed0", second, init_run="local")
