"""Which kinds of personal identifiers a text likely holds: kinds alone, never what was found.

National numbers, account and card numbers count only where their check digits (python-stdnum) are right; a number
without one of its own, or of a form that many numbers have, only where the text names it. Telephone numbers must be
ones that may exist (phonenumbers). What the checks let pass by chance is a false alarm, so all of it is "likely".

Numbers are looked for in windows around digits, so that a text is read a few times and not once for each kind.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from itertools import islice

import phonenumbers
from stdnum import iban, luhn
from stdnum.be import nn
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import ssn

MAX_CHARACTERS = 20_000  # of a text that are read
_MAX_NUMBERS = 50  # of a kind in a text that are checked
_BEFORE, _AFTER = 28, 20  # characters around a number that are read with it
_RUN = re.compile(r"\d[\d .()/:+-]{1,60}\d")
_NO_DIGIT = re.compile(r"\D")
_DIGITS, _LONG = 4, 6  # of a run: fewer say nothing; fewer are no number of a person

_MONTHS = (
    "(?:jan(?:uary|uar|vier)?|feb(?:ruary|ruar)?|févr(?:ier)?|mar(?:ch|s)?|märz|apr(?:il)?|avril|ma[iy]|jun[ei]?|juin|"
    "jul[iy]?|juillet|aug(?:ust)?|août|sept?(?:ember|embre)?|o[ck]t(?:ober|obre)?|nov(?:ember|embre)?|"
    "d[eé][cz](?:ember|embre)?)"
)
_DATE = re.compile(
    r"(?<![\d./-])(?:(?P<y>(?:19|20)\d\d)([./-])(?P<m>\d\d?)\2(?P<d>\d\d?)|(?P<a>\d\d?)([./-])(?P<b>\d\d?)\6"
    r"(?P<z>(?:19|20)\d\d|\d\d))(?![\d./-]*\d)"
)
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_SPELT = re.compile(
    rf"\b\d\d?(?:st|nd|rd|th|\.)? {_MONTHS}\.?,? (?:19|20)\d\d\b"
    rf"|\b{_MONTHS}\.? \d\d?(?:st|nd|rd|th)?,? (?:19|20)\d\d\b",
    re.IGNORECASE,
)
_BORN = re.compile(
    r"\b(?:d\.?o\.?b\b|date of birth|birth ?date|born|geb(?:oren\b|\.|urtsdatum)|née?\b|date de naissance|nat[oa]\b|"
    r"data di nascita|nacid[oa]\b|fecha de nacimiento|geboortedatum|född|født|urodzon[ya])[^\d]{0,20}$",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
_URL = re.compile(r"\bhttps?://[^\s/]+\.\w|\bwww\.[A-Za-z0-9-]+\.[A-Za-z]{2,}", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<!\d)(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d\d([ -]?)\d{6}\2\d{5})(?![ -]?\d)")
_PHONE = re.compile(r"(?<![\w+])(?:\+|00)[1-9][\d ().-]{6,18}\d(?![\d-])|(?<![\w.,-])\(?0\d[\d ()/.-]{6,16}\d(?![\d-])")
_PHONE_US = re.compile(r"(?<![\w.,-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\d-])")
_REGIONS = ("GB", "DE", "FR", "IT", "NL", "CH", "AT", "BE", "SE")  # whose national numbers begin with 0
_PHONE_WORD = re.compile(r"\b(?:tel|phone|telefon|téléphone|mobile?|handy|cell|fax|call|ring|reach)", re.IGNORECASE)


@dataclass(frozen=True)
class _Form:
    """How a national number is written. word: what must stand beside it, where many numbers have this form."""

    pattern: re.Pattern[str]
    valid: Callable[[str], bool]
    digits: int  # that it has at least, with nothing but separators in between
    word: re.Pattern[str] | None = None

    def stands_in(self, window: str) -> bool:
        if self.word is not None and not self.word.search(window):
            return False
        return any(self.valid(one) for one in _some(self.pattern, window))


def _form(pattern: str, valid: Callable[[str], bool], digits: int, word: str = "") -> _Form:
    return _Form(re.compile(pattern), valid, digits, re.compile(word, re.IGNORECASE) if word else None)


_NATIONAL = {
    "US social security numbers": [_form(r"(?<![\w-])\d{3}-\d\d-\d{4}(?![\w-])", ssn.is_valid, 9)],
    "UK NHS numbers": [
        _form(r"(?<![\w+-])\d{3} \d{3} \d{4}(?![\w-])", nhs.is_valid, 10),
        _form(r"(?<![\w+-])\d{3}-?\d{3}-?\d{4}(?![\w-])", nhs.is_valid, 10, r"\bnhs\b"),
    ],
    "German tax ids": [
        _form(r"(?<![\w+])[1-9]\d \d{3} \d{3} \d{3}(?!\w)", idnr.is_valid, 11),
        _form(r"(?<![\w+])[1-9]\d{10}(?!\w)", idnr.is_valid, 11, r"steuer|idnr|id-nr|\btin\b"),
    ],
    "French social security numbers": [
        _form(r"(?<!\w)[1278] ?\d\d ?\d\d ?\d[\dAB] ?\d{3} ?\d{3} ?\d\d(?!\w)", nir.is_valid, 8)
    ],
    "Dutch citizen service numbers": [
        _form(r"(?<!\w)\d{4}[. ]?\d\d[. ]?\d{3}(?!\w)", bsn.is_valid, 9, r"\bbsn\b|burgerservice|sofi")
    ],
    "Spanish identity numbers": [
        _form(r"(?<!\w)\d{8}-?[A-Z](?!\w)", dni.is_valid, 8),
        _form(r"(?<!\w)[XYZ]-?\d{7}-?[A-Z](?!\w)", nie.is_valid, 7),
    ],
    "Swedish personal numbers": [_form(r"(?<!\w)(?:19|20)?\d{6}[-+]\d{4}(?!\w)", personnummer.is_valid, 10)],
    "Swiss social security numbers": [_form(r"(?<!\w)756\.?\d{4}\.?\d{4}\.?\d\d(?!\w)", ahv.is_valid, 13)],
    "Belgian national numbers": [
        _form(r"(?<!\w)\d\d\.\d\d\.\d\d-\d{3}\.\d\d(?!\w)", nn.is_valid, 11),
        _form(r"(?<!\w)\d{11}(?!\w)", nn.is_valid, 11, r"rijksregister|registre national|national number|\bniss\b"),
    ],
    "Polish PESEL numbers": [_form(r"(?<![\w+])\d{11}(?!\w)", pesel.is_valid, 11, "pesel")],
    "Finnish personal identity codes": [_form(r"(?<!\w)\d{6}[-+A]\d{3}[0-9A-Y](?!\w)", hetu.is_valid, 6)],
}
_CODICE = re.compile(r"(?<!\w)[A-Z]{6}\d\d[A-Z]\d\d[A-Z]\d{3}[A-Z](?!\w)")

KINDS = (
    *(
        "e-mail addresses",
        "telephone numbers",
        *_NATIONAL,
        "Italian tax codes",
        "IBANs",
        "payment card numbers",
        "dates of birth",
        "dates",
    ),
    *("web addresses", "IP addresses"),
)
PERSONAL = tuple(kind for kind in KINDS if kind not in ("dates", "web addresses"))
"""Kinds that point to one person; the others only may."""


def kinds(text: str) -> set[str]:
    """The kinds of `KINDS` that the text likely holds. A number may be of several."""
    text = text[:MAX_CHARACTERS]
    found = set()
    if "@" in text and _EMAIL.search(text):
        found.add("e-mail addresses")
    if _URL.search(text):
        found.add("web addresses")
    if text.count(":") > 2 and any(_is_address(part[0]) for part in _IPV6.finditer(text)):
        found.add("IP addresses")
    if any(iban.is_valid(one) for one in _some(_IBAN, text)):
        found.add("IBANs")
    if any(codicefiscale.is_valid(one) for one in _some(_CODICE, text)):
        found.add("Italian tax codes")
    for run in _RUN.finditer(text):
        if (num_digits := len(_digits(run[0]))) >= _DIGITS:
            _look(text[max(0, run.start() - _BEFORE) : run.end() + _AFTER], num_digits, found)
    return found


def _look(window: str, num_digits: int, found: set[str]) -> None:
    """Add the kinds of numbers in a window to `found`; num_digits: of the run that the window is about."""
    if not {"dates", "dates of birth"} <= found:
        spelt = _SPELT.finditer(window) if _YEAR.search(window) else ()
        for match in (*(one for one in _DATE.finditer(window) if _is_date(one)), *spelt):
            found.add("dates of birth" if _BORN.search(window[: match.start()]) else "dates")
    if "IP addresses" not in found and window.count(".") >= 3 and any(map(_is_address, _some(_IPV4, window))):
        found.add("IP addresses")
    if num_digits < _LONG:
        return
    for kind, forms in _NATIONAL.items():
        if kind not in found and any(num_digits >= form.digits and form.stands_in(window) for form in forms):
            found.add(kind)
    if num_digits >= 14 and any(luhn.is_valid(_digits(one)) for one in _some(_CARD, window)):
        found.add("payment card numbers")
    if "telephone numbers" not in found and _is_phone(window):
        found.add("telephone numbers")


def _some(form: re.Pattern[str], text: str) -> list[str]:
    return [match[0] for match in islice(form.finditer(text), _MAX_NUMBERS)]


def _is_phone(window: str) -> bool:
    """International; national of a European country; North American. The last two as one writes them."""
    for one in _some(_PHONE, window):
        international = one.startswith(("+", "00"))
        number = "+" + one[2:] if one.startswith("00") else one
        if international and _exists(number, None):
            return True
        grouped = any(sign in one for sign in " ()/-") or _PHONE_WORD.search(window)
        if not international and grouped and not _DATE.search(one):
            return any(_exists(one, region) for region in _REGIONS)
    return any(_exists(one, "US") for one in _some(_PHONE_US, window))


def _exists(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


def _is_date(match: re.Match[str]) -> bool:
    if match["y"]:
        return _exists_day(int(match["y"]), int(match["m"]), int(match["d"]))
    if match["a"]:
        year = int(match["z"]) + (2000 if len(match["z"]) == 2 else 0)
        first, second = int(match["a"]), int(match["b"])
        return _exists_day(year, second, first) or _exists_day(year, first, second)
    return True


def _exists_day(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _is_address(text: str) -> bool:
    """An IP address; the number of a section, such as 1.2.3.4, is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return len(_digits(text)) > 4 if address.version == 4 else any(sign in "abcdefABCDEF" for sign in text)


def _digits(text: str) -> str:
    return _NO_DIGIT.sub("", text)
