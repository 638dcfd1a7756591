"""Tables of recordings: whatever form and encoding they have, each line becomes a row or has its reason."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from helpers_sources import brief, read, touch, write

from pipeline.cohorts.sources import find_source, texts
from stages.consent import make_consent
from stages.errors import InputError


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return touch(tmp_path / "audio", "1.wav", "2.wav", "3.wav", "ann/4.wav", "bob/5.wav")


ROWS = [("1.wav", "ann", 'say "hi", now'), ("2.wav", "Zoë", "two\nlines"), ("3.wav", "bob", "")]
READ = [("1.wav", "ann", 'say "hi", now'), ("2.wav", "Zoë", "two\nlines"), ("3.wav", "bob", None)]


def as_csv(rows: list[tuple[str, ...]], header: tuple[str, ...] = ("file", "user", "text"), **dialect: object) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **dialect).writerows([header, *rows])  # type: ignore[arg-type]  # by name
    return buffer.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
def test_delimiters_encodings_quotes_and_line_ends(audio: Path, delimiter: str, encoding: str, line_end: str) -> None:
    content = as_csv(ROWS, delimiter=delimiter, lineterminator=line_end)
    rows, problems = read(audio, write(audio.parent / "t.txt", content.encode(encoding)))
    assert (brief(rows), problems) == (READ, {})
    assert [row.item for row in rows] == ["line 2: 1.wav", "line 3: 2.wav", "line 5: 3.wav"]  # a text over two lines
    assert rows[0].path == str((audio / "1.wav").resolve())


@pytest.mark.parametrize(
    "header",
    [
        ("path", "speaker", "sentence"),
        ("Audio", "CLIENT_ID", "Transcript"),
        ("File Name", "speaker-id", "transcription"),
        ("wav", "Speaker", "TEXT"),
    ],
)
def test_columns_have_many_names(audio: Path, header: tuple[str, ...]) -> None:
    source = find_source(audio, write(audio.parent / "t.csv", as_csv(ROWS, header)))
    assert brief(list(source.rows)) == READ  # type: ignore[arg-type]  # no problem among them: it would have no path
    assert f"file from {header[0]}, text from {header[2]}" in " ".join(source.says)
    assert f"users: column {header[1]}" in source.says


def test_columns_can_be_named_whatever_their_case(audio: Path) -> None:
    content = as_csv(ROWS, ("clip", "Who", "words"))
    rows, _ = read(
        audio, write(audio.parent / "t.csv", content), columns={"file": "CLIP", "user": "who", "text": "words"}
    )
    assert brief(rows) == READ


def test_a_named_column_counts_before_a_usual_one(audio: Path) -> None:
    table = write(audio.parent / "t.csv", "file,user,text,id\n1.wav,team,what it says,ann\n")
    [row], _ = read(audio, table, columns={"user": "id"})
    assert (row.user, row.name) == ("ann", None)


@pytest.mark.parametrize(
    ("content", "columns", "said"),
    [
        ("name,speaker\na,b\n", {}, "lacks the column(s) file, text, has name, speaker. Needed: file"),
        ("", {}, "lacks the column(s) file, user, text, has none"),
        (
            "file,user\n1.wav,ann\n",
            {"text": "words"},
            "lacks the column(s) words, has file, user. Correct --map text=words",
        ),
        ("file,user\n1.wav,ann\n", {"texts": "user"}, "texts is no field. Fields: file, user, text"),
        ("file,text\n1.wav,hello\n", {}, "lacks the column(s) user, has file, text"),
        ("file,text\nann/4.wav,hello\n1.wav,hello\n", {}, "--user-from path"),
        ("file,user,user\n1.wav,a,b\n", {}, "the column user twice"),
        (b"file,user,text\n\xff\xfe\xfd\n", {}, "not utf-8 text"),
        (b"\xff\xfef\0i\0l\0e\0,", {}, "not utf-16 text"),
        (b"\xff\xfe\0\0f\0\0\0", {}, "UTF-32"),
        (b"file,user,text\na\x00b,c,d\n", {}, "NUL bytes"),
        ("f\0i\0l\0e\0", {}, "NUL bytes"),
        (b"PK\x03\x04 and more", {}, "an Excel or ZIP file"),
        ("[\n" + '{"file": "1.wav"}\n]', {}, "lacks the column(s)"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_message(
    audio: Path, content: str | bytes, columns: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        find_source(audio, write(audio.parent / "table.csv", content), columns=columns)
    assert said in str(caught.value)
    assert "table.csv" in str(caught.value) or "--map texts" in str(caught.value)


def test_a_table_that_is_not_there(audio: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        find_source(audio, audio / "gone.csv")


def test_bad_lines_have_their_reason_and_the_others_go_on(audio: Path) -> None:
    table = write(
        audio.parent / "t.csv",
        "file,user,text\n1.wav,ann,one\n,ann,x\n2.wav, ,x\ngone.wav,ann,x\n../t.csv,ann,x\n2.wav,ann,one, two\n"
        f"3.wav,ann\nann,bob,x\n\n{'x' * 300}.wav,ann,x\n{'y/' * 4000}.wav,ann,x\n 3.wav , ann , three \n",
    )
    rows, problems = read(audio, table)
    assert brief(rows) == [("1.wav", "ann", "one"), ("3.wav", "ann", "three")]
    assert {item.split(":")[0]: reason.split(".")[0] for item, reason in problems.items()} == {
        "line 3": "names no file",
        "line 4": "names no user",
        "line 5": f"no such file in {audio}".split(".")[0],
        "line 6": f"its path leaves the folder {audio}".split(".")[0],
        "line 7": "has more fields than the header (4, needed 3)",
        "line 8": "has fewer fields than the header (2, needed 3)",
        "line 9": "is a folder, a device or a queue, no file",
        "line 11": "its path cannot be used (File name too long)",
        "line 12": "its path cannot be used (8004 characters; at most 4096 can be opened)",
    }
    assert all(len(item) < 420 for item in problems)


def test_a_quote_that_is_never_closed_costs_its_own_line_only(audio: Path) -> None:
    table = write(
        audio.parent / "t.csv", 'file,user,text\n1.wav,ann,one\n2.wav,ann,"two\n3.wav,ann,three\nann/4.wav,ann,x\n'
    )
    rows, problems = read(audio, table)
    assert brief(rows) == [("1.wav", "ann", "one"), ("3.wav", "ann", "three"), ("4.wav", "ann", "x")]
    assert [row.item for row in rows] == ["line 2: 1.wav", "line 4: 3.wav", "line 5: ann/4.wav"]
    assert list(problems) == ["line 3: (no file)"]
    assert "unexpected end of data" in problems["line 3: (no file)"]


def test_quotes_that_a_tsv_does_not_mean_as_quotes(audio: Path) -> None:
    table = write(
        audio.parent / "t.tsv",
        'file\tuser\ttext\n1.wav\tann\t"Hello" she said\n2.wav\tann\t"Hello\n3.wav\tann\t"bye"\nann/4.wav\tann\ta "b" c\n',
    )
    rows, problems = read(audio, table)
    assert brief(rows) == [
        ("1.wav", "ann", '"Hello" she said'),
        ("2.wav", "ann", '"Hello'),
        ("3.wav", "ann", "bye"),
        ("4.wav", "ann", 'a "b" c'),
    ]
    assert problems == {}


def test_two_stray_quotes_in_a_tsv_swallow_nothing(audio: Path) -> None:
    table = write(audio.parent / "t.tsv", 'file\tuser\ttext\n1.wav\tann\t"one\n2.wav\tann\ttwo\n3.wav\tann\t"\n')
    rows, problems = read(audio, table)
    assert brief(rows) == [("1.wav", "ann", '"one'), ("2.wav", "ann", "two"), ("3.wav", "ann", '"')]
    assert problems == {}


def test_an_endless_field_costs_its_own_line_only(audio: Path) -> None:
    long = "x" * (texts.MAX_RECORD + 10)
    table = write(
        audio.parent / "t.csv",
        f'file,user,text\n1.wav,ann,{long}\n2.wav,ann,"{long}\nstill it"\n3.wav,ann,{"y" * 200_000}\n',
    )
    rows, problems = read(audio, table)
    assert [(row.path[-5:], len(row.text or "")) for row in rows] == [("3.wav", 200_000)]  # csv's own limit is 131,072
    assert problems.keys() == {"line 2: (no file)", "line 3: (no file)", "line 4: (no file)"}
    assert "longer than 1000000 characters" in problems["line 2: (no file)"]


def test_a_file_that_is_all_quotes_is_read_in_linear_work(audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line opens a field that the next line closes and opens again: each try would read to the end."""
    monkeypatch.setattr(texts, "REREAD", 200_000)
    handed = 0
    real = texts._Feed.__next__

    def count(feed: texts._Feed) -> str:
        nonlocal handed
        line = real(feed)
        handed += len(line)
        return line

    monkeypatch.setattr(texts._Feed, "__next__", count)
    content = "file,user,text\n" + 'a","x\n' * 10_000
    rows, problems = read(audio, write(audio.parent / "t.csv", content))
    assert not rows
    assert any("line(s) after it are lost with it" in reason for reason in problems.values())
    assert handed <= len(content) + 200_000


