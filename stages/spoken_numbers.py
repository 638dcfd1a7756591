"""Numbers as English speakers say them: years in pairs, long digit strings digit by digit, money, times and dates.

``speak_numbers`` takes lower-case text with ASCII digits and leaves no digit in it. Where one string of digits has more
than one reading (1982 may be a year or a house number), it takes the commonest for the context; the rules stand in
``RULES`` in the order in which they are tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMBER_WORDS = (
    *DIGITS, *"oh ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(),
    *"twenty thirty forty fifty sixty seventy eighty ninety hundred thousand".split(),
)  # fmt: skip
"""What a longer number is made of."""
MONTHS = "january february march april may june july august september october november december".split()
MONTH_ABBREVIATIONS = {name[:3]: place for place, name in enumerate(MONTHS)} | {"sept": 8}
MONTH = r"(?:" + "|".join([*MONTHS, "sept", *(name[:3] for name in MONTHS)]) + r")\b\.?"
CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
PLURALS = {"penny": "pence"}
UNITS = {
    "km": "kilometers", "kg": "kilograms", "cm": "centimeters", "mm": "millimeters", "ml": "milliliters", "mg": "milligrams",
    "mph": "miles per hour", "lbs": "pounds", "lb": "pounds", "hz": "hertz", "khz": "kilohertz", "mb": "megabytes",
    "gb": "gigabytes", "°c": "degrees celsius", "°f": "degrees fahrenheit", "°": "degrees",
}  # fmt: skip
MAX_CARDINAL_DIGITS = 12
"""Longer numbers are read digit by digit, however they are grouped."""


@lru_cache(maxsize=4096)
def cardinal(number: int) -> str:
    """``one hundred and one``: hyphens and commas as spaces."""
    from num2words import num2words

    return _plain(num2words(number))


@lru_cache(maxsize=512)
def ordinal(number: int) -> str:
    """``twenty first``."""
    from num2words import num2words

    return _plain(num2words(number, to="ordinal"))


def _plain(words: str) -> str:
    return " ".join(words.replace("-", " ").replace(",", " ").split())


def digit_by_digit(digits: str) -> str:
    """``one five two one three``."""
    return " ".join(DIGITS[int(digit)] for digit in digits)


def year(digits: str) -> str:
    """Four digits as a year: ``nineteen eighty two``, ``nineteen oh five``, ``nineteen hundred``, ``two thousand five``."""
    century, rest = int(digits[:2]), int(digits[2:])
    if century % 10 == 0 and rest < 10:
        return cardinal(century * 100) + (f" {DIGITS[rest]}" if rest else "")
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} " + (f"oh {DIGITS[rest]}" if rest < 10 else cardinal(rest))


def integer(digits: str) -> str:
    """A bare string of digits in its commonest reading.

    One to three digits are a number. Four are a year from 1900 to 2099, else said digit by digit (a PIN, a house) unless
    they are round. Longer ones and those with a leading zero are said digit by digit unless they are whole thousands.
    """
    if digits.startswith("0") or len(digits) > MAX_CARDINAL_DIGITS:
        return digit_by_digit(digits)
    number = int(digits)
    if len(digits) <= 3 or number % 1000 == 0:
        return cardinal(number)
    if len(digits) == 4 and 1900 <= number <= 2099:
        return year(digits)
    if len(digits) == 4 and number % 100 == 0:
        return f"{cardinal(number // 100)} hundred"
    return digit_by_digit(digits)


def _grouped(text: str) -> str:
    """A number with thousands separators, or a bare one, as a cardinal."""
    digits = text.replace(",", "")
    if len(digits) > MAX_CARDINAL_DIGITS or (digits.startswith("0") and len(digits) > 1):
        return digit_by_digit(digits)
    return cardinal(int(digits))


def _decimal(whole: str, fraction: str) -> str:
    return f"{_grouped(whole)} point {digit_by_digit(fraction)}" if fraction else _grouped(whole)


def _count(amount: str, unit: str) -> str:
    """``one dollar``, ``two dollars``, ``five pence``."""
    return f"{_grouped(amount)} {unit if int(amount.replace(',', '')) == 1 else PLURALS.get(unit, unit + 's')}"


def _money(match: re.Match[str]) -> str:
    sign, whole, fraction, scale = match.groups()
    unit, small = CURRENCIES[sign]
    if scale:
        return f" {_decimal(whole, fraction or '')} {scale} {unit}s "
    if fraction is None or len(fraction) != 2:
        return f" {_decimal(whole, fraction)} {unit}s " if fraction else f" {_count(whole, unit)} "
    if int(fraction) == 0:
        return f" {_count(whole, unit)} "
    cents = _count(str(int(fraction)), small)
    return f" {cents} " if int(whole.replace(",", "")) == 0 else f" {_count(whole, unit)} and {cents} "


def _time(match: re.Match[str]) -> str:
    hour, minute, half = match.groups()
    after = f" {half[0]} m" if half else ""
    if int(minute) == 0:
        return f" {cardinal(int(hour))}{after or ' o' + chr(39) + 'clock'} "
    minutes = f"oh {DIGITS[int(minute)]}" if int(minute) < 10 else cardinal(int(minute))
    return f" {cardinal(int(hour))} {minutes}{after} "


def _iso_date(match: re.Match[str]) -> str:
    when, month, day = match.groups()
    return f" {MONTHS[int(month) - 1]} {ordinal(int(day))} {year(when)} "


def _decade(match: re.Match[str]) -> str:
    century, tens = match.groups()
    plural = cardinal(int(tens)).removesuffix("y") + "ies" if int(tens) else "hundreds"
    return f" {cardinal(int(century))} {plural} " if century else f" {plural} "


def _month(word: str) -> str:
    """A month's full name for its abbreviation; another word as it is ("Jan" alone may be a person)."""
    short = word.rstrip(".")
    return MONTHS[MONTH_ABBREVIATIONS[short]] if short in MONTH_ABBREVIATIONS else word


