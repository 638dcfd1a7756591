"""A listener whose base has a speller: which words stay, what a spelled one is made of, and who must fit whom."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import listener as listening
from stages import speller as spelling
from stages.alignment.adapter import SPELLER, AdapterRecord, load_base, save_base
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.soft_tokens import ReadOut
from stages.alignment.spelling import letter_tokens, spelled_text
from stages.alignment.vocabulary import Vocabulary, token_ids
from stages.errors import InputError
from stages.listener import Listener
from stages.models.llm import embedding_rows, llm_identity, load_tokenizer
from tests.helpers_alignment import CONFIG, WORDS
from tests.helpers_speller import UNTAUGHT, said, write_spelling_llm

FRAMES = [torch.zeros(12, CONFIG.encoder_width).numpy()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base that was not trained, with its speller, and the LLM."""
    folder = tmp_path_factory.mktemp("speller")
    llm, base = folder / "llm", folder / "base"
    write_spelling_llm(llm)
    tokenizer = load_tokenizer(llm)
    torch.manual_seed(0)
    words, letters = Vocabulary.of_texts(tokenizer, WORDS), letter_tokens(tokenizer)
    record = AdapterRecord(
        "base", "embedlink", CONFIG.to_json(), "encoder@1", llm_identity(llm), list(words.ids), settings={}
    )
    spells = replace(record, vocabulary=sorted(letters.values()))
    save_base(base, BridgeFormer(CONFIG), record, (BridgeFormer(CONFIG), spells))
    return base, llm


def heard(
    made: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    letters: str,
    listed: tuple[str, ...] = (),
    confidences: tuple[float, float] = (0.9, 0.8),
) -> tuple[Listener, ReadOut, ReadOut]:
    """The listener, what it read in words, and the one reading; ``letters`` are spelled."""
    listener = Listener.load(*made, words=listed)
    assert listener.speller is not None
    tokenizer = listener.tokenizer
    alone = said(listener.vocabulary, token_ids(tokenizer, words), confidences[0])
    spelled = spelled_text(letters, letter_tokens(tokenizer))
    by_letter = said(listener.speller.vocabulary, spelled, confidences[1], seed=1)
    monkeypatch.setattr(listening, "read_out_all", lambda *_, **__: [alone])
    monkeypatch.setattr(spelling, "read_out_all", lambda *_, **__: [by_letter])
    [one] = listener.read(FRAMES)
    return listener, alone, one


def test_words_that_the_letters_bear_out_are_the_very_read_out(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, alone, one = heard(made, monkeypatch, "alpha bravo", "alpa bra vo")
    assert one is alone and listener.text_of(one) == "alpha bravo"


def test_without_letters_the_words_stand(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, alone, one = heard(made, monkeypatch, "alpha bravo", "")
    assert one is alone


def test_a_word_that_stays_keeps_its_row_and_its_soft_token(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, alone, one = heard(made, monkeypatch, "alpha bravo delta", "alpha tanggo delta", (UNTAUGHT,))
    assert listener.text_of(one) == "alpha tango delta"
    assert [one.rows[0], one.rows[2]] == [alone.rows[0], alone.rows[2]]
    assert torch.equal(one.soft_tokens[[0, 2]], alone.soft_tokens[[0, 2]])


@pytest.mark.parametrize("listed", [(UNTAUGHT,), ()])
def test_a_spelled_word_has_the_llms_own_tokens_and_rows(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, listed: tuple[str, ...]
) -> None:
    """Listed, its rows are in the vocabulary; else it is a word of the LLM's table, beyond the vocabulary."""
    listener, _, one = heard(made, monkeypatch, "alpha", "alpha tanggo", listed)
    tokens = token_ids(listener.tokenizer, UNTAUGHT)
    assert listener.text_of(one) == f"alpha {UNTAUGHT}"
    assert torch.equal(one.soft_tokens[1:], embedding_rows(made[1], tokens))
    size = len(listener.vocabulary)
    assert list(one.beyond) == ([] if listed else tokens)
    assert one.rows[1:] == ([listener.vocabulary.place_of(token) for token in tokens] if listed else [size])


def test_the_one_reading_is_as_sure_as_the_less_sure_of_both(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert heard(made, monkeypatch, "alpha", "tango", confidences=(0.9, 0.4))[2].confidence == 0.4
    assert heard(made, monkeypatch, "alpha", "tango", confidences=(0.3, 0.8))[2].confidence == 0.3
    assert heard(made, monkeypatch, "", "tango", confidences=(0.0, 0.8))[2].confidence == 0.8
    nothing = heard(made, monkeypatch, "foxtrot", "a")[2]
    assert (nothing.rows, len(nothing.soft_tokens), nothing.confidence) == ([], 0, 0.0)


def test_rows_are_the_words_that_they_spell() -> None:
    assert spelling.words_of_rows([" ta", "ngo", " ", "alpha", " x"]) == [
        ("tango", [0, 1]),
        ("alpha", [2, 3]),
        ("x", [4]),
    ]
    assert spelling.words_of_rows([]) == []


def test_without_the_folder_all_is_as_it_was(made: tuple[Path, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(made[0], base, ignore=shutil.ignore_patterns(SPELLER))
    plain, silent = Listener.load(base, made[1]), Listener.load(*made, spells=False)
    assert plain.speller is None and silent.speller is None
    vocabulary = load_base(made[0])[1]
    assert plain.vocabulary == silent.vocabulary == vocabulary
    [one] = plain.read(FRAMES)
    assert one.beyond == () and one.rows == silent.read(FRAMES)[0].rows


@pytest.mark.parametrize("name", ["encoder", "llm"])
def test_a_speller_for_another_model_is_refused(made: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(made[0], base)
    bridge, _, record = load_base(base / SPELLER)
    changed: dict[str, Any] = {name: "another@2"}
    save_base(base / SPELLER, bridge, replace(record, **changed))
    with pytest.raises(InputError, match=rf"speller: made for the {name} another@2, .*dvc repro base"):
        Listener.load(base, made[1])


def test_a_persons_shift_goes_before_the_speller_too(made: tuple[Path, Path], tmp_path: Path) -> None:
    from stages.alignment.adapter import save

    record = load_base(made[0])[2]
    shift = torch.arange(CONFIG.encoder_width).half()
    mine = replace(record, kind="personal", method="shira", base_sha256=record.weights_sha256)
    save(tmp_path / "ann", {"frame_shift": shift.numpy()}, mine)
    listener = Listener.load(*made, tmp_path / "ann")
    assert listener.speller is not None and torch.equal(listener.speller.bridge.frame_shift, shift.float())
    alone = Listener.load(*made).speller
    assert alone is not None and not alone.bridge.frame_shift.any()
