"""What the service answers with; the shapes of its OpenAPI page."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Seconds(BaseModel):
    """How long each step of a turn took, from the moment when the whole utterance was there."""

    decode: float = Field(description="Recording to samples.")
    wait: float = Field(description="For others' steps.")
    encode: float = Field(description="Samples to frames.")
    read_out: float = Field(description="Frames to text and soft tokens.")
    first_token: float | None = Field(
        default=None, description="Until the reply's first token, all before it included."
    )
    total: float | None = Field(default=None, description="Until the reply's last token.")


class Transcription(BaseModel):
    """What was heard."""

    utterance: str = Field(description="Its name, for a correction.")
    text: str = Field(description="Empty where no word was heard.")
    confidence: float = Field(ge=0, le=1)
    duration_s: float
    version: int | None = Field(description="The adapter's version; null: the base alone.")
    seconds: Seconds


class Token(BaseModel):
    """The next piece of the reply."""

    text: str


class Reply(Transcription):
    """What was heard and what the LLM replied."""

    reply: str


class Correction(BaseModel):
    """What the user really said."""

    utterance: str = Field(min_length=1, max_length=64, description="As a transcription or reply named it.")
    text: str = Field(min_length=1, description="I said ...")


class Corrected(BaseModel):
    """A correction that is on the disk."""

    utterance: str
    heard: str
    text: str = Field(description="As it will be learned: lower case, numbers as words.")
    waiting: int = Field(description="Corrections since the last update.")


class Update(BaseModel):
    """What an update of the adapter came to."""

    taken: bool
    why: str
    figures: dict[str, Any]


class Learning(BaseModel):
    """What the learner does."""

    state: Literal["waiting", "learning"]
    waiting: int = Field(description="Corrections since the last update.")
    last: Update | None
    error: str | None


class Status(BaseModel):
    """Whose device this is, what is in use, and what is remembered."""

    cohort: str
    user: str
    version: int | None
    remembered: int
    corrections: int
    learning: Learning


class InUse(BaseModel):
    """The adapter in use."""

    version: int | None


class Rollback(BaseModel):
    """Why the version before is wanted back."""

    why: str = Field(default="asked for", max_length=200)


class HistoryEvent(BaseModel):
    """One line of the history."""

    when: float = Field(description="Seconds since 1970.")
    what: str = Field(description="taken, refused or rolled back")
    version: int | None = Field(description="In use from then on; null: the base alone.")
    why: str
    figures: dict[str, Any]
