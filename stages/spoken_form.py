"""Transcripts to spoken form: what labels, the LLM's text side and every word error rate are made of.

English becomes lower-case ``[a-z' ]`` with numbers in words, single letters where a word was spelled letter by letter,
and apostrophes inside words only. Other languages keep their own letters; their digits are spoken where num2words knows
the language. Where nobody told the language, the letters do, text by text (``UNKNOWN``). ``normalise`` is idempotent.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from stages.spoken_numbers import NUMBER_WORDS, speak_numbers

TEXT_VERSION = 2
"""Raised whenever ``normalise`` or ``problems_of`` gives something else for the same text: labels are made again."""

UNKNOWN = "und"
"""ISO 639 for a language that nobody told. A text in the letters a to z is then brought to spoken form as English, any other
one keeps the letters of every script, and its digits as they are written: which words they are follows from the language."""

MAX_CHARACTERS = 1_000
"""Longer transcripts are not one utterance: 30 s of fast speech is about 600 characters."""

LETTERS = {
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ı": "i",
    "ħ": "h",
    "ŋ": "ng",
}
"""Latin letters that have no accent to fold away."""

ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "prof": "professor", "vs": "versus", "etc": "et cetera",
}  # fmt: skip
SYMBOLS = {"&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "…": " "}

SCRIPTS = {
    "ar": ("ARABIC",), "fa": ("ARABIC",), "ur": ("ARABIC",), "he": ("HEBREW",), "el": ("GREEK",), "hi": ("DEVANAGARI",),
    "mr": ("DEVANAGARI",), "th": ("THAI",), "ko": ("HANGUL",), "zh": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "ru": ("CYRILLIC",), "uk": ("CYRILLIC",), "bg": ("CYRILLIC",), "sr": ("CYRILLIC", "LATIN"), "be": ("CYRILLIC",),
}  # fmt: skip
"""Scripts of languages that are not written in Latin letters, by the first word of their letters' Unicode names."""

APOSTROPHES = re.compile("[‘’ʼ‛′`´＇]")
FRACTION = re.compile(r"(?<=[0-9])(?=[¼½¾⅐-⅞²³¹⁰-⁹])")
NOTES = re.compile(r"\[[^\]\d]*\]|<[^>\d]*>|\([^)\d]*\)")
SPELLED = re.compile(r"(?<![\w'])[^\W\d_](?:[.-][^\W\d_])+(?![\w'])\.?")
DASH_BETWEEN_NUMBERS = re.compile(r"(?<=\d)\s?[–—]\s?(?=\d)")
_NUMBER = rf"(?:{'|'.join(NUMBER_WORDS)})"
O_IN_NUMBERS = re.compile(rf"(?<![a-z']){_NUMBER}(?: o)+(?= {_NUMBER}(?![a-z'])|$)")
"""``two o five``: an o between numbers, or after one at the end, is a digit. Nobody hears whether a letter was meant."""
OUTER_APOSTROPHE = re.compile(r"'+(?![a-z])|(?<![a-z])'+")


def normalise(text: str, language: str = "en") -> str:
    """The spoken form of ``text``; empty where nothing in it can be spoken.

    ``language`` is an ISO 639-1 code, with or without a region. Case never tells a spelled name ("JOHN") from a loud one,
    so only "J-O-H-N", "J.O.H.N." and "J O H N" become letters.
    """
    return _normalise(text, language_code(language))


@lru_cache(maxsize=65_536)
def _normalise(text: str, code: str) -> str:
    text = _same_signs(text)
    text = NOTES.sub(" ", text)
    text = SPELLED.sub(lambda match: " " + re.sub(r"[.-]", " ", match[0]) + " ", text)
    return _english(text) if code == "en" or (code == UNKNOWN and a_to_z(text)) else _other(text, code)


def a_to_z(text: str) -> bool:
    """Whether all letters of a text are a to z, as those of every English text in spoken form are."""
    return text.isascii() or not any(char.isalpha() and not char.isascii() for char in text)


def _same_signs(text: str) -> str:
    """Lower case, NFKC, one apostrophe, ASCII digits."""
    text = FRACTION.sub(" ", text)  # before NFKC: it would make 31/2 of 3½
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    text = APOSTROPHES.sub("'", text).lower()
    return "".join(str(unicodedata.digit(char)) if char.isdigit() and not char.isascii() else char for char in text)


