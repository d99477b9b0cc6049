"""Hospital notes with any number of codes: the specialties that a note speaks of.

A note is written for one specialty and then says something plainly of none, one or two others; one in twelve is a
clerk's and has no code at all. The codes stand in the column `label` with ";" between them.
"""

from collections import Counter
from collections.abc import Sequence

from privet.simulations.corpus import Corpus, hospital_notes, public_sample
from privet.simulations.corpus.grammar import Draws
from privet.simulations.corpus.hospital import LABELS, SPECIALTIES

SEPARATOR = ";"

_FURTHER = (11, 6, 3)  # weights of 0, 1 and 2 further codes
_CLERICAL = 83_000  # parts per million
_ALSO = (
    "Also mentions {core}, on {drug}.",
    "Besides, {core}; {sign}.",
    "At the same visit: {core}, {test} requested.",
    "Second problem: {condition}, now with {core}.",
)
_CLERK = (
    "Appointment moved to next week at the patient's request.",
    "Copies of earlier letters sent to the family doctor.",
    "New address and telephone number noted at the desk.",
    "Did not attend. A new date will be offered by post.",
    "Interpreter booked for the next visit.",
    "Parking permit issued, valid until the end of the year.",
)


def coded_notes(
    *, num_sites: int = 3, num_patients: int | Sequence[int] = 600, seed: int = 0, skew: float = 0.7
) -> Corpus:
    """`hospital_notes` without label noise, each with its codes. Raises ConfigError on a number out of range."""
    notes = hospital_notes(num_sites=num_sites, num_patients=num_patients, seed=seed, label_noise=0.0, skew=skew)
    return _coded(notes, "site", seed)


def public_coded_notes(*, num_records: int = 600, num_sites: int = 3, seed: int = 0) -> Corpus:
    """Notes that belong to nobody, to judge a model on; see `public_sample`."""
    return _coded(public_sample("hospital", num_records=num_records, num_sites=num_sites, seed=seed), "public", seed)


def _coded(notes: Corpus, stream: str, seed: int) -> Corpus:
    rows, seen = [], Counter[str]()
    for text, label, unit in zip(notes.text, notes.label, notes.unit, strict=True):
        seen[unit] += 1
        draws = Draws("codes", stream, seed, unit, seen[unit])  # its own stream: more units change no earlier one
        rows.append(_note(draws, text, label))
    return Corpus(
        labels=LABELS,
        unit_name=notes.unit_name,
        text=tuple(text for text, _ in rows),
        label=tuple(SEPARATOR.join(found) for _, found in rows),
        unit=notes.unit,
        site=notes.site,
    )


def _note(draws: Draws, text: str, label: str) -> tuple[str, list[str]]:
    """A text and its codes, in the order of `LABELS`."""
    if draws.chance(_CLERICAL):
        return _CLERK[draws.below(len(_CLERK))], []
    found = [label]
    for _ in range(draws.weighted(_FURTHER)):
        others = [name for name in LABELS if name not in found]
        name = others[draws.below(len(others))]
        found.append(name)
        phrase = _ALSO[draws.below(len(_ALSO))]
        words = {slot: choices[draws.below(len(choices))] for slot, choices in SPECIALTIES[name].items()}
        text = f"{text} {phrase.format(**words)}"
    return text, sorted(found, key=LABELS.index)
