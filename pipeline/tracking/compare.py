"""Two adapters side by side: figures with their differences, and what differs in settings and lineage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.runs.common import Context
from pipeline.tracking.reference import Opened, Reference, opened, settings_of
from pipeline.tracking.registry import Registry, open_registry
from stages.errors import EdgealignError, InputError

FIGURES = (
    "wer cer base_wer base_cer guard_wer base_guard_wer llm_wer response_agreement response_kl test_utterances llm_utterances "
    "train_seconds utterances trainable_parameters adapter_bytes"
).split()
LINEAGE = ("base_sha256", "data_md5", "git_commit", "encoder", "llm", "device", "held_out_sha256")


@dataclass(frozen=True)
class Side:
    """What is known of one adapter."""

    name: str
    adapter_sha256: str
    version: str
    figures: dict[str, float]
    settings: dict[str, Any]
    lineage: dict[str, Any]


def compare(context: Context, one: str, other: str) -> dict[str, Any]:
    """Figures, settings and lineage of two adapters. Raises InputError where one is not there, TrackingError."""
    registry = open_registry(context.tracker)
    sides = [_side(context, registry, Reference.parse(text)) for text in (one, other)]
    figures = {}
    for name in FIGURES:
        values = [side.figures.get(name) for side in sides]
        if values != [None, None]:
            known = values[0] is not None and values[1] is not None
            figures[name] = [*values, values[1] - values[0] if known else None]  # type: ignore[operator]
    return {
        "adapters": [
            {"adapter": side.name, "adapter_sha256": side.adapter_sha256, "version": side.version} for side in sides
        ],
        "same": sides[0].adapter_sha256 == sides[1].adapter_sha256,
        "comparable": sides[0].lineage["held_out_sha256"] == sides[1].lineage["held_out_sha256"] is not None,
        "figures": figures,
        "settings": _differences(sides[0].settings, sides[1].settings),
        "lineage": _differences(sides[0].lineage, sides[1].lineage),
    }


def _differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        name: [one.get(name), other.get(name)] for name in sorted({*one, *other}) if one.get(name) != other.get(name)
    }


def _side(context: Context, registry: Registry | None, reference: Reference) -> Side:
    from stages.alignment.record import read_record

    if reference.cohort is None:
        raise InputError(f"{reference}: compare takes personal adapters, COHORT/USER, each with its base beside it.")
    with opened(context.project, registry, reference) as found:
        record = read_record(found.folder)
        entry = _judged(context, found, record)
        figures = _figures(found, registry, record, entry)
        figures |= {key: record.metrics[key] for key in FIGURES if key in record.metrics}
        figures["adapter_bytes"] = (found.folder / "adapter.safetensors").stat().st_size
        tags = found.version.tags if found.version else {}
        lineage = {
            "base_sha256": record.base_sha256,
            "data_md5": record.data_md5,
            "git_commit": record.git_commit,
            "encoder": record.encoder,
            "llm": record.llm,
            "device": record.device.get("model"),
            "held_out_sha256": entry.get("held_out_sha256") or tags.get("held_out_sha256"),
        }
        told = {"method": record.method, **settings_of(record)}
        return Side(
            str(reference),
            record.weights_sha256,
            found.version.version if found.version else "",
            figures,
            told,
            lineage,
        )


def _judged(context: Context, found: Opened, record: Any) -> dict[str, Any]:
    """What the evaluation in the workspace says of these very weights; empty where it says nothing."""
    from pipeline.tracking.promotion import read_evaluation

    try:
        entry = read_evaluation(context.project.evaluation(str(record.cohort))).get(str(record.user)) or {}
    except EdgealignError:
        return {}  # an older adapter's run may have the figures
    return entry if entry.get("adapter_sha256") == record.weights_sha256 else {}


def _figures(found: Opened, registry: Registry | None, record: Any, entry: dict[str, Any]) -> dict[str, float]:
    flat: dict[str, Any]
    if entry:
        flat = {key: entry.get(key) for key in FIGURES}
        guard = entry.get("guard") or {}
        for prefix, errors in (
            ("", entry.get("personal")),
            ("base_", entry.get("base")),
            ("guard_", guard.get("personal")),
            ("base_guard_", guard.get("base")),
        ):
            for name in ("wer", "cer"):
                flat[prefix + name] = (errors or {}).get(name)
    else:
        runs = registry.runs_with(record.weights_sha256, "evaluate") if registry else []
        flat = dict(runs[0].data.metrics) if runs else {}
        for key, value in (found.version.tags if found.version else {}).items():
            if key in FIGURES and flat.get(key) is None:
                flat[key] = value
    return {key: float(flat[key]) for key in FIGURES if flat.get(key) is not None}
