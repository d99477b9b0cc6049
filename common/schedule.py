"""The local learning rate of a round: a function of the plan and the round's number, the same at a site and simulated.

It goes by the number in the request, which a site knows, and not by how many rounds came to something. A round without
a quorum uses its rate up, as it does its part of the budget; a spare round has the last rate.
"""

import math

from privet.common.config.plan import TrainingSpec


def learning_rate(training: TrainingSpec, round: int) -> float:
    """The rate of round 1, 2, …: above zero in every round.

    The warm-up climbs in equal steps, t / (warmup_rounds + 1) of the plan's rate in round t; the first round after it
    has the whole rate. From there on a schedule other than "constant" falls to `final_rate` times the plan's rate in
    the last planned round, along a line or half a cosine.
    Raises: ValueError for a round below 1.

    >>> spec = TrainingSpec(rounds=5, expected_batch=1, learning_rate=1.0, schedule="linear", final_rate=0.25)
    >>> [learning_rate(spec, number) for number in (1, 3, 5, 6)]
    [1.0, 0.625, 0.25, 0.25]
    """
    if round < 1:
        raise ValueError(f"Expected a round of at least 1, got {round}.")
    whole, first = training.learning_rate, training.warmup_rounds + 1
    if round < first:
        return whole * round / first
    if training.schedule == "constant":
        return whole
    span = training.rounds - first
    done = min(1.0, (round - first) / span) if span else 0.0  # 0 in the first round after the warm-up
    left = 1.0 - done if training.schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2
    return whole * (training.final_rate + (1.0 - training.final_rate) * left)


def is_constant(training: TrainingSpec) -> bool:
    """Whether every round has the plan's rate."""
    return training.schedule == "constant" and not training.warmup_rounds


def in_words(training: TrainingSpec) -> str:
    """The schedule for the one who decides on a plan.

    >>> in_words(TrainingSpec(rounds=5, expected_batch=1, learning_rate=0.5, warmup_rounds=2, schedule="cosine"))
    'learning rate 0.5, after 2 rounds of warm-up, then falling along a cosine to 0.05 in round 5'
    >>> in_words(TrainingSpec(rounds=5, expected_batch=1, learning_rate=0.5))
    'learning rate 0.5'
    """
    words = f"learning rate {training.learning_rate:g}"
    warmup = training.warmup_rounds
    if warmup:
        words += f", after {warmup} round{'' if warmup == 1 else 's'} of warm-up"
    if training.schedule == "constant":
        return words
    shape = {"linear": "a line", "cosine": "a cosine"}[training.schedule]
    last = learning_rate(training, training.rounds)
    return f"{words}, {'then ' if warmup else ''}falling along {shape} to {last:g} in round {training.rounds}"
