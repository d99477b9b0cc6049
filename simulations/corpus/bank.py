"""Wording of the generated bank complaints: six products, no real person, bank or brand.

Products share the trouble that any of them can give (fees, letters, waiting on the phone), and a customer often
mentions another product that works well: some complaints cannot be told apart, as in life.
"""

from privet.simulations.corpus.grammar import Wording

LABELS = ("account", "card", "insurance", "loan", "mortgage", "savings")

PRODUCTS: dict[str, Wording] = {
    "account": {
        "noun": ("current account", "everyday account", "account"),
        "core": (
            "my salary was not credited on pay day",
            "a standing order was paid twice",
            "the overdraft was cut without a word",
            "the cash machine kept my money but booked it",
            "a direct debit went out after I had cancelled it",
            "my account was frozen while I was at the till",
            "the switch to you left two debits behind",
        ),
        "vague": (
            "a fee I never agreed to",
            "a payment that never arrived",
            "an app that locks me out",
            "a balance that is wrong",
        ),
        "detail": (
            "the branch could not see the debit",
            "my rent bounced because of it",
            "the overdraft interest alone is {sum}",
            "my employer confirmed the transfer",
            "the paying-in slip is enclosed",
        ),
        "demand": ("unfreeze the account", "restore the overdraft", "return the bounced debit fee", "trace the credit"),
    },
    "card": {
        "noun": ("credit card", "card"),
        "core": (
            "a shop abroad charged me twice",
            "the new plastic never came in the post",
            "a purchase I did not make is on the statement",
            "my chargeback was turned down without a reason",
            "the card was declined at the restaurant",
            "the contactless limit was lowered overnight",
            "cash advance interest was added to a normal purchase",
        ),
        "vague": (
            "a fee I never agreed to",
            "a limit that was changed",
            "an app that locks me out",
            "interest I cannot follow",
        ),
        "detail": (
            "the merchant has already confirmed the refund",
            "I still have the receipt for {sum}",
            "the PIN letter came a month late",
            "the exchange rate differs from the receipt",
            "I reported it stolen the same evening",
        ),
        "demand": ("reverse the transaction", "reopen the chargeback", "send a replacement", "lift the spending block"),
    },
    "insurance": {
        "noun": ("insurance", "home cover", "policy"),
        "core": (
            "my claim for water damage was refused",
            "the assessor never came to look at the roof",
            "the premium went up by a third at renewal",
            "a cancelled trip is said not to be covered",
            "the cover lapsed although I had paid",
            "the excess was taken twice for one burglary",
            "you added a cover that I had declined",
        ),
        "vague": (
            "a letter that contradicts the last one",
            "a refund that is missing",
            "a form that was lost",
            "a price that rose",
        ),
        "detail": (
            "the plumber's report was sent in {month}",
            "the small print does not mention it",
            "the loss adjuster gave no reason",
            "photographs of the damage are enclosed",
            "the no-claims years were left out",
        ),
        "demand": ("settle the claim", "refund the unused premium", "send another assessor", "correct the renewal"),
    },
    "loan": {
        "noun": ("personal loan", "loan"),
        "core": (
            "the instalment was collected twice",
            "I repaid early and was charged for it",
            "the car finance was approved and then withdrawn",
            "you reported me late to the credit register",
            "the money was paid out two weeks after signing",
            "the instalments run on although I have repaid it all",
            "the monthly amount is higher than on the contract",
        ),
        "vague": (
            "a balance that is wrong",
            "a form that was lost",
            "interest I cannot follow",
            "a letter that contradicts the last one",
        ),
        "detail": (
            "the last instalment was {sum}",
            "the settlement figure changed twice",
            "my credit score has dropped since",
            "the agreement names another rate",
            "the dealer is still waiting for the money",
        ),
        "demand": ("correct the credit register", "return the early repayment charge", "close the agreement"),
    },
    "mortgage": {
        "noun": ("mortgage", "home loan"),
        "core": (
            "the fixed rate was not extended as promised",
            "the valuation of our house is far too low",
            "completion fell through because papers came late",
            "the overpayment went to interest, not to the debt",
            "the land registry entry has not been released",
            "you refused to move the rate to the new house",
            "the solicitor has waited weeks for the funds",
        ),
        "vague": (
            "interest I cannot follow",
            "a form that was lost",
            "a price that rose",
            "a payment that never arrived",
        ),
        "detail": (
            "the seller threatens to pull out",
            "the surveyor spent ten minutes in the house",
            "the rate lock ran out in {month}",
            "our repayments rose by {sum}",
            "the deeds are still with you",
        ),
        "demand": ("honour the fixed rate", "order a second valuation", "release the charge", "pay the solicitor"),
    },
    "savings": {
        "noun": ("savings account", "savings", "deposit"),
        "core": (
            "the bonus rate was dropped after three months",
            "the term deposit renewed itself without asking",
            "interest for the whole year is missing",
            "I cannot withdraw although the notice has run out",
            "the tax-free allowance was recorded wrongly",
            "my child's nest egg was closed by mistake",
            "the transfer of my fixed bond has been stuck",
        ),
        "vague": (
            "a refund that is missing",
            "a limit that was changed",
            "a balance that is wrong",
            "a payment that never arrived",
        ),
        "detail": (
            "the advertised rate was twice as high",
            "the bond matured in {month}",
            "I had put away {sum} by then",
            "the notice period was kept to the day",
            "the passbook shows another figure",
        ),
        "demand": ("pay the missing interest", "release the deposit", "restore the bonus rate", "undo the renewal"),
    },
}

