"""Six ways to keep notes: how a hospital opens and closes them, its shorthand, and what its wards are called.

A hospital's number decides its style; from the seventh on they come round again.
"""

from privet.simulations.corpus.grammar import Phrases, Shorthand, Wording
from privet.simulations.corpus.hospital import COMMON

STYLES: tuple[Wording, ...] = (
    {},
    {
        "opening": (
            "{age} y/o {who}, complains of {complaint} {span}",
            "{who} {age}, admitted to {ward}, complains of {complaint} {span}",
        ),
        "outlook": (*COMMON["outlook"], "discharge from {ward}, follow-up in {weeks} weeks"),
    },
    {
        "opening": (
            "presenting complaint: {complaint} {span}; {who}, {age}",
            "reason for visit: {complaint} {span} in a {who} aged {age}",
            "attended {ward} at the age of {age}, {who}; main problem {complaint} {span}",
        ),
        "negative": (
            "negatives: {other_core}, {other_vague}",
            "asked about {other_core}: none",
            "{other_test} not indicated",
            "{other_condition} thought unlikely",
        ),
    },
    {
        "opening": (
            "thank you for asking me to see this {who} of {age}, who has had {complaint} {span}",
            "I met this {who} ({age}) on {ward} because of {complaint} {span}",
        ),
        "outlook": (
            "my advice: {plan}",
            "I have prescribed {drug}",
            "I have asked for {test}",
            "I shall see them again in {weeks} weeks",
            "no further appointment has been made",
            "I have explained what to look out for",
        ),
    },
    {
        "opening": (
            "nurse-led clinic, {ward}: {complaint} {span} ({who}, {age})",
            "drop-in visit, {who}, {age}: {complaint} {span}",
        ),
        "background": (*COMMON["background"], "carer present", "interpreter used for the whole visit"),
    },
    {
        "opening": (
            "telephone review of a {who} of {age}: {complaint} {span}",
            "call from {ward}: {complaint} {span}, {age}",
        ),
        "finding": ("not examined", "sounds comfortable on the phone", "reports {sign}", "{test}: normal, filed"),
    },
)

SHORTHAND = (
    Shorthand({}),
    Shorthand(
        {
            "complains of": "c/o", "history of": "hx", "examination": "o/e", "patient": "pt", "Patient": "Pt",
            "review": "r/v", "follow-up": "f/u", "weeks": "wk", "blood pressure": "BP", "on and off": "o/o",
            "normal": "NAD", "observations": "obs", "no sign of": "nil", "breathlessness": "SOB", "known": "PMH",
        }
    ),
    Shorthand({"year-old": "yrs", "with": "w/", "without": "w/o", "weeks": "wks", "chest discomfort": "chest d/c"}),
    Shorthand({}),
    Shorthand({"patient": "client", "tiredness": "fatigue", "dizziness": "giddiness", "itching": "pruritus"}),
    Shorthand({"weeks": "wk", "month": "mth", "patient": "caller", "months": "mths"}),
)  # fmt: skip

_WARDS = (
    ("Heron", "Wren", "Plover", "Curlew", "Siskin", "Teal"),
    ("Ward 1", "Ward 2", "Ward 3", "Ward 4", "Ward 5", "Ward 6"),
    ("Quartz", "Flint", "Slate", "Basalt", "Chalk", "Marble"),
    ("Unit A", "Unit B", "Unit C", "Unit D", "Unit E", "Unit F"),
    ("the Orchard", "the Meadow", "the Spinney", "the Dell", "the Copse", "the Glade"),
    ("bay 11", "bay 12", "bay 13", "bay 14", "bay 15", "bay 16"),
)


def wards(style: int) -> tuple[Phrases, ...]:
    """By specialty: mostly its own ward of that house, now and then the next one, where it has outliers."""
    names = _WARDS[style]
    return tuple((name, name, name, names[(index + 1) % len(names)]) for index, name in enumerate(names))
