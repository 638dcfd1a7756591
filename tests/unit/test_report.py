"""The report: figures against hand-computed ones, and what people get to see."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stages.plots import MAX_USERS, draw_wer_by_user
from stages.report import markdown_table, print_table, summarise, write_report
from tests.helpers_report import base_record, user_entry

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


def two_cohorts() -> dict[str, dict[str, Any]]:
    return {
        "quiet": {
            "cohort": "quiet",
            "users": {
                "ann": user_entry(0.4, 0.1, 0.5, test_utterances=10, train_seconds=1.0, peak_rss_bytes=5),
                "bob": user_entry(0.8, 0.4, None, test_utterances=30, train_seconds=3.0, peak_rss_bytes=7),
            },
            "skipped": {"cy": "2 labelled utterances, needs 4"},
            "all": {},
        },
        "far": {
            "cohort": "far",
            "users": {"dee": user_entry(0.5, 0.25, 0.3, test_utterances=40)},
            "skipped": {},
            "all": {"wer": 0.2, "base_wer": 0.5},
        },
    }


def test_a_cohort_without_pooled_figures_is_weighted_by_test_utterances() -> None:
    quiet = summarise(two_cohorts(), {})["cohorts"]["quiet"]["all"]
    assert quiet["wer"] == pytest.approx((0.1 * 10 + 0.4 * 30) / 40)
    assert quiet["base_wer"] == pytest.approx((0.4 * 10 + 0.8 * 30) / 40)


def test_pooled_figures_of_evaluate_are_taken() -> None:
    assert summarise(two_cohorts(), {})["cohorts"]["far"]["all"]["wer"] == 0.2


def test_overall_weights_cohorts_by_test_utterances() -> None:
    overall = summarise(two_cohorts(), {})["overall"]
    assert overall["wer"] == pytest.approx((0.325 * 40 + 0.2 * 40) / 80)
    assert overall["wer_relative_to_base"] == pytest.approx(overall["wer"] / ((0.7 * 40 + 0.5 * 40) / 80))
    assert overall["users"] == 3


def test_what_the_llm_tells_is_weighted_by_what_it_was_asked() -> None:
    cohorts = two_cohorts()
    asked = {"ann": (10, 0.5), "bob": (2, 0.8)}
    for user, (count, agreement) in asked.items():
        cohorts["quiet"]["users"][user] |= {"llm_utterances": count, "response_agreement": agreement}
    cohorts["far"]["users"]["dee"] |= {"llm_utterances": 12, "response_agreement": 1.0}
    summary = summarise(cohorts, {})
    quiet = (0.5 * 10 + 0.8 * 2) / 12
    assert summary["cohorts"]["quiet"]["all"]["response_agreement"] == pytest.approx(quiet)
    assert summary["overall"]["response_agreement"] == pytest.approx((quiet + 1.0) / 2)
    assert summary["overall"]["llm_utterances"] == 24
    assert summary["overall"]["wer"] == pytest.approx((0.325 * 40 + 0.2 * 40) / 80)  # by all that was held out


def test_an_unknown_figure_is_left_out_of_the_mean() -> None:
    assert summarise(two_cohorts(), {})["cohorts"]["quiet"]["all"]["cascade_wer"] == 0.5


def test_costs_are_means_sums_or_the_largest() -> None:
    quiet = summarise(two_cohorts(), {})["cohorts"]["quiet"]["all"]
    assert (quiet["train_seconds"], quiet["utterances"], quiet["peak_rss_bytes"]) == (2.0, 16, 7)


def test_a_summary_holds_every_metric_of_the_design_and_no_nan() -> None:
    cohorts = two_cohorts()
    cohorts["quiet"]["users"]["ann"]["llm_wer"] = float("nan")
    summary = summarise(cohorts, base_record())
    json.dumps(summary, allow_nan=False)
    names = "wer cer llm_wer response_agreement response_kl cascade_wer train_seconds utterances trainable_parameters"
    names += " adapter_bytes peak_rss_bytes bytes_exchanged"
    for level in (summary["overall"], summary["cohorts"]["quiet"]["all"], summary["cohorts"]["quiet"]["users"]["ann"]):
        assert set(names.split()) <= set(level)
    assert summary["cohorts"]["quiet"]["users"]["ann"]["llm_wer"] is None
    assert summary["overall"]["response_kl"] is None


def test_no_cohort_gives_a_summary_of_unknowns() -> None:
    overall = summarise({}, {})["overall"]
    assert overall["wer"] is None
    assert overall["users"] == 0


def test_the_markdown_table_shows_figures_and_dashes() -> None:
    lines = markdown_table(summarise(two_cohorts(), {})).splitlines()
    assert "| quiet | bob | 0.800 | 0.400 | – | +0.050 | 3.0 | 78,000 |" in lines
    assert len({line.count("|") for line in lines}) == 1


def test_the_printed_table_ends_with_the_two_commands() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    print_table(summarise(two_cohorts(), {}), console, "examples/a.flac", "bob")
    text = console.export_text()
    assert text.rstrip().splitlines()[-2:] == ["  edgealign tracking ui", "  edgealign ask examples/a.flac --user bob"]
    assert "no adapter for cy (quiet): 2 labelled utterances, needs 4" in text
    assert "jetson-0 (virtual)" in text


def test_the_printed_table_shows_brackets_in_names_as_they_are() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    print_table(summarise({"c": {"users": {"[red]ann[/red]": user_entry(0.4, 0.1, 0.5)}}}, {}), console, "a.flac")
    assert "[red]ann[/red]" in console.export_text()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_report(two_cohorts(), base_record(), tmp_path / "summary.json", tmp_path / "plots")
    return tmp_path


def test_the_summary_that_git_keeps_names_no_user(written: Path) -> None:
    told = (written / "summary.json").read_text()
    assert [name for name in ("ann", "bob", "dee", "cy") if f'"{name}"' in told] == []
    summary = json.loads(told)
    assert summary["cohorts"]["quiet"]["all"]["users"] == 2
    assert summary["cohorts"]["quiet"]["users_skipped"] == 1
    assert summary["overall"]["wer"] == summarise(two_cohorts(), base_record())["overall"]["wer"]


def test_the_csv_for_dvc_plots_holds_each_user(written: Path) -> None:
    with (written / "plots" / "wer_by_user.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["user"] for line in lines] == ["dee", "ann", "bob"]
    assert (lines[2]["personal_wer"], lines[2]["cascade_wer"]) == ("0.4", "")


def columns_that_dvc_draws() -> list[tuple[str, str, str, str]]:
    """(CSV, x, y, template) of each plot that dvc.yaml names."""
    import yaml

    found = []
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]:
        for name, plot in entry.items():
            if isinstance(plot["x"], dict):
                name, x, y = next(iter(plot["x"])), *plot["x"].values(), *plot["y"].values()
            else:
                x, y = plot["x"], plot["y"]
            found.append((name, x, y, plot.get("template", "linear")))
    return found


@pytest.mark.parametrize(("name", "x", "y", "template"), columns_that_dvc_draws())
def test_dvc_plots_draws_numbers_along_their_axis(written: Path, name: str, x: str, y: str, template: str) -> None:
    """DVC draws an empty frame where a bar's length is a name."""
    with (written / name).open() as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    assert {x, y} <= set(reader.fieldnames or ())
    if Path(name).name in ("wer_by_user.csv", "base_curve.csv", "personal_curves.csv"):
        assert lines  # the others are empty here: these users were judged by an older edgealign
    for column in {"bar_horizontal": [x], "confusion": []}.get(template, [x, y]):
        assert all(float(line[column]) >= 0 for line in lines)


