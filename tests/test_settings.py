"""Settings refuse what they do not know, with the nearest name, and what has the wrong type."""

from __future__ import annotations

import dataclasses

import pytest

from llm2rec_kit.settings import CSFT, STAGES, Data, Evaluation, SettingsError


def test_only_names_with_the_prefix_are_taken():
    made = CSFT.from_parameters({"csft_steps": 5, "csft": "module", "mntp_steps": 9, "_": 1})
    assert made == CSFT(steps=5)


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
