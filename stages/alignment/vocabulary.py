"""A vocabulary: which rows of the LLM's embedding table a read-out may choose from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The LLM's own tokens of a normalised text, with the leading space that a word inside a sentence has."""
    return tokenizer(" " + text, add_special_tokens=False)["input_ids"] if text else []


@dataclass(frozen=True)
class Vocabulary:
    """Sorted token ids; row i of the vocabulary is token ``ids[i]``."""

    ids: tuple[int, ...]
    _places: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {token: place for place, token in enumerate(self.ids)})

    @classmethod
    def of_texts(cls, tokenizer: Any, texts: Iterable[str]) -> Vocabulary:
        """Every token that occurs in ``texts``."""
        return cls(tuple(sorted({token for text in texts for token in token_ids(tokenizer, text)})))

    def grown(self, tokenizer: Any, texts: Iterable[str]) -> Vocabulary:
        """This vocabulary and every token of ``texts``: more rows, no more parameters."""
        return Vocabulary(tuple(sorted({*self.ids, *Vocabulary.of_texts(tokenizer, texts).ids})))

    def __len__(self) -> int:
        return len(self.ids)

    def place_of(self, token: int) -> int:
        """The row of a token id; raises KeyError for one outside the vocabulary."""
        return self._places[token]

    def rows_of(self, tokenizer: Any, text: str) -> Tensor:
        """(N,) row indices of a text; raises KeyError for a token outside the vocabulary (grow it first)."""
        return torch.tensor([self._places[token] for token in token_ids(tokenizer, text)], dtype=torch.long)

    def strings(self, tokenizer: Any) -> list[str]:
        """The string of each row as it stands after another one, so that joined strings spell a text.

        Alone, some tokenizers decode a token that begins a word without its leading space.
        """
        before = tokenizer.decode([self.ids[0]]) if self.ids else ""
        found = []
        for token in self.ids:
            both = tokenizer.decode([self.ids[0], token])
            # a part of a character changes what stands before it: then nothing better is known than the token alone
            found.append(both[len(before) :] if both.startswith(before) else tokenizer.decode([token]))
        return found

    def text_of(self, tokenizer: Any, rows: Sequence[int], beyond: Sequence[int] = ()) -> str:
        """The text that a sequence of rows spells; rows from ``len(self)`` on are the token ids ``beyond``."""
        size = len(self)
        tokens = [self.ids[row] if row < size else beyond[row - size] for row in rows]
        return " ".join(tokenizer.decode(tokens).split())
