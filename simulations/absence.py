"""Which sites of a cohort do not answer a round in time: a function of seed, site and round alone."""

import hashlib
from typing import Literal, NamedTuple

Answer = Literal["answers", "late", "absent"]


class Absence(NamedTuple):
    """Probabilities. dropout: the site does nothing in the round. straggler: it trains and spends, and its reply comes
    after the round's end; of those that do not drop out."""

    seed: int
    dropout: float = 0.0
    straggler: float = 0.0

    def of(self, site: str, round: int) -> Answer:
        """What this site does in this round."""
        if self.dropout == 0 and self.straggler == 0:
            return "answers"
        if self._draw("dropout", site, round) < self.dropout:
            return "absent"
        return "late" if self._draw("straggler", site, round) < self.straggler else "answers"

    def _draw(self, what: str, site: str, round: int) -> float:
        """Uniform in [0, 1)."""
        words = f"privet simulation\0{what}\0{self.seed}\0{site}\0{round}"
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7]) / 2**56
