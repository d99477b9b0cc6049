"""Numbers as a person reads them."""

import math


def size_text(num_bytes: int) -> str:
    """Bytes in a unit of their size.

    >>> size_text(950), size_text(1_180_000)
    ('950 B', '1.2 MB')
    """
    size, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration_text(0.42), duration_text(75), duration_text(7_384)
    ('0.42 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share_text(value: float | None) -> str:
    """A share in [0, 1], a mean loss, or a dash where there is none.

    >>> share_text(0.81249), share_text(None), share_text(float("nan"))
    ('0.812', '–', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def shortened(text: str, most: int) -> str:
    """The text on one line; of a longer one its ends, for names often differ in the last characters alone.

    >>> shortened("a-run-20261122", 9), shortened("short", 6)
    ('a-ru…1122', 'short')
    """
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def unit_of(most: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """The largest unit of which `most` holds two at least, else the smallest.

    >>> unit_of(2.5e6, BYTES), unit_of(90, SECONDS), unit_of(0, BYTES)
    ((1000000.0, 'MB'), (1.0, 'seconds'), (1.0, 'bytes'))
    """
    return next(((size, name) for size, name in reversed(units) if most >= 2 * size), units[0])


BYTES = ((1.0, "bytes"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
SECONDS = ((1e-3, "milliseconds"), (1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"))
