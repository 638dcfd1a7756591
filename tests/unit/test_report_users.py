"""A user's part of the page: what may be heard, which examples, and that words in it are not taken for names."""

from __future__ import annotations

import base64
import html
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.cohorts.erasure.person import Matcher, Person
from stages.atomic import sha256_bytes
from stages.audio import encode_flac
from stages.consent import make_consent
from stages.recordings import read_recordings
from stages.report_page import user_page
from stages.report_users import Sounds, chosen_examples, marked, user_section
from stages.shards import ShardItem, write_shards
from stages.svg import bars, colour, curve, heat_map
from tests.helpers_cohorts import voice_like
from tests.helpers_report import heard_rows, user_entry


def utterance(name: str, granted: bool = True) -> ShardItem:
    audio = encode_flac(voice_like(0.2, sum(map(ord, name))))
    return ShardItem(
        name, "ann", "stop", "en", make_consent(granted, "personal"), "0" * 64, 0.2, audio, sha256_bytes(audio)
    )


@pytest.fixture
def shards(tmp_path: Path) -> tuple[list[Path], dict[str, ShardItem]]:
    items = [utterance("ann-1"), utterance("ann-2"), utterance("ann-3", granted=False), utterance("ann-4")]
    return write_shards(items, tmp_path / "home", max_items=3), {item.utterance: item for item in items}


def test_what_is_asked_for_is_read_byte_for_byte(shards: tuple[list[Path], dict[str, ShardItem]]) -> None:
    paths, items = shards
    assert len(paths) == 2
    wanted = {name: items[name].audio_sha256 for name in ("ann-2", "ann-4")}
    assert read_recordings(paths, wanted) == {name: items[name].audio for name in wanted}


def test_nobody_is_heard_without_consent_or_in_place_of_another(
    shards: tuple[list[Path], dict[str, ShardItem]],
) -> None:
    paths, items = shards
    wanted = {"ann-1": "f" * 64, "ann-3": items["ann-3"].audio_sha256, "gone": items["ann-1"].audio_sha256}
    assert read_recordings(paths, wanted) == {}


def test_a_broken_shard_costs_its_own_players_alone(
    shards: tuple[list[Path], dict[str, ShardItem]], tmp_path: Path
) -> None:
    paths, items = shards
    paths[0].chmod(0o644)
    paths[0].write_bytes(paths[0].read_bytes()[:700])
    wanted = {name: items[name].audio_sha256 for name in ("ann-1", "ann-4")}
    assert set(read_recordings([tmp_path / "not-there.tar", *paths], wanted)) == {"ann-4"}


def test_a_member_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.tar"
    member = tarfile.TarInfo("ann-1.flac")
    member.size = 10**12
    path.write_bytes(member.tobuf())
    assert read_recordings([path], {"ann-1": "0" * 64}) == {}


def entry(**changes: Any) -> dict[str, Any]:
    said = {"u1": ("turn on the light", "turn in the light", "1" * 64), "u2": ("may i go", "may go", "2" * 64)}
    examples = [
        {"utterance": name, "reference": told[0], "base": told[1], "personal": told[1], "cascade": None, "reply": "ok"}
        for name, told in said.items()
    ]
    return user_entry(0.4, 0.2, 0.3, **(heard_rows(said) | {"examples": examples} | changes))


def test_the_examples_are_the_one_that_gains_most_and_the_worst_of_the_rest() -> None:
    names = ("even", "gains", "bad", "worse")
    read = [
        {"utterance": name, "base_errors": base, "personal_errors": personal}
        for name, base, personal in (("even", 1, 1), ("gains", 5, 2), ("bad", 3, 3), ("worse", 4, 6))
    ]
    made = user_entry(0.1, 0.1, 0.1, read=read, examples=[{"utterance": name} for name in names])
    assert [item["utterance"] for item in chosen_examples(made)] == ["gains", "worse"]
    assert [item["utterance"] for item in chosen_examples(made, 9)] == ["gains", "worse", "bad", "even"]
    assert chosen_examples({}) == []


def test_what_was_read_is_marked_word_by_word() -> None:
    plain = re.sub("\N{WORD JOINER}", "", marked("turn on the light", "turn the light please"))
    assert plain == '“turn <span class="m">on</span> the light <span class="w">please</span>”'
    plain = re.sub("\N{WORD JOINER}", "", marked("stop now", "stop no"))
    assert plain == '“stop <span class="w">no</span> <span class="m">now</span>”'
    assert marked("", "") == "(nothing)"


def test_a_page_holds_the_recordings_that_may_be_heard() -> None:
    asked = []

    def recordings(cohort: str, wanted: Any) -> dict[str, bytes]:
        asked.append((cohort, dict(wanted)))
        return {"u1": b"fLaC-one"}

    page = user_page("home", "ann", entry(), recordings)
    assert asked == [("home", {"u1": "1" * 64, "u2": "2" * 64})]
    assert [base64.b64decode(item) for item in re.findall(r"data:audio/flac;base64,([\w+/=]+)", page)] == [b"fLaC-one"]
    assert "1.5 s, not in this page" in page  # the other one
    assert page.count("<details open>") == 1
    assert "src=" not in user_page("home", "ann", entry())


