"""The report stage: what all cohorts' evaluations say together, as one JSON, tables, figures and a page.

Symbols: a *cohort's evaluation* is the content of ``artifacts/evaluations/<cohort>.json`` as the evaluate stage writes it; a
*summary* is what :func:`summarise` makes of all of them. Unknown figures are null everywhere and a dash in tables, never a
zero.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stages.atomic import write_json, write_text
from stages.report_users import Recordings

POOLED = (
    "wer",
    "cer",
    "base_wer",
    "cascade_wer",
    "llm_wer",
    "reference_llm_wer",
    "llm_gap",
    "response_agreement",
    "response_kl",
)
"""Figures about held-out speech; over users they are pooled by evaluate, else weighted, see ``_weight``."""

OF_LLM = ("llm_wer", "reference_llm_wer", "llm_gap", "response_agreement", "response_kl")
"""Those of them that only the utterances tell that the LLM was asked about."""

COSTS = ("train_seconds", "utterances", "trainable_parameters", "adapter_bytes", "peak_rss_bytes", "bytes_exchanged")
"""Figures about training one adapter; ``utterances`` counts those that trained it."""

_SUMMED = ("utterances", "bytes_exchanged")
_LARGEST = ("peak_rss_bytes",)


def known(value: Any) -> float | int | None:
    """``value`` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def weighted_mean(pairs: Iterable[tuple[Any, Any]]) -> float | None:
    """Mean of (value, weight) over the known values; None where there is none."""
    usable = [(v, w) for v, w in ((known(v), known(w)) for v, w in pairs) if v is not None and w]
    total = sum(weight for _, weight in usable)
    return sum(value * weight for value, weight in usable) / total if total else None


def _weight(name: str, figures: Mapping[str, Any]) -> Any:
    """How many utterances a figure of a user or cohort is about."""
    asked = figures["llm_utterances"] if name in OF_LLM else None
    return figures["test_utterances"] if asked is None else asked  # None: an evaluation of before does not tell it


def user_metrics(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One user's figures by DESIGN's names, with method, device and whether that is virtual or real."""
    base, personal = entry.get("base") or {}, entry.get("personal") or {}
    flat: dict[str, Any] = {name: known(entry.get(name)) for name in (*POOLED, *COSTS)}
    flat["wer"], flat["cer"] = known(personal.get("wer")), known(personal.get("cer"))
    flat["base_wer"], flat["base_cer"] = known(base.get("wer")), known(base.get("cer"))
    for name in ("test_utterances", "llm_utterances"):
        flat[name] = known(entry.get(name))
    for name in ("method", "device", "device_kind"):
        flat[name] = str(entry.get(name) or "unknown")
    return flat


def _together(users: list[dict[str, Any]], pooled: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of several users: ``pooled`` where it knows them; costs are means a user, sums or the largest."""
    joined: dict[str, Any] = {}
    for name in (*POOLED, "base_cer"):
        joined[name] = known(pooled.get(name))
        if joined[name] is None:
            joined[name] = weighted_mean((user[name], _weight(name, user)) for user in users)
    for name in COSTS:
        values = [user[name] for user in users if user[name] is not None]
        if not values:
            joined[name] = None
        elif name in _SUMMED:
            joined[name] = sum(values)
        else:
            joined[name] = max(values) if name in _LARGEST else sum(values) / len(values)
    joined["test_utterances"] = sum(user["test_utterances"] or 0 for user in users)
    asked = [user["llm_utterances"] for user in users]
    joined["llm_utterances"] = None if None in asked else sum(asked)
    joined["users"] = len(users)
    wer, base = joined["wer"], joined["base_wer"]
    joined["wer_relative_to_base"] = wer / base if wer is not None and base else None
    return joined


def summarise(cohorts: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any]) -> dict[str, Any]:
    """Overall figures, per cohort and per user.

    Overall WERs are the cohorts' pooled ones weighted by their test utterances (evaluate pools words inside a cohort), those of
    the LLM by the utterances that it was asked about.
    ``train_seconds``, ``trainable_parameters`` and ``adapter_bytes`` are means an adapter, ``utterances`` and
    ``bytes_exchanged`` sums, ``peak_rss_bytes`` the largest. ``base`` is the base adapter's ``adapter.json``.
    """
    parts: dict[str, Any] = {}
    everyone: list[dict[str, Any]] = []
    for cohort in sorted(cohorts):
        content = cohorts[cohort]
        users = {name: user_metrics(entry) for name, entry in sorted((content.get("users") or {}).items())}
        everyone += users.values()
        parts[cohort] = {
            "all": _together(list(users.values()), content.get("all") or {}),
            "users": users,
            "skipped": dict(sorted((content.get("skipped") or {}).items())),
        }
    pooled = {
        name: weighted_mean((part["all"][name], _weight(name, part["all"])) for part in parts.values())
        for name in (*POOLED, "base_cer")
    }
    trained = base.get("metrics") or {}
    return {
        "overall": _together(everyone, pooled),
        "cohorts": parts,
        "base": {name: known(trained.get(name)) for name in ("dev_wer", "train_seconds")},
    }


