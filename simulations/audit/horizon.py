"""The whole horizon of a plan at one site that trains alone: the adapter that the server would hold in the end."""

from privet.client.training import RoundTrainer
from privet.common.adapter import Arrays
from privet.common.examples import Examples
from privet.common.methods import Update
from privet.common.model import initial_arrays
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise


def run_horizon(
    trainer: RoundTrainer,
    examples: Examples,
    event: TrainEvent,
    rounds: int,
    words: tuple[int | str, ...],
    initial: Arrays | None = None,
) -> Arrays:
    """`rounds` equal events from `initial`, else the plan's derived adapter; `words` key the noise, with the round.

    One site alone is the server's best view of it: with others, their updates are added.
    """
    method, spec = trainer.method, trainer.spec
    state = method.init(initial_arrays(trainer.classifier) if initial is None else initial)
    for round in range(1, rounds + 1):
        sent = method.broadcast(spec, state, round)
        change = trainer.update(sent, examples, round, event, SeededNoise(*words, round))
        state = method.aggregate(spec, state, round, [Update(change, 1.0)])
    return state.arrays
