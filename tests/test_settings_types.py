"""Settings: flat names, types, choices, and what the errors say."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2rec_kit import settings as S


@pytest.mark.parametrize("stage", S.STAGES)
def test_flat_names_give_back_every_field(stage):
    made = stage()
    flat = {f"{stage.prefix}_{k}": v for k, v in made.as_dict().items()}
    assert stage.from_parameters(flat | {"run": "demo", "unrelated": object()}) == made


@pytest.mark.parametrize("stage", S.STAGES)
def test_every_field_has_a_meaning_and_a_plain_default(stage):
    for f in dataclasses.fields(stage):
        assert f.metadata["help"]
        assert "=" not in f.metadata["help"], "papermill drops a parameter whose comment holds '='"
        assert isinstance(getattr(stage(), f.name), str | int | float | bool | list)


def test_prefixes_do_not_swallow_each_other():
    prefixes = [s.prefix + "_" for s in S.STAGES]
    assert len(set(prefixes)) == len(prefixes)
    assert not [(a, b) for a in prefixes for b in prefixes if a != b and a.startswith(b)]


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(S.SettingsError, match=r"'csft_stesp'.*Did you mean 'csft_steps'"):
        S.CSFT.from_parameters({"csft_stesp": 5})


def test_a_far_name_lists_the_known_ones():
    assert "Known: one, two." in S.describe_unknown("zzzzz", ["one", "two"])


def test_int_passes_for_float_and_nothing_else_is_converted():
    assert S.CSFT(learning_rate=1).learning_rate == 1.0
    assert type(S.CSFT(learning_rate=1).learning_rate) is float
    for wrong in ("0.001", True, None, float("nan"), float("inf")):
        with pytest.raises(S.SettingsError, match="csft_learning_rate takes"):
            S.CSFT(learning_rate=wrong)
    for wrong in (1.0, True, "3"):
        with pytest.raises(S.SettingsError, match="csft_steps takes int"):
            S.CSFT(steps=wrong)


def test_choices_are_named():
    with pytest.raises(S.SettingsError, match=r"contrastive_views must be one of \['mask', .*\]; found 'noise'"):
        S.Contrastive(views="noise")
    with pytest.raises(S.SettingsError, match="evaluation_recommenders must be one of"):
        S.Evaluation(recommenders=["SASRec", "BERT4Rec"])


def test_list_elements_have_the_type_of_the_defaults():
    with pytest.raises(S.SettingsError, match=r"evaluation_seeds takes a list of int .* found '1'"):
        S.Evaluation(seeds=["1", 2])
    with pytest.raises(S.SettingsError, match="data_train_domains takes a list of str"):
        S.Data(train_domains=[1])
    assert S.Evaluation(seeds=(1, 2)).seeds == [1, 2]


def test_a_list_is_copied_in_and_out():
    seeds = [1, 2]
    made = S.Evaluation(seeds=seeds)
    seeds.append(3)
    made.as_dict()["seeds"].append(4)
    assert made.seeds == [1, 2]
    S.Evaluation().seeds.append(9)
    assert 9 not in S.Evaluation().seeds


@given(st.text(min_size=1, max_size=12).filter(lambda t: t not in [f.name for f in dataclasses.fields(S.Maps)]))
def test_any_other_name_with_the_prefix_is_an_error(name):
    with pytest.raises(S.SettingsError):
        S.Maps.from_parameters({f"maps_{name}": 1})


def test_a_list_of_numbers_takes_whole_ones_and_nothing_else():
    assert S.Tables(lengths=[1, 2.5]).lengths == [1.0, 2.5]
    for wrong in ("1", True, float("inf"), None):
        with pytest.raises(S.SettingsError, match=r"^tables_lengths takes"):
            S.Tables(lengths=[1.0, wrong])
