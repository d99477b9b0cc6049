"""What the texts themselves suggest: one content under two units, columns that say nothing, likely identifiers.

Counts and shares alone, un-noised and for the operator's screen; no value, unit id or label is kept. One pass.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privet.client.preflight.identifiers import KINDS, MAX_CHARACTERS, PERSONAL, kinds

MAX_TEXTS = 100_000  # that are searched for identifiers, the first ones
_NEARLY_ALL = 0.95  # share of one value from which on a column counts as nearly constant
_ONE_TEXT = 0.2  # the same of texts, where even a fifth is strange
_FEW = 10  # records, of which shares say nothing


@dataclass(frozen=True, kw_only=True)
class Content:
    """Of the records that are kept."""

    texts: int
    shared_texts: int  # distinct contents that stand under two units or more
    sharing_units: int  # units that have one of these
    commonest_text: float  # share of the records that have the commonest text
    commonest_label: float  # the same of the file's own labels
    searched: int  # texts that were searched for identifiers
    identifiers: dict[str, int]  # by kind: texts that likely hold one; kinds that none has are left out
    any_personal: int  # texts with an identifier of a kind that points to one person

    def share(self, count: int) -> float:
        """Of the texts that were searched."""
        return count / self.searched if self.searched else 0.0


def look(
    texts: Sequence[str], units: npt.NDArray[np.int64], labels: Sequence[str], *, limit: int = MAX_TEXTS
) -> Content:
    """texts [N]; units int64 [N]; labels [N] as the file has them. limit: texts that are searched for identifiers."""
    owner: dict[bytes, int] = {}
    shared: set[bytes] = set()
    sharing: set[int] = set()
    seen: Counter[bytes] = Counter()
    for text, unit in zip(texts, units.tolist(), strict=True):
        key = hashlib.blake2b(_plain(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        seen[key] += 1
        first = owner.setdefault(key, unit)
        if first != unit:
            shared.add(key)
            sharing |= {first, unit}
    found: Counter[str] = Counter()
    any_personal = 0
    for text in texts[:limit]:
        here = kinds(text)
        found.update(here)
        any_personal += not here.isdisjoint(PERSONAL)
    return Content(
        texts=len(texts),
        shared_texts=len(shared),
        sharing_units=len(sharing),
        commonest_text=max(seen.values(), default=0) / max(1, len(texts)),
        commonest_label=max(Counter(labels).values(), default=0) / max(1, len(labels)),
        searched=min(limit, len(texts)),
        identifiers={kind: found[kind] for kind in KINDS if found[kind]},
        any_personal=any_personal,
    )


def facts(content: Content) -> list[tuple[str, list[tuple[str, str]]]]:
    """The report's sections: a title; names and values."""
    kept = [
        ("texts under two units or more", f"{content.shared_texts:,} (in {content.sharing_units:,} units)"),
        ("share of the commonest text", f"{content.commonest_text:.1%}"),
        ("share of the commonest label", f"{content.commonest_label:.1%}"),
    ]
    bound = f", of each the first {MAX_CHARACTERS:,} characters"
    which = f"the first {content.searched:,} of {content.texts:,}" if content.searched < content.texts else "all"
    likely = [("texts searched", f"{which}{bound}")]
    likely += [
        (kind, f"{number:,} {'texts' if number > 1 else 'text'} ({content.share(number):.1%})")
        for kind, number in content.identifiers.items()
    ]
    return [("Content", kept), ("Likely identifiers", likely)]


def warnings(content: Content) -> list[str]:
    """What the operator should look at before taking part."""
    found = []
    if content.shared_texts:
        found.append(
            "Some texts stand under two units or more. If these are one person, that person's guarantee is weaker than "
            "stated: give both rows one unit id. Standard phrases are no fault."
        )
    if content.texts >= _FEW and content.commonest_text > _ONE_TEXT:
        found.append("Many records have one and the same text. Check data.text: is it the right column?")
    if content.texts >= _FEW and content.commonest_label > _NEARLY_ALL:
        found.append("Nearly all records have one and the same label: little can be learned from them.")
    if content.any_personal:
        found.append(
            "Some texts likely hold identifiers of persons (counted above by kind; a count may hold false alarms and "
            "miss others). Training is private by noise, whatever the texts hold; where your rules ask for texts "
            "without identifiers, take them out before."
        )
    return found


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
