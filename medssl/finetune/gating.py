"""Gates of a bottleneck in the network of a task: where they stand, and what their number of open channels says."""

from __future__ import annotations

from typing import Any

from medssl.artefacts.fits import CLOSED_BELOW, has_closed
from medssl.core.errors import StudyError
from medssl.finetune.recipe import BottleneckOptions
from medssl.finetune.training import seeded
from medssl.nn.gates import Gates


def add_gates(network: Any, bottleneck: BottleneckOptions | None, seed: int = 0, *, num_cases: int = 1) -> None:
    """Put gates between the backbone and the head of a network, in place; nothing without a bottleneck.

    network: has `backbone`; `gates`, which passes its maps on, and `reads`, the numbers of the maps that the head reads.
    num_cases: that the network is trained on.

    Raises:
        StudyError: the head reads fewer maps than `stages` says.
    """
    if bottleneck is None:
        return
    reads, stages = network.reads, bottleneck.stages or range(len(network.reads))
    if why := bottleneck.misfit(len(reads)):
        raise StudyError(f"{why}.")
    with seeded(seed, "gates"):
        network.gates = Gates(
            {number: network.backbone.channels[number] for number in (reads[stage] for stage in stages)},
            price=bottleneck.weight / num_cases,
            twin=bottleneck.twin,
            temperature=bottleneck.temperature,
        )


def bottleneck_of(contract: dict[str, Any]) -> BottleneckOptions | None:
    """The bottleneck of a model; None without one, as in older contracts."""
    options = contract["recipe"].get("bottleneck")
    return None if options is None else BottleneckOptions(**options)


def alarm(kept: list[int], channels: list[int]) -> str | None:
    """A sentence if so few channels are open that the bottleneck has closed the network, else None."""
    if not has_closed(kept, channels):
        return None
    left = f"{sum(kept)} of {sum(channels)} channels are open (alarm below {CLOSED_BELOW:.0%})"
    return f"{left}: the bottleneck has closed. Lower bottleneck.weight"