def without_users(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``metrics/summary.json``: git tracks that file and never forgets, so no user is named in it."""
    cohorts = {
        cohort: {"all": part["all"], "users_skipped": len(part["skipped"])}
        for cohort, part in summary["cohorts"].items()
    }
    return {**summary, "cohorts": cohorts}


# --- tables ---------------------------------------------------------------------------------------------------------

COLUMNS = ("base WER", "personal WER", "cascade WER", "LLM gap", "seconds", "adapter bytes")


def number(value: Any, form: str) -> str:
    """``value`` in the format ``form``, a dash where it is unknown."""
    return "–" if known(value) is None else format(value, form)


def cells(figures: Mapping[str, Any]) -> list[str]:
    """The figures of :data:`COLUMNS` as text."""
    rates = [number(figures.get(name), ".3f") for name in ("base_wer", "wer", "cascade_wer")]
    rest = [number(figures.get("llm_gap"), "+.3f"), number(figures.get("train_seconds"), ".1f")]
    return [*rates, *rest, number(figures.get("adapter_bytes"), ",.0f")]


def rows(summary: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(cohort, user, cells) for each user, each cohort ("all") and, with several cohorts, overall."""
    found: list[tuple[str, str, list[str]]] = []
    for cohort, part in summary["cohorts"].items():
        found += [(cohort, user, cells(figures)) for user, figures in part["users"].items()]
        if part["users"]:
            found.append((cohort, "all", cells(part["all"])))
    if sum(bool(part["users"]) for part in summary["cohorts"].values()) > 1:
        found.append(("all", "all", cells(summary["overall"])))
    return found


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The cohort × user table in Markdown."""
    lines = ["| cohort | user | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * len(COLUMNS)]
    for cohort, user, figures in rows(summary):
        lines.append("| " + " | ".join(part.replace("|", "\\|") for part in (cohort, user, *figures)) + " |")
    return "\n".join(lines) + "\n"


def print_table(summary: Mapping[str, Any], console: Console, example: str, user: str | None = None) -> None:
    """Print the cohort × user table and the two commands to look further.

    ``example`` is a recording that exists (``edgealign ask`` is shown with it), ``user`` whose adapter it asks.
    """
    from rich import box

    # no ruled columns: the table fits into 80 characters, with its headers on two lines
    table = Table(
        title="Word error rate by user",
        caption=_caption(summary),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("cohort", no_wrap=True)
    table.add_column("user", no_wrap=True)
    for place, name in enumerate(COLUMNS):
        figures = [line[2][place] for line in rows(summary)]
        widest = max(map(len, [*figures, *name.split()]))
        table.add_column(name, justify="right", min_width=widest)
    last = None
    for cohort, name, figures in rows(summary):
        total = name == "all"
        if last is not None and cohort != last:
            table.add_section()
        # names are other people's text: never read as markup
        table.add_row(Text("" if cohort == last else cohort), Text(name), *figures, style="bold" if total else None)
        last = cohort
    console.print(table)
    for cohort, part in summary["cohorts"].items():
        for name, reason in part["skipped"].items():
            console.print(Text(f"no adapter for {name} ({cohort}): {reason}"))
    asked = f"edgealign ask {example}" + (f" --user {user}" if user else "")
    console.print(Text(f"\nLook further:\n  edgealign tracking ui\n  {asked}"), soft_wrap=True)


def devices(summary: Mapping[str, Any]) -> str:
    """Where the adapters were trained: "jetson-0 (virtual)"; empty without adapters."""
    users = [user for part in summary["cohorts"].values() for user in part["users"].values()]
    return ", ".join(sorted({f"{user['device']} ({user['device_kind']})" for user in users}))


def _caption(summary: Mapping[str, Any]) -> str:
    where = devices(summary)
    return "LLM gap: WER of the LLM's repeat from audio minus that from the reference text." + (
        f"\nTrained on: {where}" if where else ""
    )


# --- files ----------------------------------------------------------------------------------------------------------


def csv_text(header: tuple[str, ...], lines: Iterable[Iterable[Any]]) -> str:
    """A CSV as `dvc plots` reads it; unknown figures are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if item is None else item for item in line] for line in lines)
    return buffer.getvalue()