def test_users_come_from_folders_where_no_column_names_them(audio: Path) -> None:
    table = write(audio.parent / "t.csv", "file,text\nann/4.wav,four\nbob/5.wav,five\ngone/6.wav,six\n")
    rows, problems = read(audio, table)
    assert brief(rows) == [("4.wav", "ann", "four"), ("5.wav", "bob", "five")]
    assert list(problems) == ["line 4: gone/6.wav"]


@pytest.mark.parametrize(
    ("user_from", "users"), [("path", ["audio", "ann"]), ("name", ["cen", "cy"]), ("column", ["x", "y"])]
)
def test_where_users_come_from_can_be_said(audio: Path, user_from: str, users: list[str]) -> None:
    touch(audio, "cen-b_1.wav", "ann/cy_1.wav")
    table = write(audio.parent / "t.csv", "file,user\ncen-b_1.wav,x\nann/cy_1.wav,y\n")
    rows, _ = read(audio, table, user_from=user_from)
    assert [row.user for row in rows] == users


def test_a_column_is_asked_for_that_is_not_there(audio: Path) -> None:
    table = write(audio.parent / "t.csv", "file,text\nann/4.wav,four\n")
    with pytest.raises(InputError, match=r"lacks the column\(s\) user.*--map user=NAME"):
        find_source(audio, table, user_from="column")


