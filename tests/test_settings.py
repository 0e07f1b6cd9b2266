"""Settings refuse what they do not know, with the nearest name, and what has the wrong type."""

from __future__ import annotations

import dataclasses

import pytest

from llm2rec_kit.settings import CSFT, STAGES, Data, Encoding, Evaluation, SettingsError, Tables, name_tables


def test_only_names_with_the_prefix_are_taken():
    made = CSFT.from_parameters({"csft_steps": 5, "csft": "module", "mntp_steps": 9, "_": 1})
    assert made == CSFT(steps=5)


def test_a_stage_is_picked_out_of_several():
    several = {"csft": CSFT(steps=5), "evaluation": Evaluation()}
    assert CSFT.among(several) == CSFT(steps=5)
    with pytest.raises(AssertionError):
        CSFT.among({"csft": Evaluation()})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"csft_stepz": 5}, r"Unknown parameter 'csft_stepz'. Did you mean 'csft_steps'\?"),
        ({"csft_steps": "5"}, r"csft_steps takes int \(default 10000\); found str: '5'"),
        ({"csft_steps": True}, "takes int"),
        ({"csft_schedule": "square"}, "must be one of .*linear.*; found 'square'"),
    ],
)
def test_bad_values_say_what_is_wanted(values, words):
    with pytest.raises(SettingsError, match=words):
        CSFT.from_parameters(values)


def test_choices_of_lists_are_checked_one_by_one():
    assert Evaluation(recommenders=["GRU4Rec"]).recommenders == ["GRU4Rec"]
    with pytest.raises(SettingsError, match="found 'BERT4Rec'"):
        Evaluation(recommenders=["SASRec", "BERT4Rec"])


def test_an_int_passes_for_a_float():
    assert CSFT(learning_rate=1).learning_rate == 1.0


def test_every_setting_has_a_meaning_and_a_plain_default():
    for stage in STAGES:
        assert stage.prefix
        for field in dataclasses.fields(stage):
            value = getattr(stage(), field.name)
            assert isinstance(value, str | int | float | bool | list)
            assert field.metadata["help"]


def test_defaults_are_the_papers():
    assert (CSFT().steps, CSFT().batch_size, CSFT().learning_rate) == (10000, 128, 3e-4)
    assert (Data().max_history, Data().split) == (10, "leave_one_out")


def test_a_table_is_called_after_its_encoder_and_no_two_alike():
    assert name_tables(["BAAI/bge-large-en-v1.5", "models/mine/"]) == {
        "BAAI/bge-large-en-v1.5": "bge-large-en-v1_5",
        "models/mine/": "mine",
    }
    assert name_tables(["a/model", "b/model"]) == {"a/model": "a-model", "b/model": "b-model"}
    assert name_tables(["b/model", "a/model"]) == {"b/model": "b-model", "a/model": "a-model"}  # in any order
    assert name_tables(["my.org/csft", "gpt2"], ["csft"]) == {"my.org/csft": "my_org-csft", "gpt2": "gpt2"}
    assert name_tables(["a/model", "a/model"]) == {"a/model": "model"}


@pytest.mark.parametrize(
    ("encoders", "words"),
    [
        (["x/a/model", "y/a/model"], "'x/a/model' would have the name 'a-model', and so would 'y/a/model'"),
        (["raw"], "'raw' would have the name 'raw', and there is one of this name already"),
        (["../.."], r"found '\.\./\.\.'"),
    ],
)
def test_tables_that_would_overwrite_each_other_are_refused_before_anything_is_trained(encoders, words):
    with pytest.raises(SettingsError, match=words):
        Encoding(baselines=encoders)
    with pytest.raises(SettingsError, match=words):
        Tables.from_parameters({"tables_encoders": encoders})


@pytest.mark.parametrize(
    ("backbones", "words"),
    [
        (
            ["models/x/last", "other/x/last"],
            "The backbone of tables_backbones 'models/x/last' would have the name 'x-last', and so would 'other/x/last'",
        ),
        (["tiny-96", "../"], r"The backbone of tables_backbones must be a hub name or a folder with a name; found '\.\./'"),
    ],
)
def test_backbones_of_one_name_are_refused_before_anything_is_trained(backbones, words):
    with pytest.raises(SettingsError, match=words):
        Tables.from_parameters({"tables_backbones": backbones})
    assert list(Tables(backbones=["tiny-96", "models/tiny-96"]).labels.values()) == ["tiny-96", "models-tiny-96"]


def test_a_baseline_takes_no_name_of_a_variant_or_of_a_trained_rival():
    assert Encoding(baselines=["m/csft-last-causal"], variants=["csft-last-causal"]).tables == {
        "m/csft-last-causal": "m-csft-last-causal"
    }
    assert Tables(encoders=["m/llm2vec-unit"]).tables == {"m/llm2vec-unit": "m-llm2vec-unit"}
