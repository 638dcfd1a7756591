"""What figures draw, read back from matplotlib's own objects; made-up evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.colors
import pytest
from matplotlib.figure import Figure

from stages import plots_adapter, plots_words
from stages.figures import draw_all
from stages.plots import MAX_USERS
from stages.plots_adapter import draw_mask_density, draw_posteriors
from stages.plots_words import SHOWN, draw_confusions, draw_length_error
from stages.report import summarise
from tests.helpers_report import base_record, heard_rows, user_entry

Drawn = dict[str, Figure]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Figures as they were handed over to be saved."""
    found: Drawn = {}
    for module in (plots_adapter, plots_words):
        monkeypatch.setattr(module, "_save", lambda figure, path: found.__setitem__(path.name, figure))
    return found


def row(reference: str, base: str, personal: str, seconds: float = 1.0) -> dict[str, Any]:
    from stages.alignment.metrics import word_errors

    errors = {
        f"{side}_errors": word_errors([reference], [t]).errors for side, t in (("base", base), ("personal", personal))
    }
    words = len(reference.split())
    told = {"reference": reference, "base": base, "personal": personal, "words": words, "duration_s": seconds}
    return {**told, **errors, "cohort": "c", "user": "ann"}


ROWS = [
    row("turn on the light", "turn in the light", "turn on the light", 2.0),
    row("turn on the light now", "turn in the light", "turn on a light now", 2.6),
    row("stop", "stop please", "stop", 0.6),
    row("stop", "", "stop", 0.7),
]


def bars(figure: Figure) -> dict[str, list[float]]:
    [axes] = figure.axes
    return {item.get_label().partition(":")[0]: [bar.get_width() for bar in item] for item in axes.containers}  # type: ignore[attr-defined]


def test_confusions_before_and_after_stand_beside_each_other(drawn: Drawn) -> None:
    finding = draw_confusions(ROWS, Path("c.png"))
    assert finding == "Personal adapters make 1 word errors, the base 5"
    figure = drawn["c.png"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["“on” → “in”", "“the” → “a”", "∅ → “please”", "“now” → ∅", "“stop” → ∅"]
    both = bars(figure)
    counts = dict(zip(names, zip(both["base adapter"], both["personal adapter"], strict=True), strict=True))
    assert counts == {
        "“on” → “in”": (2, 0),
        "“the” → “a”": (0, 1),
        "“now” → ∅": (1, 0),
        "“stop” → ∅": (1, 0),
        "∅ → “please”": (1, 0),
    }
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "base adapter: 2 read as another word, 2 missed, 1 added",
        "personal adapter: 1 read as another word, 0 missed, 0 added",
    ]


def test_only_the_most_frequent_confusions_are_drawn(drawn: Drawn) -> None:
    rows = [row("said" + chr(ord("a") + number), "other", "other") for number in range(SHOWN + 2)]
    rows += [row("last", "other", "other")] * 3
    draw_confusions(rows, Path("c.png"))
    names = [label.get_text() for label in drawn["c.png"].axes[0].get_yticklabels()]
    assert len(names) == SHOWN
    assert names[0] == "“last” → “other”"


def test_nothing_read_wrong_is_no_figure(drawn: Drawn) -> None:
    assert draw_confusions([row("stop", "stop", "stop")], Path("c.png")) is None
    assert draw_length_error([], Path("l.png")) is None
    assert draw_mask_density({"c": {"users": {"ann": {}}}}, Path("m.png")) is None
    assert draw_posteriors({"reference": "", "sides": {}}, Path("p.png")) is None
    assert drawn == {}


def test_error_by_length_is_pooled_in_bins_of_words_and_seconds(drawn: Drawn) -> None:
    assert draw_length_error(ROWS, Path("l.png")) is not None
    words, seconds = drawn["l.png"].axes
    assert (words.get_xlabel(), seconds.get_xlabel()) == ("words in the utterance", "length of the recording (s)")
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in words.get_lines()}
    assert lines["base adapter, pooled"] == [(1, 1.0), (4, 0.25), (5, 0.4)]
    assert lines["personal adapter, pooled"] == [(1, 0.0), (4, 0.0), (5, 0.2)]
    assert [len(spots.get_offsets()) for spots in words.collections] == [4, 4]


def test_an_utterance_without_a_length_is_drawn_by_its_words_alone(drawn: Drawn) -> None:
    draw_length_error([{**item, "duration_s": 0.0} for item in ROWS], Path("l.png"))
    assert [axes.get_xlabel() for axes in drawn["l.png"].axes] == ["words in the utterance"]


def entry(*changed: int) -> dict[str, Any]:
    layers = ("enter", "blocks.0.attention.key", "leave")
    return {"layers": [{"layer": n, "changed": c, "weights": 200} for n, c in zip(layers, changed, strict=True)]}


