"""What an evaluation says, in plain sentences."""

from privet.common.evaluating.asked import Evaluation, Skipped
from privet.common.evaluating.calibration import Calibration
from privet.common.evaluating.fairness import LabelGap
from privet.common.evaluating.groups import MIN_UNITS, SIGNIFICANT, Comparison
from privet.common.evaluating.intervals import Interval

_MAX_SENTENCES = 6
NOT_COVERED = (
    "If this text is private, so are these figures: a privacy guarantee of the training covers the adapter, not what "
    "is measured on private text. To publish them is the decision of whoever answers for the text; small groups and "
    "rare labels can tell of single people."
)


def points(value: float) -> str:
    """A difference of shares in percentage points.

    >>> points(-0.0521)
    '5.2 points'
    """
    return f"{100 * abs(value):.1f} points"


def percent(interval: Interval) -> str:
    """A share with its interval.

    >>> percent(Interval(0.8, 0.75, 0.841))
    '80.0 % (75.0 to 84.1)'
    """
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def number(interval: Interval) -> str:
    """
    >>> number(Interval(0.8, 0.75, 0.841))
    '0.800 (0.750 to 0.841)'
    """
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def chance(p_value: float) -> str:
    """
    >>> chance(0.0004998), chance(0.034), chance(0.4)
    ('p < 0.001', 'p = 0.034', 'p = 0.40')
    """
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def calibration_words(found: Calibration) -> str:
    """Whether the model's probabilities can be believed."""
    over = found.overconfidence
    if over.low <= 0 <= over.high:
        first = "On average its probabilities are neither too high nor too low, as far as this file can tell."
    else:
        side = (
            "too high: it is surer than it is right"
            if over.value > 0
            else "too low: it is right more often than it says"
        )
        first = f"On average its probabilities are {points(over.value)} too {side}."
    error = found.expected_error
    return (
        f"{first} The expected calibration error is {number(error)}; a perfectly calibrated model would show "
        f"{found.error_by_chance:.3f} by chance on a file of this size."
    )


def group_words(found: Comparison, accuracy: str, *, by_label: bool = True) -> list[str]:
    """What the comparison of groups shows, and what it does not. by_label: whether labels were to be compared."""
    if not found.groups:
        return [
            f"Nothing can be said about groups: fewer than two have {MIN_UNITS} units (records, or people where --unit "
            f"names them) or more.",
            *_not_compared(found),
        ]
    num = len(found.groups)
    apart = sorted((group for group in found.groups if group.significant), key=lambda group: group.p_value)
    told = []
    for group in apart[:_MAX_SENTENCES]:
        side = "below" if group.gap.value < 0 else "above"
        told.append(
            f"Group {group.name!r}: {accuracy} {percent(group.accuracy)}, {points(group.gap.value)} {side} that of all "
            f"other groups (interval of the gap {100 * group.gap.low:+.1f} to {100 * group.gap.high:+.1f} points). "
            f"That is significant: more than chance explains ({chance(group.p_value)}, corrected for the {num} groups "
            "compared)."
        )
    if len(apart) > _MAX_SENTENCES:
        told.append(f"{len(apart) - _MAX_SENTENCES} further groups differ significantly: see the table.")
    if not apart:
        least = min(group.p_value for group in found.groups)
        widest = max(max(abs(group.gap.low), abs(group.gap.high)) for group in found.groups)
        told.append(
            f"No group's {accuracy} differs significantly from that of the others: chance alone explains what is seen "
            f"({chance(least)} for the group that stands out most, corrected for the {num} groups compared). That does "
            f"not show that they are alike: with groups of these sizes a true gap of up to {points(widest)} remains "
            "possible."
        )
    if found.parity is not None and found.odds is not None:
        told += [_parity(found.parity), _odds(found.odds)]
    elif by_label:
        told.append("No label is frequent enough in every group for a comparison label by label.")
    return told + _not_compared(found)


def _parity(gap: LabelGap) -> str:
    low, high = _ends(gap.rates["given"])
    return (
        f"How often a label is given (demographic parity) differs most for {gap.label!r}: {low} to {high}, a gap of "
        f"{points(gap.gap.value)} ({100 * gap.gap.low:.1f} to {100 * gap.gap.high:.1f}); {_verdict(gap)}. Groups that "
        "have different labels in truth differ so without any fault of the model."
    )


def _odds(gap: LabelGap) -> str:
    kind = max(gap.rates, key=lambda name: max(gap.rates[name].values()) - min(gap.rates[name].values()))
    low, high = _ends(gap.rates[kind])
    about = {"recall": "given where it is true", "false alarms": "given where it is not true"}[kind]
    return (
        f"Among records of the same truth (equalised odds) groups differ most for {gap.label!r}, in how often it is "
        f"{about}: {low} to {high}, a gap of {points(gap.gap.value)} ({100 * gap.gap.low:.1f} to "
        f"{100 * gap.gap.high:.1f}); {_verdict(gap)}."
    )


def _ends(rates: dict[str, float]) -> tuple[str, str]:
    low, high = min(rates, key=lambda name: rates[name]), max(rates, key=lambda name: rates[name])
    return f"{100 * rates[low]:.1f} % in {low!r}", f"{100 * rates[high]:.1f} % in {high!r}"


def _verdict(gap: LabelGap) -> str:
    looked = f"{chance(gap.p_value)}, corrected for the {gap.num_labels} label{'s' * (gap.num_labels > 1)} compared"
    if gap.p_value <= SIGNIFICANT:
        return f"significant ({looked})"
    return f"not significant ({looked})"


def _not_compared(found: Comparison) -> list[str]:
    told = []
    if found.small:
        few = ", ".join(f"{name!r} ({num})" for name, num in found.small[:5]) + (", …" if len(found.small) > 5 else "")
        told.append(
            f"Too small to say anything about, fewer than {MIN_UNITS} units: {len(found.small)} "
            f"group{'s' * (len(found.small) > 1)}, {few}."
        )
    if found.num_without:
        told.append(f"{found.num_without:,} records have no group.")
    return told


def left_words(found: Evaluation) -> list[str]:
    """What was left out of all figures, with the first rows' numbers."""
    left, told = found.left, []
    for skipped, what in (
        (left.unreadable, "unreadable rows"),
        (left.no_text, "rows without text"),
        (left.no_unit, "rows without a unit"),
        (left.no_label, "rows without a label"),
        (left.unfit, "rows for which the adapter gives no finite number"),
        (left.unknown, "rows with a label that the adapter does not know"),
    ):
        if skipped.num:
            told.append(f"Left out {skipped.num:,} {what} ({_rows(skipped)}).")
    if left.unknown_labels:
        names = left.unknown_labels.most_common(20)
        more = ", …" if len(left.unknown_labels) > len(names) else ""
        told.append(f"Labels that it does not know: {', '.join(f'{name!r} ({num:,})' for name, num in names)}{more}.")
    return told


def _rows(skipped: Skipped) -> str:
    shown = ", ".join(map(str, skipped.rows[:10])) + (", …" if skipped.num > 10 else "")
    return f"row{'s' * (skipped.num > 1)} {shown}"
