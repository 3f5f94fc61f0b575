"""Options of stage reduce: the arms to compare, and the leakage firewall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medssl.core import plugins
from medssl.core.bounds import Count, Fraction, Whole
from medssl.core.options import Backbone, Name, Options, PluginChoice, Reducer
from medssl.core.plugins import Plugin
from medssl.core.written import PathText

STEPS = ("describe", "leakage")
"""Steps of the stage whose folders lie beside the arms', so arms may not use their names."""


class ArmOptions(Options):
    """One way of reducing a cohort; the reducer has the arm's name unless stated."""

    reducer: Reducer | None = None
    """How slices are compared or ranked; by default the reducer with the arm's name."""
    traversal: Literal["greedy", "cover", "global", "balanced"] = "greedy"
    """The order in which pairs are compared: within volumes in order, by largest neighbourhood, over the cohort, or by clusters.
    """
    threshold: Annotated[float, Field(ge=0)] | None = None
    """Slices within this distance of a kept one are dropped; without any budget, the reducer's own default."""
    keep_frac: Fraction | None = None
    """Share of the slices to keep."""
    match: str | None = None
    """Keep as many slices as this arm."""
    encoder: PathText | None = None
    """For `embedding`: a pre-training run of the study (`simclr-all-seed0`) or a .safetensors file."""

    @model_validator(mode="after")
    def _one_budget(self) -> ArmOptions:
        given = [k for k in ("threshold", "keep_frac", "match") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"one budget at a time: {' and '.join(given)} are both set")
        return self


class ReduceOptions(Options):
    """The arms to compare; `controls` adds `all`, `every_n` and `random_n`, the last two with as many slices of each source as
    the first arm keeps."""

    arms: dict[Name, ArmOptions] = Field(default_factory=lambda: {"hash": ArmOptions()}, min_length=1)
    """Ways of reducing, by name."""
    controls: bool = True
    """Add the arms that choose without looking at slices: all, every n-th, random ones."""
    leakage: Literal["exclude", "stop", "report"] = "exclude"
    """What happens to pre-training slices that show a downstream validation or test image."""
    look_up: Literal["pixels", "ids"] = "pixels"
    """How such slices are found: by id, patient and pixels, or by id and patient only. The latter is for a pool and held-out
    images
    from one published set with too many pixels to compare.
    """

    def with_controls(self) -> dict[str, ArmOptions]:
        """All arms in order: the study's, then the controls that it does not define itself."""
        controls = control_kinds()
        first = next((name for name in self.arms if name not in controls), next(iter(self.arms)))
        added = {name: ArmOptions(match=first if kind == "matched" else None) for name, kind in controls.items() if self.controls}
        return {**self.arms, **{name: arm for name, arm in added.items() if name not in self.arms}}


def control_kinds() -> dict[str, str]:
    """The reducers that decide without looking at a slice: `whole` keeps all, `matched` as many of each source as another."""
    kinds = {plugin.name: plugin.constant("CONTROL", default=None) for plugin in plugins.all_of("reducer")}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def max_distance(reducer: PluginChoice) -> float | None:
    """The largest distance that a reducer can measure with its options (`MAX_DISTANCE` of its file); None if unknown."""
    most = plugins.find("reducer", reducer.name).constant("MAX_DISTANCE", default=None)
    if isinstance(most, dict):
        ((option, by_value),) = most.items()
        most = by_value.get(reducer.options[option])
    return None if most is None else float(most)


class DescribeOptions(Options):
    """Which descriptors the slices of a cohort get, for all its arms together."""

    hash_sizes: list[Literal[8, 16]] = [8]
    """Sides of the hashes in bits."""
    greys: list[Literal["window", "per_slice"]] = ["window"]
    """Grey ranges for hashing."""
    shard: Whole = 0
    """Which share of the volumes this job describes."""
    shards: Count = 1
    """How many shares there are."""


class FirewallOptions(Options):
    """What is done about images that pre-training and a downstream test share."""

    leakage: Literal["exclude", "stop", "report"] = "exclude"
    """Exclude such slices, stop the study, or only report them."""
    look_up: Literal["pixels", "ids"] = "pixels"
    """Find them by id, patient and pixels, or by id and patient only."""


class ResolvedArmOptions(ArmOptions):
    """The options of one job of the stage: an arm with its reducer."""

    reducer: Reducer
    """How slices are compared or ranked, with all its options."""
    networks: list[Backbone] | None = None
    """The network of the encoder; null for a file, which may hold any."""

    def plugins(self) -> Iterator[Plugin]:
        """The reducer, and the networks that it may use for embeddings."""
        yield from super().plugins()
        if self.encoder is not None and self.networks is None:
            yield from plugins.all_of("backbone")