COMMON: Wording = {
    "trouble": ("{core}", "{core}", "{core}", "{core}", "it comes down to {vague} and {vague}", "it is about {vague}"),
    "product": ("{noun}", "{noun}", "{brand}", "{brand}", "contract"),
    "days": range(3, 29),
    "day": range(1, 29),
    "sum": ("{pounds} pounds", "more than {pounds} pounds", "{pounds}.50 pounds"),
    "pounds": range(15, 900),
    "month": ("January", "March", "May", "July", "September", "November"),
    "opening": (
        "I am writing about my {product}: {trouble}",
        "on {day} {month} I found that {trouble}",
        "{trouble}, and nobody at {brand} can tell me why",
        "once again {trouble}",
    ),
    "circumstance": (
        "{detail}",
        "{detail}, as I told your colleague",
        "{detail}, which has cost me {sum}",
        "I have been a customer for {days} years, and {detail}",
        "this has been going on for {days} days",
        "nothing in my circumstances has changed since {day} {month}",
    ),
    "contact": (
        "I waited {days} minutes on the phone and was cut off",
        "my letter of {day} {month} has not been answered",
        "on {day} {month} the branch sent me away",
        "since {day} {month} the chat only repeats the same answer",
        "I have asked {days} times, and every adviser says something else",
        "the reply of {day} {month} was about something else",
    ),
    "aside": (
        "my {other_brand} with you has never given trouble",
        "my {other_noun} on the other hand works well",
        "it is not about the {other_brand}, as your letter assumed",
        "your colleague only wanted to talk about {other_brand}",
        "in {month} you offered to {other_demand}, which is not my case at all",
        "my neighbour had a different case: {other_core}",
        "last year {other_core}, and that was solved",
    ),
    "request": (
        "please {demand}",
        "I only want you to {demand}",
        "I ask you to {demand} within {days} days",
        "please put this right",
        "I expect an answer within {days} days",
        "otherwise I shall go to the ombudsman",
        "I want this looked at by someone who reads it",
        "an apology would be a start",
    ),
}

SHAPES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (3, ("opening", "circumstance", "request")),
    (3, ("opening", "circumstance", "aside", "request")),
    (3, ("opening", "contact", "request")),
    (3, ("opening", "aside", "contact", "request")),
    (2, ("opening", "contact", "circumstance")),
    (2, ("opening", "aside", "contact")),
    (1, ("opening", "aside", "circumstance", "contact")),
)
