"""How a device keeps learning and follows the registry; ``learn.json`` and ``rollout.json`` beside ``device.json`` hold
what differs from the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stages.errors import SettingsError

Settings = TypeVar("Settings", bound=BaseModel)


class LearnSettings(BaseModel):
    """What may be turned."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: Literal["replay+average", "replay", "average", "ewc", "none"] = Field(
        default="replay+average",
        description="How other people's speech is kept understood; see jetson_agent/update.py.",
    )
    items: int = Field(default=200, gt=0, description="Utterances that the replay buffer keeps.")
    bytes: int = Field(default=64_000_000, gt=0, description="Their size on disk.")
    steps: int = Field(default=20, gt=0, description="Of an update from no correction at all; see the next one.")
    steps_per_utterance: float = Field(
        default=0.6, ge=0, description="Further steps for each utterance it learns from."
    )
    batch_size: int = Field(default=8, gt=0, description="Of the user's own utterances in each step.")
    replay_size: int = Field(default=4, gt=0, description="Of other people's, where the method replays them.")
    learning_rate: float = Field(default=0.003, gt=0)
    density: float = Field(default=0.05, gt=0, le=1, description="Share of the base's weights that change.")
    tolerance: float = Field(default=0.01, ge=0, description="How far other people's WER may be above the base's.")
    ewc_weight: float = Field(default=1000.0, gt=0)
    seed: int = 0


class RolloutSettings(BaseModel):
    """Which registry the device follows, and how; ``rollout.json`` in the agent's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    server: str = Field(default="", description="Address of the MLflow server; empty: the device follows none.")
    experiment: str = Field(default="edgealign", min_length=1, description="tracking.experiment of the project.")
    alias: str = Field(default="champion", min_length=1, description="The alias that says what is to be in use.")
    canary_alias: str = Field(
        default="canary",
        description="Where a model bears it, its canary devices try that version; all others stay with the alias.",
    )
    device: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_-]{0,64}$",
        description="What this device is called in the registry. Name nobody: base versions keep it.",
    )
    share: float = Field(
        default=0.2, gt=0, le=1, description="Share of the devices that take a version first, where its tag says none."
    )
    enough: float = Field(
        default=0.5, gt=0, le=1, description="Share of the canary devices that must have passed before others follow."
    )
    tolerance: float = Field(
        default=0.01, ge=0, description="How far the user's WER may be above that of what is in use."
    )
    guard_tolerance: float = Field(
        default=0.1,
        ge=0,
        description="How far others' WER may be above the base's: promotion.guard_tolerance of the project.",
    )

    @field_validator("server")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("needed an address as http://HOST:5000")
        if "@" in value:
            raise ValueError("no account in the address: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return value.rstrip("/")


def read_settings(path: Path, kind: type[Settings]) -> Settings:
    """The settings of a JSON file, the defaults where there is none. Raises SettingsError."""
    if not path.is_file():
        return kind()
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        told = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}"
            for item in (error.errors() if isinstance(error, ValidationError) else [])
        )
        raise SettingsError(f"{path}: {told or error}. Correct or delete it.") from error