@pytest.mark.parametrize("name", ["wer_by_user.png", "base_curve.png", "personal_curves.png"])
def test_figures_are_drawn(written: Path, name: str) -> None:
    content = (written / "plots" / name).read_bytes()
    assert content.startswith(PNG)
    assert len(content) > 20_000


def test_the_page_needs_no_other_file_and_escapes_data(written: Path) -> None:
    page = (written / "plots" / "report.html").read_text()
    for name in ("ann", "bob", "dee", "quiet", "far", "cy"):
        assert name in page
    assert page.count("data:image/png;base64,") == 3
    assert 'src="http' not in page and "<b>" not in page and "<i>" not in page
    assert "“play &lt;i&gt;some&lt;/i&gt; jazz”" in page


def test_the_same_input_gives_the_same_bytes(written: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("again")
    write_report(two_cohorts(), base_record(), again / "summary.json", again / "plots")
    names = sorted(path.name for path in (written / "plots").iterdir())
    assert [n for n in names if (again / "plots" / n).read_bytes() != (written / "plots" / n).read_bytes()] == []


def test_a_report_without_users_or_curves_is_still_written(tmp_path: Path) -> None:
    write_report(
        {"quiet": {"users": {}, "skipped": {"cy": "one utterance"}, "all": {}}}, {}, tmp_path / "s.json", tmp_path
    )
    page = (tmp_path / "report.html").read_text()
    assert "No personal adapter was evaluated." in page
    assert "one utterance" in page
    assert (tmp_path / "personal_curves.csv").read_text() == "cohort,user,step,loss\n"


def test_the_title_does_not_claim_what_did_not_happen(tmp_path: Path) -> None:
    summary = summarise({"c": {"users": {"ann": user_entry(0.2, 0.3, 0.1)}}}, {})
    finding = draw_wer_by_user(summary, tmp_path / "a.png")
    assert finding is not None
    assert finding.startswith("Personal adapters do not lower WER: 0.20 before, 0.30 after")


def test_more_users_than_fit_are_drawn_in_part(tmp_path: Path) -> None:
    users = {f"user{number:03d}": user_entry(0.5, 0.2, 0.3) for number in range(MAX_USERS + 5)}
    draw_wer_by_user(summarise({"c": {"users": users}}, {}), tmp_path / "many.png")
    draw_wer_by_user(summarise({"c": {"users": dict(list(users.items())[:MAX_USERS])}}, {}), tmp_path / "most.png")
    height = [int.from_bytes((tmp_path / name).read_bytes()[20:24], "big") for name in ("many.png", "most.png")]
    assert height[0] == height[1]