HALVES = {"1/2": "one half", "1/4": "one quarter", "3/4": "three quarters", "1/3": "one third", "2/3": "two thirds"}

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]
GROUPED = r"\d{1,3}(?:,\d{3})+|\d+"

RULES: tuple[Rule, ...] = (
    (re.compile(r"(?<![\w.,)])-(?=\d+(?![\d-]))"), lambda _: " minus "),
    (
        re.compile(r"(?<![\d.,])([$£€])\s?(" + GROUPED + r")(?:\.(\d+))?(?:\s?(thousand|million|billion|trillion)\b)?"),
        _money,
    ),
    (re.compile(r"\b(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b"), _iso_date),
    (re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?\s?(?:([ap])\.?\s?m\b\.?)?"), _time),
    (re.compile(r"\b(\d{1,2})\s?([ap])\.?m\b\.?"), lambda m: f" {cardinal(int(m[1]))} {m[2]} m "),
    # phone numbers: groups of digits with separators, read digit by digit
    (
        re.compile(r"\+?(?<!\d)(?:\d{1,3}[-. ])?(?:\(\d{3}\)\s?|\d{3}[-. ])\d{3}[-. ]\d{4}\b|\b\d{3}-\d{4}\b"),
        lambda m: f" {digit_by_digit(re.sub(r'[^0-9]', '', m[0]))} ",
    ),
    (re.compile(r"(" + GROUPED + r")(?:\.(\d+))?\s?%"), lambda m: f" {_decimal(m[1], m[2] or '')} percent "),
    (re.compile(r"(" + GROUPED + r")(?:st|nd|rd|th)\b"), lambda m: f" {_ordinal_of(m[1])} "),
    (re.compile(r"(?<!\d)'?\b(1[1-9]|20)?([2-9]0)'?s\b"), _decade),
    (re.compile(r"\b(1[1-9]|20)(00)'?s\b"), _decade),
    # a day after its month, then the year after either
    (
        re.compile(r"\b(" + MONTH + r")\s(0?[1-9]|[12]\d|3[01])(?![\d:%]|[.,/]\d)\b"),
        lambda m: f"{_month(m[1])} {ordinal(int(m[2]))} ",
    ),
    (
        re.compile(
            r"\b((?:in|since|until|by|year|" + MONTH + r"|[a-z]+(?:st|nd|rd|th))\s?,?\s)(1[1-9]\d\d|20\d\d)\b(?![,.]\d)"
        ),
        lambda m: f"{_month(m[1].strip(' ,'))} {year(m[2])} ",
    ),
    (re.compile(r"\b(" + "|".join(map(re.escape, HALVES)) + r")\b(?!/)"), lambda m: f" {HALVES[m[1]]} "),
    (
        re.compile(r"(" + GROUPED + r")(?:\.(\d+))?\s?(" + "|".join(map(re.escape, UNITS)) + r")(?![a-z])"),
        lambda m: f" {_decimal(m[1], m[2] or '')} {UNITS[m[3]]} ",
    ),
    (re.compile(r"\b\d{1,3}(?:,\d{3})+\.\d+|\d+(?:\.\d+)+"), lambda m: f" {_points(m[0])} "),
    (re.compile(r"\b\d{1,3}(?:,\d{3})+\b"), lambda m: f" {_grouped(m[0])} "),
    (re.compile(r"\d+"), lambda m: f" {integer(m[0])} "),
)


def _ordinal_of(text: str) -> str:
    digits = text.replace(",", "")
    return ordinal(int(digits)) if len(digits) <= MAX_CARDINAL_DIGITS else digit_by_digit(digits)


def _points(text: str) -> str:
    """``3.14`` -> ``three point one four``; ``1.2.3`` -> ``one point two point three``."""
    whole, *rest = text.split(".")
    return " point ".join([_grouped(whole), *(digit_by_digit(part) for part in rest)])


def speak_numbers(text: str) -> str:
    """Every digit of lower-case ``text`` in words; spaces are not folded."""
    for pattern, say in RULES:
        text = pattern.sub(say, text)
    return text
