"""`edgealign cohort check` as people and machines get it: the page, the terminal, JSON, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from pipeline.cohorts.check import CheckResult, check_and_print, check_cohorts, print_check
from pipeline.project import Project
from pipeline.settings import load_settings
from stages.errors import InputError
from tests.helpers_check import TEXTS, index_table, put_cohort

ROOT = Path(__file__).resolve().parents[2]
MARKUP = "<script>alert('x')</script>"
UNKNOWN = dict.fromkeys(
    "source_rate_hz source_channels source_format level_dbfs peak clipped_share snr_db speech_share".split()
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    lists = {"cohorts": "[team, other]", "base_cohorts": "[]", "personal_cohorts": "[team]", "  untold_only": "[]"}
    for key, names in lists.items():
        text, changed = re.subn(rf"(?m)^{key}: \[.*?\]", f"{key}: {names}", text)
        assert changed == 1
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return Project(tmp_path)


def checked(project: Project, table: pa.Table, called: dict[str, str] | None = None) -> CheckResult:
    put_cohort(project, "team", table, called)
    return check_cohorts(project, ["team"], settings=load_settings(project.root))[0]


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def figures(self) -> list[str]:
        return [attributes["alt"] or "" for tag, attributes in self.tags if tag == "img"]


def troubled() -> pa.Table:
    """A cohort that has something to tell in every part of the page."""
    names = [f"{MARKUP}{n}" for n in range(30)]
    return index_table(
        30,
        utterance=names,
        user=["ann"] * 20 + ["bob"] * 9 + ["<i>cy</i>"],
        text=[f"{MARKUP} д", "turn on the lihgt", "turn on the light", None, "word " * 80, *TEXTS * 4, "go"],
        level_dbfs=[-80.0] * 3 + [-25.0] * 27,
        clipped_share=[0.5] * 4 + [0.0] * 26,
        audio_sha256=["same", "same", *(str(n) for n in range(28))],
        granted=[n % 5 != 0 for n in range(30)],
        source_format=["<b>WAV</b>"] * 15 + ["MP3"] * 15,
        source_rate_hz=[8_000] * 10 + [48_000] * 20,
    )


def test_the_page_needs_nothing_else(project: Project) -> None:
    page = checked(project, troubled()).html
    html = page.read_text(encoding="utf-8")
    assert "http:" not in html
    assert "https:" not in html
    for tag, attributes in Page(page).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")


def test_the_figures_themselves_load_nothing_and_run_nothing(project: Project) -> None:
    figures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", checked(project, troubled()).html.read_text("utf-8"))
    assert len(figures) == 6
    for figure in figures:
        svg = base64.b64decode(figure).decode()
        assert "<svg" in svg
        assert "<script" not in svg
        assert all(place.startswith("#") for place in re.findall(r"(?:xlink:)?href=\"([^\"]*)\"", svg))


def test_names_and_texts_with_markup_are_escaped(project: Project) -> None:
    (project.private / "quarantine").mkdir(parents=True)
    quarantine = project.private / "quarantine" / "team.csv"
    quarantine.write_text(f'item,reason\n"{MARKUP}.wav","{MARKUP} cannot be read"\n', encoding="utf-8")
    put_cohort(project, "other", index_table(30, user="<u>", audio_sha256=["same"] * 30))
    result = checked(project, troubled(), {"ann": MARKUP, "bob": "<u>"})
    page = Page(result.html)
    assert {tag for tag, _ in page.tags} <= set(
        "html head meta title style body h1 h2 h3 p span div b table thead tbody tr th td code figure figcaption img ul li "
        "details summary".split()
    )
    assert page.text.count(MARKUP) > 20
    assert "<i>cy</i>" in page.text
    assert f"{MARKUP} cannot be read" in page.text


def test_the_page_tells_of_every_part(project: Project) -> None:
    put_cohort(project, "other", index_table(4, user=["ann", "x", "y", "z"], audio_sha256=["same", "q", "r", "s"]))
    result = checked(project, troubled())
    text = Page(result.html).text
    for part in (
        "Breaks 7 of 12 rules",
        "max_withheld_share",
        "Users whom another cohort has",
        "Silent",
        "Clipped",
        "In this cohort",
        "Here and in another cohort",
        "cyrillic small letter de",
        "lihgt / light",
        "Too long or too short for the recording",
        "no consent: it is withheld",
        "2 sample rates came in",
    ):
        assert part in text, part
    assert len(result.broken) == 7


def test_what_is_not_known_is_not_drawn_and_is_said(project: Project) -> None:
    page = Page(checked(project, index_table(24, **UNKNOWN)).html)
    assert len(page.figures) == 3  # durations, utterances a user, speech rate
    assert "SNR, where no pause tells the noise (known of 0 %)" in page.text
    assert "sample rate, channels and format of the files that came in (known of 0 %)" in page.text
    assert not re.search(r"\bnan\b", page.text)


@pytest.mark.parametrize("table", [index_table(0), index_table(1, 1), index_table(1, 1, text=None, **UNKNOWN)])
def test_a_cohort_of_almost_nothing_has_a_page(project: Project, table: pa.Table) -> None:
    result = checked(project, table)
    page = Page(result.html)
    assert "team" in page.text
    assert bool(page.figures) == bool(table.num_rows)
    print_check(result, Console(width=100, file=io.StringIO()))
    json.dumps(result.as_json(), allow_nan=False)


def test_the_same_cohort_gives_the_same_page(project: Project) -> None:
    put_cohort(project, "team", troubled())
    pages = []
    for number in range(2):
        page = project.root / f"{number}.html"
        check_cohorts(project, ["team"], settings=load_settings(project.root), html=page)
        pages.append(page.read_bytes())
    assert pages[0] == pages[1]


def test_long_lists_are_cut_and_say_so(project: Project) -> None:
    users = [f"user-{n:04d}" for n in range(1_000)]
    result = checked(project, index_table(1_000, user=users, clipped_share=0.5))
    text = Page(result.html).text
    assert "… and 900 more" in text  # users
    assert "… and 950 more" in text  # clipped utterances
    assert len(result.as_json()["figures"]["users"]) == 1_000
    console = Console(width=120, record=True, file=io.StringIO())
    print_check(result, console)
    assert "… and 990 more" in console.export_text()


def test_the_terminal_shows_broken_rules_first_and_their_names_in_full(project: Project) -> None:
    result = checked(project, troubled())
    console = Console(width=80, record=True, file=io.StringIO())
    print_check(result, console)
    said = console.export_text()
    states = re.findall(r"(?m)^(broken|ok|unknown) +(\w+) ", said)
    assert [state for state, _ in states] == sorted(state for state, _ in states)  # so does the alphabet
    assert {name for state, name in states if state == "broken"} == {finding.key for finding in result.broken}
    assert MARKUP not in said  # utterances are not listed there; users are
    assert "<i>cy</i>" in said


def test_the_outcome_says_whether_every_rule_is_kept(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    put_cohort(project, "team", index_table(24))
    put_cohort(
        project,
        "other",
        index_table(24, audio_sha256=[f"o{n}" for n in range(24)], source_sha256="long", granted=False),
    )
    assert check_and_print(project, ["team"])
    assert not check_and_print(project, ["other"])
    assert not check_and_print(project, [])
    assert re.search(r"team +Keeps all of \d+ rules", capsys.readouterr().out)


def test_json_is_all_that_stands_on_standard_output(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    put_cohort(project, "team", troubled(), {"ann": MARKUP})
    broken_cohort(project)
    assert not check_and_print(project, ["team"], as_json=True)
    out, err = capsys.readouterr()
    (content,) = json.loads(out)
    assert (content["cohort"], content["passed"]) == ("team", False)
    assert {rule["key"]: rule["state"] for rule in content["rules"]}["max_withheld_share"] == "broken"
    assert content["figures"]["users"][1]["called"] == MARKUP
    assert "cohort other: not compared with" in err


def broken_cohort(project: Project) -> None:
    project.cohort("other").mkdir(parents=True)
    (project.cohort("other") / "cohort.yaml").write_text("not: a cohort", encoding="utf-8")


def test_a_cohort_that_cannot_be_read_stops_its_own_check_and_no_other(project: Project) -> None:
    put_cohort(project, "team", index_table(24))
    broken_cohort(project)
    said: list[str] = []
    settings = load_settings(project.root)
    assert len(check_cohorts(project, ["team"], settings=settings, tell=said.append)) == 1
    assert len(said) == 1
    assert said[0].startswith("cohort other: not compared with, it cannot be read")
    with pytest.raises(InputError, match="not a cohort's description"):
        check_cohorts(project, ["other"], settings=settings)


def test_an_unknown_cohort_is_refused_with_those_that_there_are(project: Project) -> None:
    settings = load_settings(project.root)
    with pytest.raises(InputError, match="There is no cohort in data/"):
        check_cohorts(project, ["taem"], settings=settings)
    put_cohort(project, "team", index_table(4, 1))
    with pytest.raises(InputError, match=r"cohort taem: not there\. Cohorts in data/: team\."):
        check_cohorts(project, ["team", "taem"], settings=settings)
    assert not (project.private / "check").exists()


def test_one_page_is_of_one_cohort(project: Project) -> None:
    put_cohort(project, "team", index_table(4, 1))
    put_cohort(project, "other", index_table(4, 1))
    page = project.root / "page.html"
    settings = load_settings(project.root)
    with pytest.raises(InputError, match="one page for 2 cohorts"):
        check_cohorts(project, [], settings=settings, html=page)
    assert not page.exists()
    assert check_cohorts(project, ["team"], settings=settings, html=page)[0].html == page
    assert Page(page).text.count("team")


@pytest.mark.parametrize("content", [b"what,why\na,b\n", b"item,reason\na,\xff\n", b'item,reason\n"a,b'])
def test_a_quarantine_report_that_is_none_is_named(project: Project, content: bytes) -> None:
    report = project.private / "quarantine" / "team.csv"
    report.parent.mkdir(parents=True)
    report.write_bytes(content)
    with pytest.raises(InputError, match=r"team\.csv: not a quarantine report"):
        checked(project, index_table(4, 1))


def test_names_of_users_stay_out_of_git_and_dvc(project: Project) -> None:
    page = checked(project, index_table(24)).html
    assert page == project.private / "check" / "team.html"
    assert "/.edgealign/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
