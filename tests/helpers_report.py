"""Made-up metrics in the evaluate stage's form, for tests of the report."""

from __future__ import annotations

from typing import Any


def user_entry(base: float | None, personal: float | None, cascade: float | None, **changes: Any) -> dict[str, Any]:
    """One user's entry of ``artifacts/evaluations/<cohort>.json``."""
    entry: dict[str, Any] = {
        "base": {"wer": base, "cer": base},
        "personal": {"wer": personal, "cer": personal},
        "cascade_wer": cascade,
        "llm_wer": 0.2,
        "reference_llm_wer": 0.15,
        "llm_gap": 0.05,
        "response_agreement": 0.8,
        "response_kl": None,
        "train_seconds": 2.0,
        "utterances": 8,
        "test_utterances": 10,
        "trainable_parameters": 19000,
        "adapter_bytes": 78000,
        "peak_rss_bytes": 900_000_000,
        "bytes_exchanged": 0,
        "method": "shira",
        "device": "jetson-0",
        "device_kind": "virtual",
        "curve": [[step, 3.0 / (1 + step / 8)] for step in range(40)],
        "examples": [
            {
                "utterance": "u",
                "reference": "play some jazz",
                "base": "play sum chess",
                "personal": "play some jazz",
                "cascade": "lay some <b>cars</b>",
                "reply": "play <i>some</i> jazz",
            }
        ],
    }
    return {**entry, **changes}


def heard_rows(utterances: dict[str, tuple[str, str, str]]) -> dict[str, Any]:
    """What evaluate keeps for the figures: {utterance: (reference, what both adapters read, SHA-256 of the FLAC)}."""
    rows = [
        {
            "utterance": name,
            "reference": said,
            "base": read,
            "personal": read,
            "words": len(said.split()),
            "base_errors": 1,
            "personal_errors": 1,
            "duration_s": 1.5,
            "n_frames": 75,
            "audio_sha256": audio,
        }
        for name, (said, read, audio) in utterances.items()
    ]
    side = {"text": rows[0]["base"], "step_s": 0.08, "tokens": ["", " on"], "values": [[0.9, 0.2], [0.1, 0.8]]}
    return {
        "read": rows,
        "posteriors": {
            "utterance": rows[0]["utterance"],
            "reference": rows[0]["reference"],
            "sides": {"base": side, "personal": side},
        },
        "layers": [
            {"layer": "enter", "changed": 30, "weights": 1000},
            {"layer": "leave", "changed": 1, "weights": 500},
        ],
    }


def base_record(epochs: int = 8) -> dict[str, Any]:
    """A base adapter's ``adapter.json``."""
    wers = [1.0 / (1 + epoch) ** 1.6 for epoch in range(epochs)]
    return {
        "metrics": {
            "dev_wer": min(wers, default=None),
            "train_seconds": 10.0 * epochs,
            "curve": {
                "loss": [[step, 8.0 / (1 + step / 30) + 0.3 * (step % 5)] for step in range(400)],
                "dev_wer": [[epoch + 1, 10.0 * (epoch + 1), wer] for epoch, wer in enumerate(wers)],
            },
        }
    }
