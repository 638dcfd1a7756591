"""Sentences for the demo cohorts: a random grammar over ordinary words, letters, digits and dates.

Every sentence is in spoken form: lower case, no digits, no punctuation; a spelled letter is a word of one letter.
Python's ``random.Random`` makes the choices: its stream is the same in every Python version for a given seed.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.cohorts import wordlists as words

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
]

SPOKEN_FORM = re.compile(r"^[a-z]+( [a-z]+)*$")


@dataclass(frozen=True)
class Sentence:
    """``text`` in spoken form and the rule that made it. Single letters are names of letters where ``spelled``."""

    text: str
    rule: str
    spelled: bool


def two_digits(number: int) -> str:
    """0 to 99 in words: ``seventy two``."""
    if number < 10:
        return DIGITS[number]
    if number < 20:
        return TEENS[number - 10]
    return TENS[number // 10 - 2] + (f" {DIGITS[number % 10]}" if number % 10 else "")


@dataclass
class Grammar:
    """A stream of distinct sentences.

    ``taken`` holds what must not come again (within a cohort and across cohorts). Where letters, digits and months are
    drawn freely, the rarest so far are preferred, so that each of them occurs often in a small cohort. ``known`` limits the
    names and things of a sentence to words that another cohort has spoken.
    """

    seed: str
    taken: set[str] = field(default_factory=set)
    known: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._heard: Counter[str] = Counter()

    def sentence(self, rule: str) -> Sentence:
        """A new sentence of ``rule`` (a key of RULES); control words alone may repeat: there are few of them."""
        make, spelled = RULES[rule]
        for _ in range(1000):
            text = make(self)
            familiar = self.known is None or self.known.issuperset(text.split())
            if familiar and (rule == "control" or text not in self.taken):
                break
        else:
            raise RuntimeError(f"rule {rule!r} has no new sentence left after {len(self.taken)}")
        self.taken.add(text)
        self._heard.update(text.split())
        return Sentence(text, rule, spelled)

    def pick(self, options: list[str]) -> str:
        return self._random.choice(options)

    def rare(self, options: Iterable[str]) -> str:
        """One of ``options``, the less it was heard (as a word, or as a whole) the likelier."""
        choices = list(options)
        weights = [1.0 / (self._heard[choice] + 4) ** 4 for choice in choices]
        choice = self._random.choices(choices, weights)[0]
        if " " in choice:  # a phrase or a template: no word of a sentence counts it
            self._heard[choice] += 1
        return choice

    def between(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def letters(self, low: int, high: int) -> str:
        return " ".join(self.rare(string.ascii_lowercase) for _ in range(self.between(low, high)))

    def digit(self) -> str:
        """A digit by name; nought is ``zero`` or ``oh``."""
        return self.rare([*DIGITS, "oh"])

    def digits(self, low: int, high: int) -> str:
        return " ".join(self.digit() for _ in range(self.between(low, high)))

    def number(self) -> str:
        """A two-digit number; teens and tens as often as compounds."""
        kind = self.between(0, 2)
        if kind == 0:
            return self.rare(TEENS)
        if kind == 1:
            return self.rare(TENS)
        return f"{self.rare(TENS)} {self.rare(DIGITS[1:])}"

    def time(self) -> str:
        hour = two_digits(self.between(1, 12))
        return self.pick(
            [
                f"{hour} oclock",
                f"{hour} thirty",
                f"half past {hour}",
                f"quarter to {hour}",
                f"{hour} {two_digits(self.between(10, 59))}",
                f"{hour} oh {self.pick(DIGITS[1:])}",
            ]
        )

    def amount(self) -> str:
        unit = self.pick(["dollars", "euros", "pounds"])
        if self.between(0, 1):
            return f"{self.number()} {unit}"
        return f"{self.pick(DIGITS[1:])} hundred {self.number()} {unit}"

    def fill(self, template: str) -> str:
        """Replace each ``{slot}`` of a template by a random filling of its own."""
        fillings: dict[str, Callable[[], str]] = {
            "first": lambda: self.rare(words.FIRST_NAMES),
            "last": lambda: self.rare(words.SURNAMES),
            "city": lambda: self.rare(words.CITIES),
            "street": lambda: self.rare(words.STREETS),
            "kind": lambda: self.rare(words.STREET_KINDS),
            "room": lambda: self.rare(words.ROOMS),
            "device": lambda: self.rare(words.DEVICES),
            "thing": lambda: self.rare(words.THINGS),
            "task": lambda: self.rare(words.TASKS),
            "song": lambda: self.rare(words.SONGS),
            "weekday": lambda: self.rare(words.WEEKDAYS),
            "number": self.number,
            "time": self.time,
            "amount": self.amount,
        }
        return re.sub(r"\{(\w+)\}", lambda match: fillings[match[1]](), template)


def _spell(word: str) -> str:
    return " ".join(word)


def _spelled_name(grammar: Grammar) -> str:
    return _spell(grammar.pick(words.LISTS[grammar.pick(list(words.LISTS))]))


def _letter_string(grammar: Grammar) -> str:
    return grammar.letters(4, 8)


def _code(grammar: Grammar) -> str:
    """Letters, then digits or a number, often after a command word: ``enter f six three``."""
    parts = [grammar.rare(words.CODE_VERBS)] if grammar.between(0, 3) else []
    parts.append(grammar.letters(1, 6))
    kind = grammar.between(0, 3)
    if kind == 0:
        parts.append(grammar.digits(1, 3))
    elif kind == 1:
        parts.append(grammar.number())
    elif kind == 2:
        parts += [grammar.number(), grammar.number()]
    return " ".join(parts)


def _digit_string(grammar: Grammar) -> str:
    verb = f"{grammar.rare(words.CODE_VERBS)} " if grammar.between(0, 3) == 0 else ""
    return verb + grammar.digits(3, 8)


def _number_string(grammar: Grammar) -> str:
    """A house or flat number the way people say it: ``fifty two eleven``, ``three forty``."""
    parts = [grammar.number() if grammar.between(0, 2) else grammar.digit() for _ in range(grammar.between(1, 3))]
    return " ".join(parts)


def _date(grammar: Grammar) -> str:
    month = grammar.rare(words.MONTHS)
    # a day by its rarest word, so that each ordinal is heard: twelfth as often as first
    last = grammar.rare([*ORDINALS, "thirtieth"])
    day = f"twenty {last}" if last in ORDINALS[:9] and grammar.between(0, 1) else last
    year = f"{grammar.pick(['nineteen', 'nineteen', 'nineteen', 'twenty'])} {two_digits(grammar.between(10, 99))}"
    return grammar.pick([f"{month} {day} {year}", f"{month} {day} {year}", f"{month} {day}", f"{day} of {month}"])


def _house(grammar: Grammar) -> str:
    street = f"{grammar.pick(words.STREETS)} {grammar.pick(words.STREET_KINDS)}"
    return f"{_number_string(grammar)} {street}"


def _named_spelling(grammar: Grammar) -> str:
    """A word in a sentence and its spelling: ``my last name is patel p a t e l``."""
    what = grammar.pick(list(words.LISTS))
    word = grammar.pick(words.LISTS[what])
    frame = grammar.pick(["my {what} is {word}", "{word} is spelled", "the {what} is", "spell {word}"])
    return f"{frame.format(what=what, word=word)} {_spell(word)}"


RULES: dict[str, tuple[Callable[[Grammar], str], bool]] = {
    "command": (lambda g: g.fill(g.rare(words.COMMANDS)), False),
    "question": (lambda g: g.fill(g.rare(words.QUESTIONS)), False),
    "name": (lambda g: g.fill("{first} {last}"), False),
    "control": (lambda g: g.rare(words.CONTROL), False),
    "house": (_house, False),
    "number": (_number_string, False),
    "digits": (_digit_string, False),
    "date": (_date, False),
    "spelled": (_spelled_name, True),
    "letters": (_letter_string, True),
    "code": (_code, True),
    "named spelling": (_named_spelling, True),
}
"""Rule name: how it makes a sentence, and whether every single letter in it is the letter's name."""


def is_letter(text: str, index: int, spelled: bool) -> bool:
    """Whether word ``index`` of ``text`` is spoken as a letter's name: ``a`` and ``i`` are words in ``set a timer``."""
    parts = text.split()
    if len(parts[index]) > 1:
        return False
    if spelled or parts[index] not in "ai":
        return True
    neighbours = parts[max(0, index - 1) : index] + parts[index + 1 : index + 2]
    return any(len(word) == 1 for word in neighbours)
