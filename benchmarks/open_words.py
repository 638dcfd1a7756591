"""Sentences of words that no training has said, and names that somebody listed; the voices are unseen as well."""

from __future__ import annotations

import random

from benchmarks.assistant_requests import JUDGING_VOICES
from pipeline.cohorts.demo import USER_NOISE_DB, DemoUser, Speech, Voice
from pipeline.cohorts.grammar import Sentence
from pipeline.cohorts.wordlists import listed, phrases

ADJECTIVES = listed("""
brave clever gentle hollow lively muddy narrow polished rusty silent slippery sturdy velvet wooden yellow ancient crooked
fearless golden humble
""")
NOUNS = listed("""
badger pelican turtle monkey dragon pirate wizard farmhand sailor goblin lantern bucket ladder saddle pumpkin
thunder glacier canyon pebble feather
""")
VERBS = listed("""
chased carried painted followed borrowed polishes swallowed buried hammered whispered
""")
UNSEEN_NAMES = listed("""
agnieszka bjorn dmitri elif fatima gustavo hiroshi ingrid javier kavita lorenzo magnus niamh ottavia priya
rasmus svetlana takumi ursula vikram wolfgang yuki zainab amadou beatriz
""")
CARRIERS = phrases(
    "call {name}|send a message to {name}|tell {name} i will be there at nine oclock|remind {name} to feed the cat"
)

UTTERANCES_EACH = 10


def disjoint(each: int = UTTERANCES_EACH) -> list[DemoUser]:
    """Sentences without one word that trains: whoever runs the benchmark checks that (``unseen_only``)."""
    draw = random.Random("edgealign open words")

    def sentence() -> str:
        first, second = draw.sample(NOUNS, 2)
        return f"{draw.choice(ADJECTIVES)} {first} {draw.choice(VERBS)} {draw.choice(ADJECTIVES)} {second}"

    return _users("d", [[sentence() for _ in range(each)] for _ in JUDGING_VOICES])


def with_names(each: int = UTTERANCES_EACH) -> list[DemoUser]:
    """Requests of known words around a name that no training has said."""
    draw = random.Random("edgealign names")
    return _users(
        "n",
        [[draw.choice(CARRIERS).format(name=draw.choice(UNSEEN_NAMES)) for _ in range(each)] for _ in JUDGING_VOICES],
    )


def _users(letter: str, texts: list[list[str]]) -> list[DemoUser]:
    return [
        DemoUser(
            f"{letter}{place:02d}",
            Voice(voice),
            tuple(
                Speech(f"{letter}{place:02d}-{index:03d}", Sentence(text, "open", False), True)
                for index, text in enumerate(own)
            ),
            USER_NOISE_DB,
        )
        for place, (voice, own) in enumerate(zip(JUDGING_VOICES, texts, strict=True))
    ]


def unseen_only(users: list[DemoUser], taught: set[str]) -> None:
    """Raises ValueError where one of the users' words is among the ``taught`` ones."""
    said = {word for user in users for speech in user.speeches for word in speech.sentence.text.split()}
    if said & taught:
        raise ValueError(f"words that train are not unseen: {', '.join(sorted(said & taught))}")
