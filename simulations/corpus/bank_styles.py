"""Six ways to note complaints: how a bank opens and closes them, its shorthand, and what its products are called.

A bank's number decides its style; from the seventh on they come round again.
"""

from privet.simulations.corpus.grammar import Phrases, Shorthand, Wording

STYLES: tuple[Wording, ...] = (
    {},
    {
        "opening": (
            "customer calls about {product}, says {trouble}",
            "customer states: {trouble}; product {brand}",
            "call logged under {product}: {trouble}",
        ),
        "request": ("customer wants us to {demand}", "call back within {days} days", "passed on", "no action agreed"),
    },
    {
        "opening": (
            "Dear Sir or Madam, I wish to complain about my {product}, as {trouble}",
            "To whom it may concern, regarding {brand}: {trouble}",
        ),
        "request": (
            "I kindly request that you {demand}",
            "I look forward to your reply by {month}",
            "yours in disappointment",
            "I reserve all rights",
        ),
    },
    {
        "opening": ("unbelievable!! {trouble}", "so, {product} again: {trouble}", "{trouble}. Really, {brand}?"),
        "request": (
            "just {demand}",
            "sort it out, it cannot be that hard",
            "one star from me",
            "never again, and I tell everyone",
            "answer me for once",
        ),
    },
    {
        "opening": (
            "branch note, {product}: customer reports that {trouble}",
            "at the counter about {brand}: {trouble}",
        ),
        "request": ("to do: {demand}", "told to write in", "manager informed", "apology given at the counter"),
    },
    {
        "opening": ("form field one, what happened: {trouble}", "subject {product}. What happened: {trouble}"),
        "request": ("wish: {demand}", "wish: a call", "wish: an answer in {days} days", "wish: none given"),
    },
)

SHORTHAND = (
    Shorthand({}),
    Shorthand(
        {
            "customer": "cust", "Customer": "Cust", "account": "a/c", "interest": "int", "payment": "pmt",
            "statement": "stmt", "transaction": "txn", "within": "w/in", "direct debit": "DD", "standing order": "SO",
        }
    ),
    Shorthand({"money": "funds", "wrong": "incorrect", "paid": "remitted", "letter": "correspondence"}),
    Shorthand({"please": "pls", "Please": "Pls", "because": "cos", "you": "u", "weeks": "wks"}),
    Shorthand({"customer": "client", "Customer": "Client", "refund": "reimbursement", "phone": "line"}),
    Shorthand({"pounds": "GBP", "minutes": "min", "months": "mth", "days": "d"}),
)  # fmt: skip

_BRANDS = (
    ("Hazel", "Rowan", "Juniper", "Larch", "Alder", "Willow"),
    ("Delta 10", "Delta 20", "Delta 30", "Delta 40", "Delta 50", "Delta 60"),
    ("Lapwing", "Linnet", "Fieldfare", "Dunnock", "Nuthatch", "Redstart"),
    ("Topaz", "Amber", "Garnet", "Beryl", "Onyx", "Agate"),
    ("Campion", "Yarrow", "Sorrel", "Teasel", "Clover", "Bryony"),
    ("Plan North", "Plan East", "Plan South", "Plan West", "Plan Hill", "Plan Dale"),
)


def brands(style: int) -> tuple[Phrases, ...]:
    """By product: what that bank calls it."""
    return tuple((name,) for name in _BRANDS[style])
