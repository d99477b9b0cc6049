"""`privet client` with the draws of a simulation: ``seeded_client.py SEED NAME client site.toml …``.

A site's agent takes the operating system's randomness alone, and no key, flag or variable changes that: so this stands
in a test's own process, and swaps two things there. The noise of a round, and of an evaluation, is drawn by the words
that a simulation has for it; and which units judge goes by the simulation's key instead of the data set's. Everything
else is `privet client` as it is installed: its files, policy, ledger, trainer, link and TLS.
"""

import sys
from typing import Any

from privet.common.privacy.noise import SeededNoise


def swap(seed: int, name: str) -> None:
    """From now on, in this process. name: of the virtual site whose draws these are."""
    import privet.client.app
    import privet.client.data
    from privet.client.agent import Agent
    from privet.client.split import split_key

    class SeededAgent(Agent):
        def _train(self, request: Any, body: Any, noise: Any) -> Any:
            return super()._train(request, body, SeededNoise(seed, name, body.round))

        def _evaluate(self, request: Any, body: Any, noise: Any) -> Any:
            return super()._evaluate(request, body, SeededNoise(seed, name, "evaluate", body.round))

    app: Any = privet.client.app
    data: Any = privet.client.data
    app.Agent = SeededAgent
    data.split_key = lambda _secret: split_key(f"simulation {seed} {name}".encode())


if __name__ == "__main__":
    from privet.common.cli import main  # sets the number of threads before torch is imported

    seed, name, *sys.argv[1:] = sys.argv[1:]
    swap(int(seed), name)
    main()
