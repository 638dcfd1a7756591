"""From a recording to what an adapter hears in it: encoder, BridgeFormer and read-out in one object."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stages.alignment.adapter import SPELLER, AdapterRecord, load_base, load_personal
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.pieces import listen_for
from stages.alignment.rescoring import Chooser
from stages.alignment.soft_tokens import ReadOut
from stages.alignment.spotting import ListedWords
from stages.alignment.trainer import read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.errors import InputError
from stages.models.llm import embedding_rows, load_tokenizer

if TYPE_CHECKING:
    from stages.speller import Speller


@dataclass(frozen=True)
class Heard:
    """What was heard in one utterance."""

    text: str
    read_out: ReadOut
    frames: np.ndarray  # (T, F), what the encoder made of it
    seconds: dict[str, float]  # how long each step took


class Listener:
    """An adapter that is ready to read frames."""

    def __init__(
        self,
        bridge: BridgeFormer,
        vocabulary: Vocabulary,
        record: AdapterRecord,
        link: EmbedLink,
        tokenizer: Any,
        words: ListedWords | None = None,
        speller: Speller | None = None,
    ):
        self.bridge = bridge
        self.vocabulary = vocabulary
        self.record = record
        self.link = link
        self.tokenizer = tokenizer
        self.words = words
        self.speller = speller
        self._strings = vocabulary.strings(tokenizer) if speller else []
        self.chooser: Chooser | None = None
        """Where an LLM is at hand: what reads again where the adapter is unsure."""

    @classmethod
    def load(
        cls,
        base_folder: Path,
        llm_folder: Path,
        personal_folder: Path | None = None,
        tokenizer: Any = None,
        words: Sequence[str] = (),
        spells: bool = True,
    ) -> Listener:
        """The base adapter, or a personal one merged into it; reads only rows of the LLM's table, not the LLM.

        Where the base has a speller (``base.speller``), it reads along unless ``spells`` is False. A person's shift of the
        frames goes before it, too; nothing else of a personal adapter does.
        ``tokenizer``: the LLM's, where it is loaded already (it takes half a second). ``words``: normalised words or names to
        listen for, though no training has heard them; the vocabulary grows by their rows.
        Raises InputError where the adapter was made for another LLM than the one in ``llm_folder``, or the speller for another
        encoder or LLM than the adapter.
        """
        from stages.models.llm import llm_identity

        if personal_folder is None:
            bridge, vocabulary, record = load_base(base_folder)
        else:
            bridge, vocabulary, record = load_personal(personal_folder, base_folder)
        found = llm_identity(llm_folder)
        if record.llm != found:
            raise InputError(
                f"{personal_folder or base_folder}: made for the LLM {record.llm}, but {llm_folder} holds {found}. "
                "Run `dvc repro` to train it for this LLM."
            )
        tokenizer = tokenizer or load_tokenizer(llm_folder)
        vocabulary, listed = listen_for(vocabulary, tokenizer, words)
        link = EmbedLink(embedding_rows(llm_folder, vocabulary.ids))
        speller = None
        if spells and (base_folder / SPELLER).is_dir():
            from stages.speller import Speller  # a registered model has none, and goes without what it imports

            speller = Speller.load(base_folder / SPELLER, llm_folder, record, tokenizer, words)
            speller.bridge.frame_shift.copy_(bridge.frame_shift)
        return cls(bridge, vocabulary, record, link, tokenizer, listed, speller)

    def read(self, frames: Sequence[np.ndarray]) -> list[ReadOut]:
        """Read-outs of utterances' (T, F) frames: of words, and where there is a speller, of words and letters in one."""
        tensors = [torch.from_numpy(np.asarray(item, dtype=np.float32)) for item in frames]
        found = read_out_all(self.bridge, self.link, tensors, words=self.words, chooser=self.chooser)
        if self.speller is None:
            return found
        letters = self.speller.read(tensors)
        return [
            self.speller.join(heard, spelled, self.vocabulary, self._strings)
            for heard, spelled in zip(found, letters, strict=True)
        ]

    @torch.inference_mode()
    def posteriors(self, frames: np.ndarray) -> np.ndarray:
        """(S, 1 + V) posteriors of one utterance's (T, F) frames; column 0 is the blank, column 1 + i row i."""
        whole = torch.from_numpy(np.asarray(frames, dtype=np.float32))[None]
        self.bridge.eval()
        log_posteriors, _, counts = self.link.log_posteriors(self.bridge, whole, torch.tensor([len(frames)]))
        return log_posteriors[0, : int(counts[0])].exp().numpy()

    def text_of(self, read_out: ReadOut) -> str:
        """The text of a read-out."""
        return self.vocabulary.text_of(self.tokenizer, read_out.rows, read_out.beyond)

    def hear(self, samples: np.ndarray, encoder: Any, padding_s: float) -> Heard:
        """One utterance, (n,) float32 at 16 kHz, with the time that each step took."""
        if str(encoder.identity) != self.record.encoder:
            raise InputError(
                f"the adapter was made for the encoder {self.record.encoder}, but {encoder.identity} is loaded. "
                "Run `dvc repro` to train it for this encoder."
            )
        start = time.perf_counter()
        frames = encoder.encode(samples, padding_s)
        encoded = time.perf_counter()
        read_out = self.read([frames])[0]
        done = time.perf_counter()
        return Heard(self.text_of(read_out), read_out, frames, {"encode": encoded - start, "read_out": done - encoded})
