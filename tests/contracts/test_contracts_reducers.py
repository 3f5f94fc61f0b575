"""What every reducer promises, whichever file of the folder it is; a new file is picked up by being there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from medssl.artefacts.keep import REASONS
from medssl.artefacts.volumes import Volume
from medssl.core import code, plugins
from medssl.core.errors import StudyError
from medssl.core.options import choice_of
from medssl.core.rng import rng
from medssl.reduce.cohort import Member
from medssl.reduce.deciding import decide
from medssl.reduce.describing import described
from medssl.reduce.options import ArmOptions, DescribeOptions, max_distance
from medssl.reduce.pairs import Pairs
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import DUPLICATE, KEPT, NO_TWIN, Decision, Slices

REDUCERS = plugins.names("reducer")
NEEDS = {"plane", "vectors", "entropy"}
TRAVERSALS = get_args(ArmOptions.model_fields["traversal"].annotation)
INSIDE_VOLUMES = ("greedy", "cover")
"""Traversals that compare the slices of one volume alone."""


def pixels(seed: int, planes: int) -> np.ndarray:
    """int16 [i, j, k], similar neighbours; the first two planes are equal and the last is blank."""
    noise = gaussian_filter(rng(seed, "volume").normal(size=(26, 24, planes)), (2, 2, 1.5))
    found = np.clip(noise / noise.std() * 400, -1024, 1024).astype(np.int16)
    found[:, :, 1], found[:, :, -1] = found[:, :, 0], -1000
    return found


@cache
def made() -> Slices:
    """Three volumes of 9, 7 and 8 slices and five pictures, with all that a reducer may ask for."""
    options = DescribeOptions(hash_sizes=[8, 16], greys=["window", "per_slice"])
    ids, columns, planes, number = [], [], [], []
    arrays = {"v-aa": pixels(1, 9), "v-bb": pixels(2, 7), "v-cc": pixels(3, 8), "v-dd": pixels(4, 5)}
    with ThreadPoolExecutor(1) as pool:
        for place, (name, array) in enumerate(arrays.items()):
            kind = "images" if name == "v-dd" else "volume"
            volume = Volume(
                *(name, None, None, "patient", kind, "CT", "train", Path(name), None, array.shape, None, None),
                *(1.0, 0.0, (-1000.0,), (1000.0,)),
            )  # fmt: skip
            member = Member(volume, 2, np.arange(array.shape[2]), np.arange(array.shape[2]))
            columns.append(described(member, array, options, pool))
            planes += [member.seen(array, k) for k in range(array.shape[2])]
            ids += [f"{name}-{k:04d}" for k in range(array.shape[2])]
            number += [place] * array.shape[2]
    table = pd.concat(columns, ignore_index=True)
    return Slices(
        ids=np.array(ids, dtype=object),
        volume=np.array(number),
        neighbours=np.array(number) < 3,
        columns={name: table[name].to_numpy() for name in table.columns},
        plane=planes.__getitem__,
        vectors=np.stack([plane[::4, ::4].ravel() for plane in planes]) + np.float32(0.1),
        seed=5,
    )


def some_of(slices: Slices, places: np.ndarray) -> Slices:
    """The slices at some places, in that order; volumes are numbered as they come."""
    assert slices.plane is not None and slices.vectors is not None
    volume, _ = pd.factorize(slices.volume[places])
    read = slices.plane
    return replace(
        slices,
        ids=slices.ids[places],
        volume=volume,
        neighbours=slices.neighbours[places],
        columns={name: values[places] for name, values in slices.columns.items()},
        plane=lambda index: read(int(places[index])),
        vectors=slices.vectors[places],
    )


def variants(name: str) -> Iterator[dict[str, Any]]:
    """The defaults of a reducer, and each other word that one of its options may be."""
    fields = plugins.find("reducer", name).options.model_fields
    yield {}
    for option, field in fields.items():
        if get_origin(field.annotation) is Literal:
            yield from ({option: word} for word in get_args(field.annotation) if word != field.default)


CASES = [(name, options) for name in REDUCERS for options in variants(name)]


def reducer(name: str, options: dict[str, Any], slices: Slices | None = None) -> Pairs | Ranks:
    plugin = plugins.find("reducer", name)
    built: Pairs | Ranks = plugin.load()(made() if slices is None else slices, **plugin.check(options))
    return built


def traversals(one: Pairs | Ranks) -> list[str]:
    """Those that a reducer can be used with; one that ranks knows none, and any word does."""
    if isinstance(one, Ranks):
        return ["greedy"]
    return [name for name in TRAVERSALS if name != "balanced" or one.vectors() is not None]


def decisions_equal(a: Decision, b: Decision) -> bool:
    return all(
        np.array_equal(getattr(a, field), getattr(b, field), equal_nan=field == "distance")
        for field in ("keep", "twin", "distance", "reason")
    )


def by_id(slices: Slices, decision: Decision) -> dict[str, tuple[bool, str | None]]:
    """Whether each slice is kept, and the slice that represents it."""
    twins = [None if twin == NO_TWIN else str(slices.ids[twin]) for twin in decision.twin]
    return {str(one): (bool(keep), twin) for one, keep, twin in zip(slices.ids, decision.keep, twins, strict=True)}


@pytest.mark.parametrize("name", REDUCERS)
def test_it_says_what_it_is_and_what_it_needs(name):
    plugin = plugins.find("reducer", name)
    kind = plugin.load()
    assert issubclass(kind, Pairs) or issubclass(kind, Ranks)
    assert set(kind.needs) <= NEEDS
    assert plugin.constant("TITLE").strip()
    assert plugin.constant("CONTROL", default=None) in (None, "whole", "matched")
    assert set(plugin.constant("DESCRIPTORS", default={})) <= set(DescribeOptions.model_fields)
    assert set(plugin.constant("DESCRIPTORS", default={}).values()) <= set(plugin.options.model_fields)
    makes_vectors = plugin.constant("VECTORS", default=None)
    assert (makes_vectors is not None) == ("vectors" in kind.needs)
    if makes_vectors is not None:
        assert callable(import_module(makes_vectors).embedder)


@pytest.mark.parametrize("name", REDUCERS)
def test_every_option_is_described(name):
    plugin = plugins.find("reducer", name)
    for option, field in plugin.options.model_fields.items():
        assert field.description and field.description.endswith("."), f"{name}.{option} has no line in the section `Options:`"


@pytest.mark.parametrize("name", REDUCERS)
def test_networks_are_in_the_code_of_those_alone_that_need_vectors(name):
    plugin = plugins.find("reducer", name)
    waiting, reached = [code.PACKAGE / "reduce" / "run.py", plugin.path], set()
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += code.imported_files(path)
    rooms = {path.relative_to(code.PACKAGE).parts[0] for path in reached}
    assert ("nn" in rooms) == ("vectors" in plugin.load().needs)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_without_what_it_needs_it_says_so(name, options):
    kind = plugins.find("reducer", name).load()
    bare = replace(made(), columns={}, plane=None, vectors=None)
    if not kind.needs:
        return
    with pytest.raises(StudyError, match=name):
        one = reducer(name, options, bare)
        decide(one, ArmOptions(), None)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_count_is_met_exactly_and_twins_are_kept(name, options):
    slices = made()
    one = reducer(name, options)
    if plugins.find("reducer", name).constant("CONTROL", default=None) == "whole":
        assert decide(one, ArmOptions(), 3)[0].keep.all()
        return
    for traversal in traversals(one):
        for count in (1, 3, len(slices) // 2, len(slices) - 1, len(slices)):
            decision, _ = decide(one, ArmOptions(traversal=traversal), count)
            assert decision.num_kept == count, (traversal, count)
            check(decision)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_threshold_drops_what_is_within_it_of_its_twin(name, options):
    one = reducer(name, options)
    for traversal in traversals(one):
        if traversal == "balanced":
            continue
        decision, threshold = decide(one, ArmOptions(traversal=traversal), None)
        check(decision)
        if isinstance(one, Pairs):
            dropped = np.flatnonzero(~decision.keep)
            assert threshold == one.default_threshold <= one.max_threshold
            assert (decision.twin[dropped] != NO_TWIN).all() and (decision.reason[dropped] == DUPLICATE).all()
            assert (decision.distance[dropped] <= threshold).all()
            again = [one.distances(int(decision.twin[place]), np.array([place]))[0] for place in dropped]
            np.testing.assert_allclose(decision.distance[dropped], again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_largest_distance_that_a_file_states_is_that_of_its_class(name, options):
    one, stated = reducer(name, options), max_distance(choice_of("reducer", {name: options}))
    assert stated is None or (isinstance(one, Pairs) and one.max_threshold == stated)


def check(decision: Decision) -> None:
    """Every slice is kept without a twin, or dropped for a known reason; its representative is kept."""
    twins = decision.twin[decision.twin != NO_TWIN]
    assert decision.keep[twins].all()
    assert (decision.twin[decision.keep] == NO_TWIN).all() and np.isnan(decision.distance[decision.keep]).all()
    assert ((decision.reason == KEPT) == decision.keep).all() and set(decision.reason) <= set(REASONS)
    assert (np.isnan(decision.distance) == (decision.twin == NO_TWIN)).all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_same_slices_are_decided_alike_and_are_not_changed(name, options):
    columns = {column: values.copy() for column, values in made().columns.items()}
    for traversal in traversals(reducer(name, options)):
        chosen = ArmOptions(traversal=traversal)
        first, second = (decide(reducer(name, options), chosen, 11)[0] for _ in range(2))
        assert decisions_equal(first, second), traversal
    assert all(np.array_equal(made().columns[column], values) for column, values in columns.items())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_without_a_count_the_order_of_volumes_does_not_matter(name, options):
    slices = made()
    turned = some_of(slices, np.concatenate([np.flatnonzero(slices.volume == number) for number in (2, 0, 3, 1)]))
    one, other = reducer(name, options), reducer(name, options, turned)
    for traversal in traversals(one)[:1] if isinstance(one, Ranks) else INSIDE_VOLUMES:
        chosen = ArmOptions(traversal=traversal)
        assert by_id(slices, decide(one, chosen, None)[0]) == by_id(turned, decide(other, chosen, None)[0]), traversal


@pytest.mark.parametrize(("name", "options"), CASES)
def test_pairs_are_zero_apart_when_equal_and_as_far_one_way_as_the_other(name, options):
    one = reducer(name, options)
    if not isinstance(one, Pairs):
        return
    everyone = np.arange(len(made()))
    apart = np.stack([one.distances(int(place), everyone) for place in everyone])
    assert apart.min() >= 0 and apart.max() <= one.max_threshold + 1e-5
    np.testing.assert_allclose(apart, apart.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.diag(apart), 0, atol=1e-6)
    assert apart[0, 1] == pytest.approx(0, abs=1e-6), "the first two slices are equal"
    assert not one.whole_steps or (apart == np.round(apart)).all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_pairs_keep_the_cover_whatever_the_order_within_volumes(name, options):
    one = reducer(name, options)
    if not isinstance(one, Pairs):
        return
    slices = made()
    turned = some_of(slices, np.concatenate([np.flatnonzero(slices.volume == number)[::-1] for number in range(4)]))
    chosen = ArmOptions(traversal="cover")
    found = [by_id(of, decide(reducer(name, options, of), chosen, None)[0]) for of in (slices, turned)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_no_slices_are_not_an_error(name, options):
    nothing = some_of(made(), np.empty(0, np.int64))
    one = reducer(name, options, nothing)
    for traversal in traversals(one):
        for count in (0,) if traversal == "balanced" else (None, 0):
            decision, _ = decide(one, ArmOptions(traversal=traversal), count)
            assert len(decision.keep) == 0 and decision.num_kept == 0
