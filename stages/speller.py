"""A base's speller at work: what was read in words and what was read in letters, as one read-out.

A word that stays keeps its rows and its soft tokens. A word that was spelled gets the LLM's own tokens, and their rows of the
LLM's table as soft tokens: the LLM sees it as it would read it. See ``stages.alignment.spelling`` for which is which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.alignment.adapter import AdapterRecord, load_base
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.soft_tokens import ReadOut
from stages.alignment.spelling import JoinedWord, Lexicon, SpellingRules, joined_words, words_of_table
from stages.alignment.trainer import read_out_all
from stages.alignment.vocabulary import Vocabulary, token_ids
from stages.errors import InputError
from stages.models.llm import embedding_rows, load_tokenizer


class Speller:
    """A second adapter over letters, and the words that its spellings may stand for."""

    def __init__(
        self,
        bridge: BridgeFormer,
        vocabulary: Vocabulary,
        link: EmbedLink,
        tokenizer: Any,
        lexicon: Lexicon,
        rows_of: Callable[[list[int]], Tensor],
        rules: SpellingRules | None = None,
    ) -> None:
        """``vocabulary``: the letters' rows. ``rows_of``: the LLM's (N, D) rows of N token ids."""
        self.bridge = bridge
        self.vocabulary = vocabulary
        self.link = link
        self.tokenizer = tokenizer
        self.lexicon = lexicon
        self.rules = rules or SpellingRules()
        self._rows_of = rows_of

    @classmethod
    def load(
        cls, folder: Path, llm_folder: Path, record: AdapterRecord, tokenizer: Any, listed: Sequence[str] = ()
    ) -> Speller:
        """The speller in ``folder``, beside the adapter that ``record`` tells of.

        Raises InputError where it was made for another encoder or LLM than that adapter.
        """
        bridge, vocabulary, mine = load_base(folder)
        for name in ("encoder", "llm"):
            if getattr(mine, name) != getattr(record, name):
                raise InputError(
                    f"{folder}: made for the {name} {getattr(mine, name)}, the adapter that it spells for was made for "
                    f"{getattr(record, name)}. Run `dvc repro base` to train both together."
                )
        link = EmbedLink(embedding_rows(llm_folder, vocabulary.ids))
        lexicon = Lexicon(_table_words(llm_folder, record.llm), listed)
        return cls(bridge, vocabulary, link, tokenizer, lexicon, lambda ids: embedding_rows(llm_folder, ids))

    def read(self, frames: Sequence[Tensor]) -> list[ReadOut]:
        """Letters read in utterances' (T, F) frames."""
        return read_out_all(self.bridge, self.link, frames)

    def join(self, words: ReadOut, letters: ReadOut, vocabulary: Vocabulary, strings: Sequence[str]) -> ReadOut:
        """One read-out of an utterance read over ``vocabulary``, whose rows are called ``strings``, and read by ``read``.

        ``words`` itself where the letters change nothing. Else the confidence is the lower of the two: neither is surer of
        the whole.
        """
        said = words_of_rows([strings[row] for row in words.rows])
        spelled = self.vocabulary.text_of(self.tokenizer, letters.rows)
        found = joined_words([word for word, _ in said], spelled, self.lexicon, self.rules)
        if [one.place for one in found] == list(range(len(said))):
            return words
        rows: list[int] = []
        soft: list[Tensor] = [words.soft_tokens[:0]]
        beyond: list[int] = []
        for one in found:
            stays = _stays(one, said, words, strings, first=not rows)
            if stays:
                rows += [words.rows[place] for place in stays]
                soft.append(words.soft_tokens[stays])
                continue
            ids = token_ids(self.tokenizer, one.word)
            for token in ids:
                try:
                    rows.append(vocabulary.place_of(token))
                except KeyError:
                    rows.append(len(vocabulary) + len(beyond))
                    beyond.append(token)
            soft.append(self._rows_of(ids))
        confidence = min(heard.confidence for heard in (words, letters) if heard.rows) if rows else 0.0
        return ReadOut(rows, torch.cat(soft), confidence, tuple(beyond))


def _stays(
    one: JoinedWord, said: Sequence[tuple[str, list[int]]], words: ReadOut, strings: Sequence[str], first: bool
) -> list[int]:
    """Places in the read-out of a word that stays as it is; none where it was spelled, or would grow onto the one before it."""
    if one.place is None:
        return []
    places = said[one.place][1]
    return places if first or strings[words.rows[places[0]]].startswith(" ") else []


def words_of_rows(strings: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The words that a sequence of rows' strings spells, each with the places of its rows: every row has one word at most."""
    starts = [0]
    for string in strings:
        starts.append(starts[-1] + len(string))
    owners: list[tuple[str, list[int]]] = []
    place = 0
    for match in re.finditer(r"\S+", "".join(strings)):
        mine = []
        while place < len(strings) and starts[place] < match.end():
            mine.append(place)
            place += 1
        owners.append((match.group(), mine))
    return [(word, mine) for word, mine in owners if mine]


@lru_cache(maxsize=2)
def _table_words(llm_folder: Path, identity: str) -> tuple[str, ...]:
    """``words_of_table`` of the LLM of this ``identity``, kept for the process: to look through a table takes two seconds."""
    return tuple(words_of_table(load_tokenizer(llm_folder)))
