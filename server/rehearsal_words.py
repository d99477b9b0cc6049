"""What a rehearsal found, for people."""

from collections.abc import Mapping
from typing import Any, Protocol

OLD, SILENT, UNSOUND, AWAY, LEFT = "other_version", "no_answer", "unsound_update", "away", "left"
_WORDS = {
    "ok": "ready to rehearse",
    OLD: "it does not know rehearsals: another version of privet",
    SILENT: "no answer in time",
    UNSOUND: "its update has other names, shapes or values than the plan's",
    AWAY: "never came",
    LEFT: "it left before the first round",
    "refused_policy": "no consent, or its policy refuses this plan; its operator was told which",
    "refused_budget": "its budget does not cover this plan",
    "base_mismatch": "its base model differs",
    "adapter_mismatch": "its initial adapter differs: another version of privet",
    "outside_horizon": "it has rehearsed enough for today",
    "unknown_plan": "it was started anew in between",
    "bad_request": "it took the request for a malformed one",
    "unavailable": "it could not: memory, time, or what its operator was told",
}


def in_words(code: str) -> str:
    """What a rehearsal found at a site, for people."""
    return _WORDS.get(code, code)


class Shown(Protocol):
    """A site's row in what is shown."""

    state: str


def site(event: Mapping[str, Any], row: Shown) -> str:
    """What a site said to the offer."""
    row.state = in_words(event["code"])
    return f"{event['site']}: {row.state}"


def round(event: Mapping[str, Any], row: Shown) -> str:
    """One site's round."""
    if event["code"] != "ok":
        row.state = in_words(event["code"])
        return f"rehearsal round {event['round']}: {event['site']}: {row.state}"
    row.state = f"{event['seconds']:.1f} s, {_memory(event['peak_bytes'])}"
    return (
        f"rehearsal round {event['round']}: {event['site']}: {row.state}; answered after {event['round_trip']:.1f} s, "
        f"{event['bytes_down'] / 1e3:,.0f} kB down, {event['bytes_up'] / 1e3:,.0f} kB up"
    )


def summary(event: Mapping[str, Any]) -> str:
    """All sites in a table, and the whole plan's time."""
    lines = [f"{'site':<20} {'passed':<7} {'ready in':>9} {'a round':>9} {'answered':>9} {'memory':>9}"]
    for name, found in event["sites"].items():
        rows = [row for row in found["rounds"] if row["code"] == "ok"]
        slowest = max(rows, key=lambda row: float(row["round_trip"])) if rows else None
        cells = ["–"] * 4
        if slowest is not None:
            cells = [
                f"{value:.1f} s" for value in (found["prepare_seconds"], slowest["seconds"], slowest["round_trip"])
            ]
            cells.append(_memory(slowest["peak_bytes"]))
        lines.append(" ".join([f"{name:<20}", f"{'yes' if found['passed'] else 'NO':<7}", *(f"{c:>9}" for c in cells)]))
    if event["estimate_seconds"] is not None:
        lines.append(f"The whole plan at the slowest site's pace: about {event['estimate_seconds'] / 60:,.1f} minutes.")
    return "\n".join([*lines, f"Nothing was trained on, nothing was spent: {event['run']}"])


def _memory(peak: int | None) -> str:
    return "–" if peak is None else f"{peak / 1e6:,.0f} MB"