def test_what_is_missing_or_not_used_is_said(audio: Path) -> None:
    source = find_source(audio, write(audio.parent / "t.csv", "file,user,age,phrase\n1.wav,ann,7,hello\n"))
    assert "not used: age, phrase" in source.says
    assert any("--map text=NAME" in line for line in source.says)
    assert source.kind == "CSV"


CONSENTS = [
    ("granted", "", "", make_consent(True)),
    ("YES", "personal", "2026-01-31", make_consent(True, "personal", "2026-01-31")),
    ("0", "", "", make_consent(False)),
    ("", "", "", None),
]


def test_a_line_carries_its_own_consent_and_language(audio: Path) -> None:
    lines = [f"1.wav,ann,de,{given},{scope},{date}" for given, scope, date, _ in CONSENTS]
    header = "file,user,language,consent,consent_scope,consent_date"
    rows, problems = read(audio, write(audio.parent / "t.csv", "\n".join([header, *lines])))
    assert [row.consent for row in rows] == [consent for *_, consent in CONSENTS]
    assert {row.language for row in rows} == {"de"}
    assert problems == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("maybe,,", "its consent is 'maybe', needed granted"),
        ("granted,everything,", "needed one of all, personal"),
        ("granted,all,31.1.2026", "needed YYYY-MM-DD"),
        (",personal,", "not whether it was granted"),
        (",,2026-01-31", "not whether it was granted"),
    ],
)
def test_without_a_clear_consent_a_line_does_not_go_in(audio: Path, given: str, said: str) -> None:
    table = write(audio.parent / "t.csv", f"file,user,consent,consent_scope,consent_date\n1.wav,ann,{given}\n")
    rows, problems = read(audio, table)
    assert not rows
    assert said in problems["line 2: 1.wav"]


def test_stretches_and_ids(audio: Path) -> None:
    table = write(
        audio.parent / "t.csv",
        "file;user;start;end;id\n1.wav;ann;0,5;1.25;one\n1.wav;ann;;2;two\n1.wav;ann;-1;2;a\n1.wav;ann;2;1;b\n"
        "1.wav;ann;nan;;c\n1.wav;ann;0;inf;d\n1.wav;ann;soon;;e\n",
    )
    rows, problems = read(audio, table)
    assert [(row.name, row.start_s, row.end_s) for row in rows] == [("one", 0.5, 1.25), ("two", None, 2.0)]
    assert list(problems) == [f"line {line}: 1.wav" for line in (4, 5, 6, 7, 8)]