def write_csvs(cohorts: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any], folder: Path) -> None:
    """``wer_by_user.csv``, ``base_curve.csv`` (epoch, seconds, dev WER) and ``personal_curves.csv`` (step, loss)."""
    named = [(c, u, e) for c in sorted(cohorts) for u, e in sorted((cohorts[c].get("users") or {}).items())]
    figures = [(cohort, user, user_metrics(entry)) for cohort, user, entry in named]
    wers = [(cohort, user, f["base_wer"], f["wer"], f["cascade_wer"]) for cohort, user, f in figures]
    header = ("cohort", "user", "base_wer", "personal_wer", "cascade_wer")
    write_text(folder / "wer_by_user.csv", csv_text(header, wers))
    curve = ((base.get("metrics") or {}).get("curve") or {}).get("dev_wer") or []
    write_text(folder / "base_curve.csv", csv_text(("epoch", "seconds", "dev_wer"), curve))
    losses = [(cohort, user, step, loss) for cohort, user, entry in named for step, loss in entry.get("curve") or []]
    write_text(folder / "personal_curves.csv", csv_text(("cohort", "user", "step", "loss"), losses))
    write_reading_csvs(cohorts, folder)


def write_reading_csvs(cohorts: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """``confusion.csv`` (a line each time that one of the most confused words was said), ``length_error.csv`` (a line an
    utterance and adapter) and ``layers.csv`` (mean share of a layer's weights that an adapter changes).

    What a user said and how it was read stands beside the user's name: so it is found when the user is to be erased.
    """
    from stages.layers import layer_name, mean_densities
    from stages.reading import SIDES, most_confused, quoted, read_rows

    rows = read_rows(cohorts)
    pairs = [(cohort, user, quoted(said), quoted(read)) for cohort, user, said, read in most_confused(rows)]
    write_text(folder / "confusion.csv", csv_text(("cohort", "user", "said", "read"), pairs))
    lengths = [
        (row["cohort"], row["user"], row["words"], row["duration_s"], side, row[f"{side}_errors"] / row["words"])
        for row in rows
        for side in SIDES
        if row["words"]
    ]
    header = ("cohort", "user", "words", "duration_s", "adapter", "wer")
    write_text(folder / "length_error.csv", csv_text(header, lengths))
    shares = [(layer_name(layer), share) for layer, share in mean_densities(cohorts).items()]
    write_text(folder / "layers.csv", csv_text(("layer", "changed"), shares))


def write_report(
    cohorts: Mapping[str, Mapping[str, Any]],
    base: Mapping[str, Any],
    summary_path: Path,
    plots: Path,
    recordings: Recordings | None = None,
) -> dict[str, Any]:
    """Write ``metrics/summary.json`` and, in ``plots``, CSVs, figures, ``table.md`` and ``report.html``; the summary.

    ``recordings`` gives the examples' recordings, see stages.report_users; None leaves the players out.
    """
    from stages.figures import draw_all  # matplotlib takes half a second to import
    from stages.report_page import page

    summary = summarise(cohorts, base)
    write_json(summary_path, without_users(summary))
    write_csvs(cohorts, base, plots)
    write_text(plots / "table.md", markdown_table(summary))
    figures = draw_all(cohorts, base, summary, plots)
    write_text(plots / "report.html", page(summary, cohorts, figures, recordings))
    return summary
