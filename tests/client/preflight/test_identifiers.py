"""Likely identifiers: each kind is found where it is, and ordinary numbers of notes are not taken for one."""

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.gb import nhs

from privet.client.preflight.identifiers import KINDS, MAX_CHARACTERS, PERSONAL, kinds

# Published examples of the numbers' authorities and of the libraries' documentation; nobody's.
EXAMPLES = {
    "e-mail addresses": ["write to anna.b@example.org please", "<a@b.example.com>"],
    "telephone numbers": [
        "call +49 30 901820",
        "Tel. 030 901820 today",
        "(212) 555-2368 rang",
        "phone 020 7946 0018",
        "0612345678 mobile",
        "06 12 34 56 78",
        "reach me at 415-555-2671",
    ],
    "US social security numbers": ["ssn 536-90-4399"],
    "UK NHS numbers": ["943 476 5919", "NHS number: 9434765919", "NHS no 943-476-5919"],
    "German tax ids": ["Steuer-ID 36574261809", "36 574 261 809"],
    "French social security numbers": ["2 95 10 99 126 111 93", "295109912611193"],
    "Dutch citizen service numbers": ["BSN 111222333", "bsn: 1112.22.333"],
    "Spanish identity numbers": ["54362315-K", "X-2482300W", "54362315K"],
    "Swedish personal numbers": ["880320-0016"],
    "Swiss social security numbers": ["756.9217.0769.85"],
    "Belgian national numbers": ["85.07.30-033.28"],
    "Polish PESEL numbers": ["PESEL 44051401359"],
    "Finnish personal identity codes": ["131052-308T"],
    "Italian tax codes": ["RCCMNL83S18D969H"],
    "IBANs": ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "to DE89 3704 0044 0532 0130 00 please"],
    "payment card numbers": ["4111 1111 1111 1111", "378282246310005", "5500-0000-0000-0004"],
    "dates of birth": ["DOB: 12/03/1961", "geb. am 3.4.1950", "born on 4 March 1971", "date of birth 1961-02-03"],
    "dates": ["seen 2024-02-29", "on 12.03.24 again", "March 4, 2021", "am 3. Mai 2020"],
    "web addresses": ["see https://example.org/x", "www.example.com"],
    "IP addresses": ["from 192.168.10.4", "2001:db8:85a3::8a2e:370:7334"],
}


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS) >= set(PERSONAL)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in EXAMPLES.items() for text in texts])
def test_each_kind_is_found(kind: str, text: str) -> None:
    assert kind in kinds(text)
    assert kind in kinds(f"Patient well, bp 120/80. {text}, to be seen again.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bp 120/80, pulse 72, temp 37.5",
        "section 1.2.3.4",
        "order 1234567890 shipped",
        "on 31/31/2020",
        "12:30:45",
        "Dose 500 mg 3x/day 2-4-6",
        "0.5 - 1.5 mg",
        "ICD-10 I10.9, room 12 bed 3",
        "HbA1c 6.5 % 48 mmol/mol, Na 140 K 4.0 Cl 102 CO2 24",
        "00:00:00:00",
        "score 10 000 000",
        "0.25 0.50 0.75 1.00",
        "std::vector<int>::iterator",
        "a@b",
        "amount 1,234,567.89",
        "NHS 9434765918",  # a wrong check digit
        "BSN 111222334",
        "111222333",  # right, and one in eleven numbers is
        "4111 1111 1111 1112",
        "DE88370400440532013000",
        "900-12-3456",  # no social security number begins so
    ],
)
def test_ordinary_numbers_are_not(text: str) -> None:
    assert not kinds(text)


def test_false_alarms_of_plain_numbers_are_few() -> None:
    """Numbers of 5 to 12 digits without a word beside them: laboratory values, orders, records."""
    draw = random.Random(7)
    texts = [f"no {draw.randrange(10 ** draw.randint(5, 12))} of the lab" for _ in range(1000)]
    assert sum(not kinds(text).isdisjoint(PERSONAL) for text in texts) <= 20


def test_generated_numbers_with_check_digits() -> None:
    draw = random.Random(3)
    for _ in range(50):
        body = "".join(draw.choice(string.digits) for _ in range(9))
        for check in string.digits:
            assert ("UK NHS numbers" in kinds(f"NHS {body}{check}")) == nhs.is_valid(body + check)
        card = "4" + "".join(draw.choice(string.digits) for _ in range(14))
        assert "payment card numbers" in kinds(card + luhn.calc_check_digit(card))


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("0123456789 .-/()+@:aAzZ\n,é"), max_size=200))
def test_no_text_makes_it_fail(text: str) -> None:
    assert kinds(text) <= set(KINDS)


@pytest.mark.parametrize("unit", ["1 ", "1.", "(0", "12/", "a@", "1-", "A1 ", "ff:", "0 ", "www.", "DE12 ", "+49 "])
def test_a_long_text_of_one_pattern_takes_bounded_work(unit: str) -> None:
    """No expression runs away: the test would meet the suite's time limit."""
    kinds(unit * (2 * MAX_CHARACTERS))
