"""Figures of merit: pooled word and character error rates, agreement and divergence of the LLM's replies.

Dimensions: N reply tokens, V the LLM's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.text import UNKNOWN, scoring_form

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ErrorCounts:
    """Errors pooled over utterances (micro-average): every reference word counts the same."""

    wer: float  # word errors / words; may exceed 1
    cer: float  # character errors / characters
    word_errors: int  # substitutions, deletions and insertions
    word_total: int  # in the references
    character_errors: int
    character_total: int

    @property
    def words(self) -> int:
        """Words in the references."""
        return self.word_total

    @property
    def errors(self) -> int:
        """Wrong, missing and added words."""
        return self.word_errors


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], languages: str | Sequence[str] = UNKNOWN
) -> ErrorCounts:
    """Word and character errors of ``hypotheses``, both sides in ``stages.text.scoring_form``.

    ``languages``: one for all utterances or one each. Texts that are in spoken form already, as references and what adapters
    read are, need none; a transcriber's and an LLM's do: how a number is said, or whether an accent counts, follows from it.
    Words said where the reference is empty are insertions. Where no reference holds a word, the rates are the counts of
    errors themselves (divided by 1), so that they stay finite. Raises ValueError where the lengths differ.
    """
    import jiwer

    if len(references) != len(hypotheses):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references; needed as many")
    told = [languages] * len(references) if isinstance(languages, str) else languages
    pairs = [
        (scoring_form(said, language), scoring_form(heard, language))
        for said, heard, language in zip(references, hypotheses, told, strict=True)
    ]
    spoken = [pair for pair in pairs if pair[0]]
    errors = sum(len(heard.split()) for said, heard in pairs if not said)
    characters_wrong = sum(len(heard) for said, heard in pairs if not said)
    words = sum(len(said.split()) for said, _ in spoken)
    characters = sum(len(said) for said, _ in spoken)
    if spoken:
        said, heard = (list(side) for side in zip(*spoken, strict=True))
        by_word = jiwer.process_words(said, heard)
        by_character = jiwer.process_characters(said, heard)
        errors += by_word.substitutions + by_word.deletions + by_word.insertions
        characters_wrong += by_character.substitutions + by_character.deletions + by_character.insertions
    return ErrorCounts(
        errors / max(words, 1), characters_wrong / max(characters, 1), errors, words, characters_wrong, characters
    )


def response_agreement(reference_replies: Sequence[str], replies: Sequence[str]) -> float:
    """Mean ROUGE-L F measure of the replies to audio against the replies to the reference text; 0 to 1.

    Two replies without any word agree fully. Raises ValueError where there is nothing to compare or the lengths differ.
    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    from rouge_score import rouge_scorer

    if len(reference_replies) != len(replies) or not replies:
        raise ValueError(
            f"{len(replies)} replies for {len(reference_replies)} reference replies; needed as many, at least one"
        )
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    scores = []
    for reference, reply in zip(reference_replies, replies, strict=True):
        same = reference == reply or not any(char.isalnum() for char in reference + reply)
        scores.append(1.0 if same else scorer.score(reference, reply)["rougeL"].fmeasure)
    return sum(scores) / len(scores)


def response_kl(text_logits: Tensor, audio_logits: Tensor) -> float:
    """Mean KL(text || audio) in nats over the (N, V) logits that predict the same reply after text and after audio.

    0 means that the LLM cannot tell them apart. Raises ValueError for other shapes or an empty reply.
    """
    from torch.nn.functional import kl_div, log_softmax

    if text_logits.shape != audio_logits.shape or text_logits.ndim != 2 or not len(text_logits):
        raise ValueError(
            f"logits of shapes {tuple(text_logits.shape)} and {tuple(audio_logits.shape)}; needed (tokens, vocabulary) twice"
        )
    text, audio = (log_softmax(logits.double(), dim=-1) for logits in (text_logits, audio_logits))
    return max(0.0, float(kl_div(audio, text, log_target=True, reduction="sum")) / len(text))