def jsonl(*objects: object) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def test_json_lines(audio: Path) -> None:
    content = jsonl(
        {"file": "1.wav", "user": 12, "text": " one ", "consent": True, "language": "en"},
        {"text": None, "speaker": "not meant", "user": "ann", "file": "2.wav", "extra": [1]},
        {"file": "3.wav", "user": "ann", "consent": {"granted": False, "scope": "personal", "date": None, "by": "me"}},
    )
    rows, problems = read(audio, write(audio.parent / "t.txt", "\ufeff" + content))
    assert brief(rows) == [("1.wav", "12", "one"), ("2.wav", "ann", None), ("3.wav", "ann", None)]
    assert rows[0].consent == make_consent(True)
    assert rows[1].consent is None
    assert rows[2].consent == {"granted": False, "scope": "personal", "date": None, "by": "me"}
    assert problems == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file": "1.wav", "user": "ann"', "is not JSON"),
        ('["1.wav", "ann"]', "holds a list"),
        ("[" * 100_000, "is not JSON"),
        ('{"file": ["1.wav"], "user": "ann"}', "its file is a list, needed text"),
        ('{"file": "1.wav", "user": true}', "its user is true or false"),
        ('{"file": "1.wav", "user": "\\ud800"}', "no text"),
        ('{"file": "1\\u0000.wav", "user": "ann"}', "no text"),
        ('{"file": "1.wav", "user": "ann", "text": {"a": 1}}', "its text is an object"),
        ('{"user": "ann"}', "names no file"),
        ('{"file": "1.wav"}', "names no user"),
        ('{"file": "1.wav", "user": "ann", "consent": 5}', "its consent is '5'"),
        ('{"file": "1.wav", "user": "ann", "consent": {"scope": "all"}}', "its consent is ''"),
        ('{"file": "1.wav", "user": "ann", "consent": {"granted": "yes", "scope": 1}}', "needed one of"),
        ('{"file": "1.wav", "user": "ann", "text": "' + "x" * 1_000_001 + '"}', "longer than a million"),
    ],
)
def test_a_bad_json_line_has_its_reason_and_the_others_go_on(audio: Path, line: str, said: str) -> None:
    good = jsonl({"file": "2.wav", "user": "ann", "text": "two", "consent": "yes"})
    rows, problems = read(audio, write(audio.parent / "t.jsonl", f"{good}{line}\n{good}"))
    assert brief(rows) == [("2.wav", "ann", "two")] * 2
    [(item, reason)] = problems.items()
    assert item.startswith("line 2: ")
    assert said in reason


def test_a_json_list_is_one_message(audio: Path) -> None:
    with pytest.raises(InputError, match="Needed one a line"):
        find_source(audio, write(audio.parent / "t.json", '[{"file": "1.wav"}]'))


def test_nemo_manifest(audio: Path) -> None:
    content = jsonl(
        {"audio_filepath": str(audio / "ann/4.wav"), "duration": 3.5, "text": "whole"},
        {"audio_filepath": "bob/5.wav", "duration": 1.5, "text": "stretch", "offset": 2.0},
        {"audio_filepath": "/elsewhere/x.wav", "duration": 1.5, "text": "x"},
    )
    source = find_source(audio, write(audio.parent / "manifest.json", content))
    first, second, third = source.rows
    assert source.kind == "NeMo manifest"
    assert (first.user, first.text, first.start_s, first.end_s) == ("ann", "whole", None, None)  # type: ignore[union-attr]
    assert (second.user, second.text, second.start_s, second.end_s) == ("bob", "stretch", 2.0, 3.5)  # type: ignore[union-attr]
    assert "leaves the folder" in third.reason  # type: ignore[union-attr]
    assert "--audio (/elsewhere" in third.reason  # type: ignore[union-attr]


def test_nemo_manifest_with_speakers(audio: Path) -> None:
    line = {"audio_filepath": "1.wav", "duration": 3.5, "text": "one", "speaker": "Zoë"}
    rows, _ = read(audio, write(audio.parent / "manifest.json", jsonl(line)))
    assert brief(rows) == [("1.wav", "Zoë", "one")]


def test_common_voice(tmp_path: Path) -> None:
    voice = touch(tmp_path / "cv", "clips/a.mp3", "clips/b.mp3", "other.tsv")
    write(
        voice / "validated.tsv",
        'client_id\tpath\tsentence\tup_votes\tlocale\nabc\ta.mp3\t"Quoted\t2\ten\n'
        'def\tb.mp3\tplain "x" too"\t2\ten\ndef\tb.mp3\t"Yes"\t2\ten\n',
    )
    source = find_source(voice)
    rows = list(source.rows)
    assert source.kind == "Common Voice table"
    assert brief(rows) == [("a.mp3", "abc", '"Quoted'), ("b.mp3", "def", 'plain "x" too"'), ("b.mp3", "def", '"Yes"')]  # type: ignore[arg-type]
    assert {row.language for row in rows} == {"en"}  # type: ignore[union-attr]


def test_rows_are_read_as_a_stream(audio: Path) -> None:
    """Memory does not grow with the table: what is held at row 29,000 is what is held at row 3,000."""
    lines = (f"{'1.wav' if number % 2 else f'{number}.wav'},ann,take {number}" for number in range(30_000))
    source = find_source(audio, write(audio.parent / "t.csv", "\n".join(["file,user,text", *lines])))
    held = {}
    tracemalloc.start()
    for count, _ in enumerate(source.rows):
        if count in (3_000, 29_000):
            held[count] = tracemalloc.get_traced_memory()[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 29_999
    assert held[29_000] < held[3_000] + 100_000
    assert peak < 5_000_000
