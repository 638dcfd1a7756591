"""The methods' names, without torch: for settings and command lines."""

from __future__ import annotations

from stages.errors import SettingsError

NAMES = ("embedlink", "projector", "projector-lora", "projector-kl", "qformer", "ctc-only", "cascade")
"""In the order in which a comparison tells them."""

STAGE_METHODS = ("embedlink",)
"""Those that the ``base`` stage trains, saves, loads, evaluates and personalises; the others are there to be compared with."""

IN_THE_LOOP = ("projector", "projector-lora", "projector-kl", "qformer")
"""Those that run the LLM in every training step."""


def check_name(name: str) -> str:
    """``name`` where it is a method's. Raises SettingsError that lists the valid ones."""
    if name not in NAMES:
        raise SettingsError(f"alignment method {name!r} is not known. Methods: {', '.join(NAMES)}.")
    return name
