"""How the service answers and what it refuses; ``serve.json`` beside ``device.json`` holds what differs from the defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from stages.alignment.rescoring import RescoringConfig


class ServeSettings(BaseModel):
    """What may be turned."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    instruction: str = Field(
        default="Answer the user in one short sentence.",
        min_length=1,
        description="What the LLM does with what was said.",
    )
    max_new_tokens: int = Field(default=64, gt=0, description="Longest reply.")
    rescore: bool = Field(
        default=False,
        description="Whether the LLM chooses between readings that the adapter is unsure of: fewer errors, a later first word.",
    )
    sentence_weight: float = Field(
        default=0.3,
        ge=0,
        le=10,
        description="How much the LLM's opinion of a sentence counts beside the adapter's; 0: it judges spelled words alone, "
        "which is best for users who say letters and numbers.",
    )
    tempos: tuple[Annotated[float, Field(ge=0.5, le=2)], ...] = Field(
        default=(),
        max_length=4,
        description="Lengths, of an unsure utterance's own, at which the adapter hears it again, before the LLM is asked where "
        "it is: such as [0.9, 1.1], best where base.tempo taught the base other tempos.",
    )
    readings: int = Field(
        default=8,
        ge=2,
        le=64,
        description="Readings that are chosen between; 16 make fewer errors, and take the LLM longer where it is asked.",
    )
    max_bytes: int = Field(default=10_000_000, gt=0, description="Largest recording that is taken, as it is sent.")
    max_duration_s: float = Field(
        default=29.0, gt=0, le=29.0, description="Longest utterance; Whisper's window is 30 s."
    )
    max_text: int = Field(default=500, gt=0, description="Longest correction, in characters.")
    requests_per_minute: int = Field(default=120, gt=0, description="Of one address, of all kinds together.")
    waiting: int = Field(
        default=16, gt=0, description="Utterances that may be under way at once; others are told to wait."
    )
    idle_s: float = Field(default=120.0, gt=0, description="A stream that says nothing for so long is closed.")
    recent: int = Field(default=50, gt=0, description="Utterances, in memory alone, that can still be corrected.")
    learn_after: int = Field(
        default=5, ge=0, description="Corrections after which an update begins; 0: never by itself."
    )
    confident: float | None = Field(
        default=0.95,
        gt=0,
        le=1,
        description="Utterances read with this confidence are remembered as they were heard; null: none.",
    )

    def rescoring(self) -> RescoringConfig:
        """How unsure utterances are read again."""
        from stages.alignment.rescoring import RescoringConfig

        return RescoringConfig(weight=self.sentence_weight, beam=self.readings, tempos=self.tempos)
