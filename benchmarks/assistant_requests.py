"""What the assistant benchmark asks: requests by intent, by synthetic voices; training and judging share neither."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

from pipeline.cohorts.demo import (
    BASE_NOISE_DB,
    BASE_VOICES,
    USER_NOISE_DB,
    DemoUser,
    Speech,
    Voice,
    plans,
)
from pipeline.cohorts.grammar import Grammar, Sentence
from pipeline.cohorts.wordlists import QUESTIONS, listed, phrases

TEMPLATES = {
    "on": phrases("turn on the {room} {device}|switch on the {device} in the {room}|start the {room} {device}"),
    "off": phrases("turn off the {room} {device}|switch off the {device}|turn the {room} {device} off"),
    "open": phrases("open the {room} {device}|open the {device} in the {room}"),
    "close": phrases("close the {room} {device}|close the {device} in the {room}"),
    "dim": phrases("dim the {room} lights to {number} percent|dim the lights in the {room}"),
    "set": phrases("set the {room} {device} to {number}|set the {device} in the {room} to {number}"),
    "timer": phrases("set a timer for {number} minutes|wake me up at {time}|set an alarm for {time}"),
    "remind": phrases("remind me to {task}|remind me to {task} on {weekday}|remind {first} to {task} at {time}"),
    "list": phrases("add {thing} to my shopping list|add {thing} and {thing} to the list|remove {thing} from the list"),
    "play": phrases("play {song}|play {song} in the {room}"),
    "message": phrases("send a message to {first}|tell {first} i will be there at {time}|call {first} {last}"),
    "travel": phrases("navigate to {street} {kind}|take me to {city}|find a hotel in {city}|book a taxi for {time}"),
    "question": QUESTIONS,
}
"""By intent. The first six are what a device is told."""

DEVICE_COMMANDS = ("on", "off", "open", "close", "dim", "set")

EXAMPLES = {
    "on": "turn on the hallway radio",
    "off": "turn off the garage heater",
    "open": "open the attic window",
    "close": "close the office blinds",
    "dim": "dim the dining lights to twenty percent",
    "set": "set the office thermostat to nineteen",
    "timer": "set a timer for eight minutes",
    "remind": "remind me to feed the cat",
    "list": "add honey to my shopping list",
    "play": "play some blues",
    "message": "send a message to oliver",
    "travel": "take me to oslo",
    "question": "what time is it in rome",
}
"""One for each intent, told to the LLM. No request that trains or judges is one of them."""

JUDGING_VOICES = [
    *("en-us+m5", "en-us+m6", "en-us+Annie", "en-us+Michael", "en-us-nyc+f2", "en-us+Gene"),
    *("en+f5", "en-gb-x-rp+f2", "en-gb-scotland+m7", "en-029+f1", "en-gb-x-gbclan+m2", "en-gb-x-gbcwmd+f3"),
]
"""Voices that no base has heard; written down before anything was measured with them."""

ACCENTS = ("en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
VARIANTS = listed("""
Alicia Andrea Andy Denis Diogo Lee Marco Mike Nguyen Reed adam anika antonio benjamin boris caleb david edward grandpa ian john
michel miguel norbert pablo paul quincy rob robert sandro shelby travis victor zac
""")
MORE_VOICES = [f"{ACCENTS[place % len(ACCENTS)]}+{variant}" for place, variant in enumerate(VARIANTS)]
"""Further voices to learn from: no variant of them judges."""

TRAINING_EACH = 40
JUDGING_EACH = 20


@dataclass(frozen=True)
class Request:
    """A spoken request that is judged."""

    utterance: str
    text: str
    intent: str


def training(each: int = TRAINING_EACH) -> list[DemoUser]:
    """The base's own voices, each with ``each`` requests."""
    grammar = Grammar("edgealign assistant", set(EXAMPLES.values()))
    return [_user(f"t{place:02d}", voice, each, grammar, BASE_NOISE_DB)[0] for place, voice in enumerate(BASE_VOICES)]


def more_training(each: int = TRAINING_EACH) -> list[DemoUser]:
    """MORE_VOICES with requests, none of which judges; some were said by the voices of ``training``, too."""
    asked = {one.text for one in judging()[1]}
    grammar = Grammar("edgealign assistant more", {*asked, *EXAMPLES.values()})
    return [
        _user(f"u{place:02d}", voice, each, grammar, BASE_NOISE_DB, place)[0] for place, voice in enumerate(MORE_VOICES)
    ]


def judging(each: int = JUDGING_EACH) -> tuple[list[DemoUser], list[Request]]:
    """Voices that were never heard, with sentences that were never said, out of words that were."""
    learned = [*plans()["base-synthetic"], *training()]
    heard = [speech.sentence.text for user in learned for speech in user.speeches]
    taken = {*heard, *EXAMPLES.values()}
    grammar = Grammar("edgealign assistant judging", taken, frozenset(word for text in heard for word in text.split()))
    found = [
        _user(f"j{place:02d}", voice, each, grammar, USER_NOISE_DB, place) for place, voice in enumerate(JUDGING_VOICES)
    ]
    return [user for user, _ in found], [request for _, requests in found for request in requests]


def _user(
    name: str, voice: str, each: int, grammar: Grammar, noise_db: tuple[float, float], first: int = 0
) -> tuple[DemoUser, list[Request]]:
    """A voice's utterances; its intents go round, from the ``first`` one on, so that all of them come alike often."""
    intents = cycle(TEMPLATES)
    for _ in range(first):
        next(intents)
    requests = []
    for place, intent in zip(range(each), intents, strict=False):
        requests.append(Request(f"{name}-{place:03d}", _sentence(grammar, intent), intent))
    speeches = tuple(Speech(one.utterance, Sentence(one.text, one.intent, False), True) for one in requests)
    return DemoUser(name, Voice(voice), speeches, noise_db), requests


def _sentence(grammar: Grammar, intent: str) -> str:
    """A new sentence of an intent; raises RuntimeError where the grammar has none left."""
    for _ in range(1000):
        text = grammar.fill(grammar.rare(TEMPLATES[intent]))
        if text not in grammar.taken and (grammar.known is None or grammar.known.issuperset(text.split())):
            grammar.taken.add(text)
            return text
    raise RuntimeError(f"intent {intent!r} has no new sentence left")