def test_the_mask_of_each_user_by_layer(drawn: Drawn) -> None:
    cohorts = {"far": {"users": {"bob": entry(10, 2, 0)}}, "home": {"users": {"ann": entry(6, 0, 1), "old": {}}}}
    assert draw_mask_density(cohorts, Path("m.png")) == (
        "Personal adapters change most of layer “enter”: 4.0% of its weights"
    )
    axes = drawn["m.png"].axes[0]
    assert axes.images[0].get_array().tolist() == [[5.0, 1.0, 0.0], [3.0, 0.0, 0.5]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bob (far)", "ann (home)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["enter", "block 1 key", "leave"]
    assert "% of the layer's weights changed" in drawn["m.png"].axes[1].get_ylabel()


def test_one_users_mask_is_bars(drawn: Drawn) -> None:
    draw_mask_density({"far": {"users": {"bob": entry(10, 2, 0)}}}, Path("m.png"))
    [axes] = drawn["m.png"].axes
    assert [bar.get_width() for bar in axes.patches] == [0.05, 0.01, 0.0]  # type: ignore[attr-defined]


def test_more_users_than_fit_are_said_to_be_left_out(drawn: Drawn) -> None:
    users = {f"user{number:03d}": entry(1, 1, 1) for number in range(MAX_USERS + 5)}
    draw_mask_density({"c": {"users": users}}, Path("m.png"))
    assert len(drawn["m.png"].axes[0].images[0].get_array()) == MAX_USERS
    assert drawn["m.png"].get_suptitle().endswith(f"{MAX_USERS} of {MAX_USERS + 5} users")


def test_posteriors_over_time_of_both_adapters(drawn: Drawn) -> None:
    sides = {
        "base": {
            "text": "stob",
            "step_s": 0.08,
            "tokens": ["", " sto", "b"],
            "values": [[0.9, 0.1], [0.1, 0.2], [0, 0.7]],
        },
        "personal": {"text": "stop", "step_s": 0.08, "tokens": ["", " stop"], "values": [[0.8, 0.1], [0.2, 0.9]]},
    }
    assert draw_posteriors({"reference": "stop", "sides": sides}, Path("p.png"), "ann (c)") == "“stop” in time, ann (c)"
    base, personal, bar = drawn["p.png"].axes
    assert base.images[0].get_array().tolist() == [[0.9, 0.1], [0.1, 0.2], [0.0, 0.7]]
    assert [label.get_text() for label in base.get_yticklabels()] == ["(blank)", "▁sto", "b"]
    assert personal.get_title(loc="left") == "personal adapter reads: “stop”"
    assert personal.images[0].get_extent()[:2] == pytest.approx((0.0, 0.16))
    assert personal.get_xlabel() == "time (s)"
    assert bar.get_ylabel() == "posterior"
    assert {image.get_clim() for axes in (base, personal) for image in axes.images} == {(0.0, 1.0)}


def test_dollars_in_a_token_are_no_mathematics(tmp_path: Path) -> None:
    side = {"text": "$", "step_s": 0.1, "tokens": ["$x$", "$"], "values": [[1.0], [0.0]]}
    assert draw_posteriors({"reference": "$5$", "sides": {"base": side}}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000


def test_the_two_adapters_are_told_apart_without_colour() -> None:
    """Colours differ in lightness, too: readers who see no colour, and grey prints."""

    def lightness(colour: str) -> float:
        red, green, blue = matplotlib.colors.to_rgb(colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = [lightness(colour) for _, _, colour in plots_words.SIDES]
    assert abs(shades[0] - shades[1]) > 0.15


def test_every_figure_that_there_is_data_for_is_drawn(tmp_path: Path) -> None:
    read = heard_rows({"u1": ("turn on the light", "turn off the light", "0"), "u2": ("stop now", "stop", "1")})
    cohorts = {"c": {"users": {"ann": user_entry(0.4, 0.2, 0.3) | read, "bob": user_entry(0.4, 0.2, 0.3) | read}}}
    summary = summarise(cohorts, base_record())
    found = draw_all(cohorts, base_record(), summary, tmp_path)
    assert sorted(path.name for path in found.values()) == sorted(path.name for path in tmp_path.iterdir())
    assert {path.stem for path in found.values()} == {
        *("wer_by_user", "confusion", "length_error", "layers", "posteriors", "base_curve", "personal_curves")
    }
    old = draw_all({"c": {"users": {"ann": user_entry(0.4, 0.2, 0.3)}}}, base_record(), summary, tmp_path)
    assert {path.stem for path in old.values()} == {"wer_by_user", "base_curve", "personal_curves"}
