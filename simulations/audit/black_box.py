"""What an attacker with the final adapter alone can see: text canaries, by how far their loss fell.

A text canary is a record of random words of the tokenizer's vocabulary with a random label, a unit of its own. It goes
the way of every record: tokenizer, model, clip, sum, noise. Its score is its loss under the initial adapter minus its
loss under the final one. Such a bound lies far below the white box's, and far below the claim: nobody sees the steps,
and a text is no worst case.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.training import LabelledTexts, RoundTrainer
from privet.common.adapter import Arrays
from privet.common.errors import ModelError
from privet.common.examples import Examples
from privet.common.tasks.targets import Targets, known
from privet.simulations.audit.guesses import Guesses, Scores

_FEWEST_WORDS, _MOST_WORDS = 6, 24
_GUESSED = 0.1  # of all canaries, guessed in, and as many out: a rule of thumb that no outcome enters


@dataclass(frozen=True)
class Texts:
    """Texts with label indices [N] and dense unit indices [N], as a trainer prepares them."""

    texts: list[str]
    labels: Targets
    units: NDArray[np.int64]
    num_units: int


def text_canaries(tokenizer: Any, num_labels: int, num_canaries: int, seed: int) -> Texts:
    """Random word sequences with random labels, each a unit. Raises: ModelError where the vocabulary has no words."""
    special = set(tokenizer.all_special_tokens)
    words = sorted(word for word in tokenizer.get_vocab() if word not in special and word.isascii() and word.isalpha())
    if not words:
        raise ModelError("the tokenizer's vocabulary has no plain words to make canaries of.", where="--attack text")
    random = np.random.Generator(np.random.PCG64([seed, num_canaries]))
    texts = [
        " ".join(words[index] for index in random.integers(len(words), size=length))
        for length in random.integers(_FEWEST_WORDS, _MOST_WORDS, size=num_canaries)
    ]
    labels = random.integers(num_labels, size=num_canaries).astype(np.int64)
    return Texts(texts, labels, np.arange(num_canaries, dtype=np.int64), num_canaries)


def joined(real: LabelledTexts, canaries: LabelledTexts) -> Texts:
    """The real records and units, and after them the canaries."""
    return Texts(
        [*real.texts, *canaries.texts],
        np.concatenate([real.labels, canaries.labels]),
        np.concatenate([real.units, real.num_units + canaries.units]),
        real.num_units + canaries.num_units,
    )


def guesses(num_canaries: int) -> Guesses:
    """How many coins are guessed: a fixed part of the canaries."""
    each = max(1, round(_GUESSED * num_canaries))
    return Guesses(min(each, num_canaries), min(each, num_canaries - min(each, num_canaries)))


def losses(trainer: RoundTrainer, arrays: Arrays, examples: Examples) -> Scores:
    """The task's loss of each record under the adapter `arrays`, float64 [N]; nan where the plan has no such label."""
    logits = torch.from_numpy(trainer.logits(arrays, examples).astype(np.float64))
    labels = torch.from_numpy(np.maximum(examples.labels, 0))
    found: Scores = trainer.task.per_example_loss(logits, labels, torch.ones(len(labels))).numpy()
    return np.where(known(examples.labels), found, np.nan)
