"""Self-training: rounds in which a network's predictions for unlabelled training cases become labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar


class HasFacts(Protocol):
    """The outcome of a fit, with its row of fits.tsv."""

    facts: dict[str, Any]


Fitted = TypeVar("Fitted", bound=HasFacts)
Guesses = TypeVar("Guesses")


def self_trained(
    fitted: Fitted,
    rounds: int,
    guess: Callable[[Fitted], tuple[Guesses, int]],
    refit: Callable[[Guesses, int], Fitted],
) -> Fitted:
    """The fit after some rounds: predict the labels of the unlabelled cases, then fit again on given and predicted labels.

    Every fit starts from the same weights, so that wrong predictions of one round are not passed on to the next.

    Args:
        fitted: on the labelled cases only.
        rounds: at most so many; fewer if nothing is predicted.
        guess: labels of the unlabelled cases predicted by a fit, and how many cases got one.
        refit: a fit on the labelled cases and the predictions of a round; rounds count from 1.

    Source: Bai et al., MICCAI 2017, "Semi-supervised learning for network-based cardiac MR image segmentation", without its CRF;
    combined with contrastive starting weights in Chaitanya et al., arXiv 2006.10511, §4.
    """
    for turn in range(1, rounds + 1):
        guesses, count = guess(fitted)
        if not count:
            break
        fitted = refit(guesses, turn)
        fitted.facts |= {"self_training_rounds": turn, "num_pseudo": count}
    return fitted
