"""Messages mutated as bytes: the objects of a sound one, flipped, cut, spliced, with counts that overflow."""

import random
from collections.abc import Iterator

from tests.fuzz.oracle import Contents, Side, objects_of

TOKENS = (
    *(str(n).encode() for n in (0, -1, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 10**30, 50 << 20)),
    *(
        b"null",
        b"[]",
        b"{}",
        b'""',
        b"NaN",
        b"Infinity",
        b"[" * 2000,
        b'{"a":' * 500,
        b"\xff" * 8,
        b"\x00",
        b"\x80" * 10,
    ),
    *(b"Array", b"ArrayChunk", b"ArrayRecord", b"ConfigRecord", b"MetricRecord", b"RecordDict", b"Message"),
    *(b"CustomDataClass", b"numpy.ndarray", b"float64", b"object", b"privet", b"arrays", b"flat", b"body", b"\\ud800"),
)


class Corpus:
    """The objects of sound messages under fixed ids, as one blob and back: what a mutation engine works on."""

    def __init__(self, side: Side) -> None:
        self.root, self.contents = objects_of(side.sound())
        self.ids = list(self.contents)

    def blob(self) -> bytes:
        """Each object, its length before it."""
        return b"".join(len(part).to_bytes(3, "big") + part for part in self.contents.values())

    def objects(self, blob: bytes) -> Contents:
        """What a blob says of the objects; more than there were are dropped, missing ones are missing."""
        found: Contents = {}
        start = 0
        for object_id in self.ids:
            if start + 3 > len(blob):
                break
            size = int.from_bytes(blob[start : start + 3], "big")
            found[object_id] = blob[start + 3 : start + 3 + size]
            start += 3 + size
        return found


def mutants(side: Side, seed: int, count: int) -> Iterator[tuple[str, Contents]]:
    """`count` mutated messages as (root, objects). The ids stay: more than a site could do, for those are checked."""
    generator, corpus = random.Random(seed), Corpus(side)
    donor = Corpus(side).contents | objects_of(side.sound())[1]
    for _ in range(count):
        contents = dict(corpus.contents)
        for _ in range(generator.randint(1, 3)):
            object_id = generator.choice(corpus.ids)
            if object_id in contents:
                _mutate(generator, contents, object_id, list(donor.values()))
        yield corpus.root, contents


def _mutate(generator: random.Random, contents: Contents, object_id: str, donors: list[bytes]) -> None:
    data = bytearray(contents[object_id])
    at = generator.randrange(len(data) + 1)
    how = generator.randrange(9)
    if how == 0 and data:
        data[at % len(data)] ^= 1 << generator.randrange(8)
    elif how == 1 and data:
        data[at % len(data)] = generator.randrange(256)
    elif how == 2:
        del data[at:]
    elif how == 3:
        del data[at : at + generator.randint(1, 40)]
    elif how == 4:
        data[at : at + generator.randrange(12)] = generator.choice(TOKENS)
    elif how == 5:
        data[at:at] = data[at : at + generator.randint(1, 200)]
    elif how == 6:
        other = generator.choice(donors)
        data[at:] = other[generator.randrange(len(other)) :]
    elif how == 7:
        data[:] = generator.choice(donors)
    else:
        del contents[object_id]
        return
    body = data.find(b"\x00") + 1
    if body and generator.random() < 0.7:  # a head that fits, so that what follows is looked at
        head = bytes(data[: body - 1]).split(b" ")
        head[-1] = str(len(data) - body).encode()
        data[: body - 1] = b" ".join(head)
    contents[object_id] = bytes(data)