def test_recordings_stop_where_the_page_is_full() -> None:
    sounds = Sounds(lambda cohort, wanted: dict.fromkeys(wanted, b"x" * 60), most_bytes=100)
    examples = [{"utterance": name, "audio_sha256": name} for name in ("u1", "u2")]
    assert list(sounds.of("home", examples)) == ["u1"]
    assert sounds.of("home", [{"utterance": "u3", "audio_sha256": "u3"}]) == {}


def test_words_of_a_page_are_not_taken_for_users() -> None:
    """Others may go on saying “may” once the user of that name is forgotten."""
    matcher = Matcher(Person("may", {"home": "may"}), {"home", "other"})
    said = {
        f"u{n}": (text, read, "0" * 64) for n, (text, read) in enumerate([("may", "stop"), ("i may go", "a may b")])
    }
    examples = [
        {"utterance": n, "reference": r, "base": t, "personal": t, "reply": "may"} for n, (r, t, _) in said.items()
    ]
    told = heard_rows(said)
    for side in told["posteriors"]["sides"].values():
        side["tokens"] = ["may", " may"]
    made = user_entry(0.4, 0.2, 0.3, **(told | {"examples": examples}))
    assert not matcher.in_text(user_section("other", "ann", made, Sounds(None)))
    assert matcher.in_text(user_section("home", "may", made, Sounds(None)))


def test_a_section_shows_guard_layers_curve_and_time() -> None:
    guard = {"utterances": 60, "base": {"wer": 0.3}, "personal": {"wer": 0.35}}
    section = user_section("home", "ann", entry(guard=guard), Sounds(None))
    assert "WER 0.400 → 0.200; on 60 utterances of other people 0.300 → 0.350" in section
    titles = re.findall(r"<svg[^>]*><title>([^<]+)</title>", html.unescape(section))
    assert titles == [
        "posteriors over time, base adapter",
        "posteriors over time, personal adapter",
        "share of each layer's weights that the adapter changes",
        "training loss by step",
    ]


def test_an_entry_of_an_older_edgealign_has_a_section_too() -> None:
    section = user_section("home", "ann", user_entry(0.4, 0.2, 0.3, curve=[]), Sounds(None))
    assert "WER 0.400 → 0.200" in section and "<svg" not in section
    assert user_section("home", "ann", {}, Sounds(None)).startswith("<details><summary>ann (home)</summary>")


# --- pictures by hand -----------------------------------------------------------------------------------------------


def test_a_heat_map_has_a_cell_for_each_posterior_that_is_seen() -> None:
    picture = heat_map({"tokens": ["", " on"], "values": [[0.9, 0.01, 0.0], [0.1, 1.0, 0.0]], "step_s": 0.5}, "t")
    cells = re.findall(
        r'<rect x="(\d+)" y="(\d+)" width="14" height="16" fill="(#\w+)"><title>([^<]*)</title>', picture
    )
    assert [(x, y, title) for x, y, _, title in cells] == [
        ("92", "0", "(blank) 0.90"),
        ("92", "16", "▁on 0.10"),
        ("106", "16", "▁on 1.00"),
    ]
    assert cells[2][2] == colour(1.0)
    assert re.findall(r">([\d.]+)</text>", picture) == ["0", "0.5", "1", "1.5"]
    assert heat_map({"tokens": [], "values": [], "step_s": 0.1}, "t") == ""


def test_the_palette_is_matplotlibs_and_grows_lighter() -> None:
    import matplotlib
    import matplotlib.colors

    shades = []
    for step in range(21):
        mine = matplotlib.colors.to_rgb(colour(step / 20))
        theirs = matplotlib.colormaps["cividis"](step / 20)[:3]
        assert mine == pytest.approx(theirs, abs=0.04)
        shades.append(0.2126 * mine[0] + 0.7152 * mine[1] + 0.0722 * mine[2])
    assert shades == sorted(shades)
    assert colour(-1) == colour(0)
    assert colour(2) == colour(1)


def test_bars_and_curves_are_to_scale() -> None:
    widths = re.findall(r'<rect [^>]*width="([\d.]+)"', bars([("enter", 0.02), ("<b>", 0.005)], "t"))
    assert [float(width) for width in widths] == [300.0, 75.0]
    assert "<b>" not in bars([("<b>", 1.0)], "t")
    [line] = re.findall(r'points="([^"]+)"', curve([(0, 4.0), (5, 2.0), (10, 1.0)], "t", "x", "y"))
    assert [tuple(map(float, point.split(","))) for point in line.split()] == [(44, 6), (254, 81), (464, 118.5)]
    assert curve([(0, 1.0)], "t", "x", "y") == ""


def test_a_page_is_one_well_formed_document() -> None:
    """Nothing is left open, so that an MLflow page or a mail shows it as a browser does."""
    from html.parser import HTMLParser

    page = user_page("home", "ann & co", entry(), lambda cohort, wanted: dict.fromkeys(wanted, b"x"))
    void, stack = {"meta", "img", "br", "link", "rect", "line", "polyline"}, []

    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in void:
                stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in void:
                assert stack.pop() == tag

    Check().feed(page)
    assert stack == []
    assert "ann &amp; co" in page
    assert page.count("http") == page.count("http://www.w3.org/2000/svg")
