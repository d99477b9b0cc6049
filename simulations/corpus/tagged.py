"""Generated hospital sentences of which every word has a tag: conditions, drugs and tests are the entities.

Put together from the wording of `hospital`: nobody is described. As of any `Corpus` the same arguments give the same
text everywhere. `text` is the words joined by single spaces, `label` the tags, as `privet.common.sequences` has them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from privet.simulations.corpus import SITE_NAMES, Corpus
from privet.simulations.corpus.grammar import Draws
from privet.simulations.corpus.hospital import SPECIALTIES

__all__ = ["TYPES", "tagged_notes", "write_conll", "write_json_lines"]

TYPES = ("condition", "drug", "test")
_ARTICLES = ("a ", "an ", "the ")
_SHAPES = (
    "known {condition} , now on {drug} .",
    "seen after {test} , which shows {condition} .",
    "{test} is booked ; {drug} goes on until then .",
    "no sign of {condition} today .",
    "the patient slept well and eats again .",
    "{drug} was stopped because of {condition} and {condition} .",
    "asked about {drug} by phone , nothing to add .",
    "walks with a stick , no new complaint .",
)
_MORE = 350_000  # parts per million: a patient has one more sentence


def tagged_notes(*, num_sites: int = 3, num_patients: int = 200, seed: int = 0, public: bool = False) -> Corpus:
    """Sentences of `num_patients` patients a site; each site sees two specialties more than the others. public: of
    nobody, from another stream of draws, all specialties alike."""
    columns: tuple[list[str], ...] = ([], [], [], [])
    for index in range(num_sites):
        name = "public" if public else SITE_NAMES[index % len(SITE_NAMES)]
        for number in range(num_patients):
            draws = Draws("tagged", "public" if public else "site", seed, index, number)
            while True:
                words, tags = _sentence(draws, None if public else index)
                row = (" ".join(words), " ".join(tags), f"{name}-{index}-{number + 1:04d}", name)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
                if not draws.chance(_MORE):
                    break
    text, label, unit, site = map(tuple, columns)
    return Corpus(labels=TYPES, unit_name="patient", text=text, label=label, unit=unit, site=site)


def write_json_lines(corpus: Corpus, site: str | None, path: Path) -> None:
    """One site's sentences (None: all): lists `tokens` and `tags`, and `patient`."""
    part = corpus if site is None else corpus.at(site)
    with path.open("w", encoding="utf-8") as file:
        for text, label, unit in zip(part.text, part.label, part.unit, strict=True):
            row = {"tokens": text.split(" "), "tags": label.split(" "), "patient": unit}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_conll(corpus: Corpus, site: str | None, path: Path) -> None:
    """The same in columns, word and tag; the patient stands in a comment above each sentence."""
    part = corpus if site is None else corpus.at(site)
    with path.open("w", encoding="utf-8") as file:
        for text, label, unit in zip(part.text, part.label, part.unit, strict=True):
            lines = [f"{word}\t{tag}" for word, tag in zip(text.split(" "), label.split(" "), strict=True)]
            file.write("\n".join([f"# patient = {unit}", *lines]) + "\n\n")


def _sentence(draws: Draws, site: int | None) -> tuple[Sequence[str], Sequence[str]]:
    words: list[str] = []
    tags: list[str] = []
    for part in _SHAPES[draws.below(len(_SHAPES))].split():
        if not part.startswith("{"):
            words.append(part)
            tags.append("O")
            continue
        kind = part.strip("{}")
        phrase = _phrase(draws, kind, site)
        article = next((a for a in _ARTICLES if phrase.startswith(a)), "")
        inner = phrase.removeprefix(article).split()
        words += [*article.split(), *inner]
        tags += ["O"] * bool(article) + [f"B-{kind}"] + [f"I-{kind}"] * (len(inner) - 1)
    return words, tags


def _phrase(draws: Draws, kind: str, site: int | None) -> str:
    names = sorted(SPECIALTIES)
    own = site is not None and draws.chance(700_000)
    about = (2 * (site or 0) + draws.below(2)) % len(names) if own else draws.below(len(names))
    phrases = SPECIALTIES[names[about]][kind]
    return str(phrases[draws.below(len(phrases))])