def _fold_accents(text: str) -> str:
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return "".join(LETTERS.get(char, char) for char in text)


def fold(text: str) -> str:
    """English text in lower case with accents folded and look-alike signs unified; numbers and punctuation stay."""
    return _fold_accents(NOTES.sub(" ", _same_signs(text)))


def _english(text: str) -> str:
    text = _fold_accents(text)
    text = DASH_BETWEEN_NUMBERS.sub(" to ", text)
    text = speak_numbers(" ".join(text.split()))
    for symbol, words in SYMBOLS.items():
        text = text.replace(symbol, words)
    text = re.sub(r"[^a-z' ]", " ", text)
    text = OUTER_APOSTROPHE.sub(" ", re.sub(r"'+", "'", text))
    text = " ".join(ABBREVIATIONS.get(word, word) for word in text.split())
    return O_IN_NUMBERS.sub(lambda match: re.sub(r" o\b", " oh", match[0]), text)


def _other(text: str, code: str) -> str:
    kinds = "LMN" if code == UNKNOWN else "LM"
    if code != UNKNOWN:
        text = re.sub(r"[0-9]+", lambda match: _foreign_number(match[0], code), text)
    kept = [
        char if unicodedata.category(char)[0] in kinds or char == "'" else " "
        for char in unicodedata.normalize("NFC", text)
    ]
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)


def _foreign_number(digits: str, code: str) -> str:
    from num2words import num2words

    parts = list(digits) if len(digits) > 4 or digits.startswith("0") else [digits]
    try:
        return " " + " ".join(num2words(int(part), lang=code) for part in parts) + " "
    except NotImplementedError:
        return " "  # problems_of refuses such a text: it would lose a word


def language_code(language: str) -> str:
    """ISO 639-1 code of a language that may carry a region ("en-US" -> "en")."""
    return re.split(r"[-_]", language.strip().lower())[0] or "en"


def problems_of(text: str, language: str = "en") -> str | None:
    """Why ``text`` cannot be a label, as ``kind: detail``; None where it can."""
    if not text.strip():
        return "empty transcript: no text was given"
    if len(text) > MAX_CHARACTERS:
        return f"too long: {len(text)} characters, at most {MAX_CHARACTERS} make one utterance"
    code = language_code(language)
    wanted = SCRIPTS.get(code, ("LATIN",))
    for char in unicodedata.normalize("NFKC", APOSTROPHES.sub("'", text)):
        script = unicodedata.name(char, "UNKNOWN").split()[0] if char.isalpha() else wanted[0]
        if script not in wanted:
            needed = " or ".join(name.title() for name in wanted)
            return f"another script: {char!r} is {script.title()}, needed {needed} letters for language {code!r}"
    if code != "en" and any(char.isdigit() for char in text) and not _foreign_number("1", code).strip():
        return f"digits: they cannot be spoken in language {code!r}; write them in words"
    if not normalise(text, code):
        return f"no words: nothing in {text.strip()[:40]!r} can be spoken"
    return None


ACRONYMS_SAID_AS_WORDS = frozenset("OK NASA NATO UNESCO UNICEF FIFA PIN SIM RAM".split())
CAPITALS = re.compile(r"(?<![\w'])[A-Z]{2,}(?![a-z']|[A-Z])")


def from_transcriber(text: str, language: str = "en") -> str:
    """The spoken form of a transcriber's text: a word in capitals was said letter by letter.

    Whisper writes speech in ordinary case and capitals for letters ("Erase NTDIC 591."), which a person's transcript,
    often all in capitals, does not.
    """
    return normalise(
        CAPITALS.sub(lambda match: match[0] if match[0] in ACRONYMS_SAID_AS_WORDS else f" {' '.join(match[0])} ", text),
        language,
    )


def as_said(text: str, language: str) -> str:
    """``normalise``, but a text of which the language has no letter at all keeps its own.

    For texts that nobody checked against their language (``problems_of``): two that are empty would seem to be the same.
    """
    return normalise(text, language) or (normalise(text, UNKNOWN) if any(char.isalpha() for char in text) else "")


def scoring_form(text: str, language: str = "en") -> str:
    """The one form in which both sides of a word error rate are compared: spoken form, one spelling of "okay".

    Nothing else is unified: "oh" and "zero" are different words, a contraction is not its long form.
    """
    return re.sub(r"\bok\b", "okay", as_said(text, language))
