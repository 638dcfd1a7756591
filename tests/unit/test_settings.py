"""params.yaml: typed, checked, never coerced silently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.runs.configs import bridge_config, personal_config, train_config
from pipeline.settings import Settings, load_settings
from stages.errors import SettingsError
from stages.flat import flatten

ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, **changes: object) -> Path:
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def test_a_change_of_any_setting_that_results_depend_on_runs_a_stage_again() -> None:
    """DVC compares what its stages list: a setting that none of them does would change and nothing would run."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    listed = {name for stage in graph.values() for name in stage.get("params", [])}
    settings = flatten(load_settings(ROOT).model_dump())
    without_results = ("ray.", "tracking.", "check.", "promotion.")  # "No stage reads them", says params.yaml
    unlisted = {
        name
        for name in settings
        if not name.startswith(without_results) and not any(f"{name}.".startswith(f"{known}.") for known in listed)
    }
    # `cohorts` makes the graph itself; so many workers do the same work
    assert unlisted == {"cohorts", "features.workers", "pseudo_labels.workers"}
    assert {
        name for name in listed if name not in settings and not any(key.startswith(f"{name}.") for key in settings)
    } == set()


def test_the_projects_own_params_are_good() -> None:
    assert load_settings(ROOT).alignment.method == "embedlink"


def test_every_setting_of_the_model_stands_in_params_yaml() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, field in Settings.model_fields.items():
        known = getattr(field.annotation, "model_fields", None)
        if known is not None:
            assert set(content[section]) == set(known), section


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base__epohcs": 3}, "base.epohcs: unknown key. Known keys there: epochs"),
        ({"base__epochs": "3"}, "base.epochs"),
        ({"base__epochs": 2.5}, "base.epochs"),
        ({"base__epochs": 0}, "greater than or equal to 1"),
        ({"base__speller": "yes"}, "base.speller: Input should be a valid boolean"),
        ({"personalize__density": 2.0}, "less than or equal to 1"),
        ({"personalize__strength": 0.0}, "greater than 0"),
        ({"personalize__trainable_blocks": 3}, "personalize.trainable_blocks is 3, but alignment.layers 2"),
        ({"personalize__method": "magic"}, "'shira', 'lora', 'full' or 'blocks'"),
        ({"alignment__heads": 7}, "multiple of heads"),
        ({"alignment__method": "qformer"}, "by `make bench AREA=methods` alone; the stages train embedlink"),
        ({"alignment__method": "magic"}, "compares it with projector, projector-lora, projector-kl, qformer, ctc-only"),
        ({"alignment__method": 3}, "alignment.method"),
        ({"pseudo_labels__adapter_alone": 1.5}, "less than or equal to 1"),
        ({"pseudo_labels__agreement": "both"}, "pseudo_labels.agreement"),
        (
            {"pseudo_labels__agreement": False, "pseudo_labels__whisper_alone": 0.9},
            "whisper_alone is 0.9 without agree",
        ),
        ({"base__rounds": 2, "pseudo_labels__agreement": False}, "base.rounds is 2 without pseudo_labels.agreement"),
        ({"base__rounds": 6}, "less than or equal to 5"),
        ({"base__tempo": 0.6}, "less than or equal to 0.5"),
        ({"alignment__cut_words": 1.5}, "less than or equal to 1"),
        ({"alignment__sampled_rows": -1}, "greater than or equal to 0"),
        ({"base_cohorts": ["elsewhere"]}, "elsewhere"),
        ({"cohorts": ["Bad Name"]}, "not a cohort name"),
        ({"tracking": None}, "tracking"),
    ],
)
def test_a_bad_value_is_named_with_what_was_needed(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(written(tmp_path, **change))
    assert said in str(caught.value)
    assert "params.yaml" in str(caught.value)


def test_all_broken_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"2 setting\(s\)"):
        load_settings(written(tmp_path, base__epochs=0, features__padding_s="wide"))


@pytest.mark.parametrize("content", ["- a list\n", "{unclosed\n", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "params.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"params\.yaml"):
        load_settings(tmp_path)


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="project's folder"):
        load_settings(tmp_path)


def test_settings_reach_the_alignment_library(tmp_path: Path) -> None:
    changed = {
        "alignment__scale": 20.0,
        "base__tempo": 0.12,
        "personalize__method": "blocks",
        "personalize__trainable_blocks": 2,
        "personalize__strength": 0.75,
    }
    settings = load_settings(written(tmp_path, **changed))
    assert bridge_config(settings, 384, 576).scale == 20.0
    assert train_config(settings).tempo == 0.12
    config = personal_config(settings)
    assert (config.method, config.trainable_blocks, config.strength) == ("blocks", 2, 0.75)


def test_a_speller_is_the_bases_bridgeformer_at_twice_the_rate_and_off_by_default() -> None:
    from pipeline.runs.configs import speller_bridge_config, speller_train_config

    settings = load_settings(ROOT)
    assert settings.base.speller is False
    base = bridge_config(settings, 384, 576)
    assert speller_bridge_config(base) == replace(base, stack=2, scale=20.0)
    changed = replace(train_config(settings), embedding_weight=0.0, sampled_rows=0, tempo=0.12)
    assert speller_train_config(settings) == changed
