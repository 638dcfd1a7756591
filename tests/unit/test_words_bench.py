"""The open-vocabulary benchmark's sentences: unseen where they must be, known where they must be."""

from __future__ import annotations

import pytest

from benchmarks import assistant_requests, open_words
from pipeline.cohorts.demo import plans


def test_no_word_of_the_unseen_sentences_and_no_name_is_taught_and_the_carriers_are() -> None:
    users = [*plans()["base-synthetic"], *assistant_requests.training()]
    taught = {word for user in users for speech in user.speeches for word in speech.sentence.text.split()}
    open_words.unseen_only(open_words.disjoint(), taught)
    assert not taught & set(open_words.UNSEEN_NAMES)
    carriers = {word for carrier in open_words.CARRIERS for word in carrier.replace("{name}", "").split()}
    assert carriers <= taught
    with pytest.raises(ValueError, match="badger"):
        open_words.unseen_only(open_words.disjoint(), {"badger", *open_words.NOUNS})
    voices = {user.voice.name for user in [*open_words.disjoint(), *open_words.with_names()]}
    assert not voices & {user.voice.name for user in users}
