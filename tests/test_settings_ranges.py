"""Ranges: what lies inside is taken, what lies outside is refused with the name, the range and the value; and what goes together."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from llm2rec_kit import settings as S
from llm2rec_kit.settings import ranges
from llm2rec_kit.settings.stage import find_element_kind, make_default

FIELDS = [
    (stage, f)
    for stage in S.STAGES
    for f in dataclasses.fields(stage)
    if type(make_default(f)) in (int, float) or (type(make_default(f)) is list and find_element_kind(f) in (int, float))
]


def kind_of(f):
    return find_element_kind(f) if type(make_default(f)) is list else type(make_default(f))


def drawn(f, inside):
    """Values of the field's kind inside its range, or outside it."""
    low, with_low, high, with_high = ranges.parse_range(f.metadata["within"])
    if kind_of(f) is int:
        low = -math.inf if low is None else low if with_low else low + 1
        high = math.inf if high is None else high if with_high else high - 1
        if inside:
            return st.integers(max(low, -(2**62)), min(high, 2**62))
        outside = [st.integers(max_value=low - 1)] if low > -math.inf else []
        return st.one_of([*outside, *([st.integers(min_value=high + 1)] if high < math.inf else [st.integers(2**63)])])
    plain = {"allow_nan": False, "allow_infinity": False}
    if inside:
        ends = {"exclude_min": low is not None and not with_low, "exclude_max": high is not None and not with_high}
        return st.floats(low, high, **ends, **plain)
    parts = [] if low is None else [st.floats(max_value=low, exclude_max=with_low, **plain)]
    parts += [] if high is None else [st.floats(min_value=high, exclude_min=with_high, **plain)]
    return st.one_of([*parts, st.sampled_from([math.nan, math.inf, -math.inf])])


def made(stage, f, value):
    return stage.from_parameters({f"{stage.prefix}_{f.name}": [value] if type(make_default(f)) is list else value})


def test_every_number_has_a_range():
    assert all(f.metadata["within"] for _, f in FIELDS)
    assert len(FIELDS) > 90


@given(st.data())
@effort(max_examples=600, deadline=None)
def test_inside_is_taken_and_outside_is_refused(data):
    stage, f = data.draw(st.sampled_from(FIELDS))
    name = f"{stage.prefix}_{f.name}"
    value = data.draw(drawn(f, inside=True))
    kept = getattr(made(stage, f, value), f.name)
    assert kept == ([value] if isinstance(kept, list) else value)
    wrong = data.draw(drawn(f, inside=False))
    with pytest.raises(S.SettingsError) as found:
        made(stage, f, wrong)
    said = str(found.value)
    assert said.startswith(name)
    assert ranges.show_value(wrong) in said
    if abs(wrong) <= ranges.LARGEST:
        assert f"must be {ranges.describe_range(f.metadata['within'])}; found" in said


@given(st.data())
@effort(max_examples=300, deadline=None)
def test_any_value_of_any_kind_is_taken_or_refused_in_one_line(data):
    stage = data.draw(st.sampled_from(S.STAGES))
    f = data.draw(st.sampled_from(dataclasses.fields(stage)))
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    value = data.draw(plain | st.lists(plain, max_size=4) | st.dictionaries(st.text(), plain, max_size=2))
    said = ""
    try:
        stage.from_parameters({f"{stage.prefix}_{f.name}": value})
    except S.SettingsError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert len(said) < 600


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("0 < x <= 1", [1e-300, 1], [0, 1.0000001, -1]),
        ("0 <= x < 1", [0, 0.999], [1, -1e-300]),
        ("x >= 2", [2, 10**30], [1.9]),
        ("x > 0", [5e-324], [0, -1]),
        ("x <= 0", [0, -7], [1e-9]),
        ("-0.5 <= x <= 0.5", [-0.5, 0.5], [-0.6, 0.6]),
    ],
)
def test_a_range_is_what_it_reads(text, inside, outside):
    assert all(ranges.is_inside(text, value) for value in inside)
    assert not any(ranges.is_inside(text, value) for value in outside)


def test_a_range_of_another_form_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="A range is written as"):
        ranges.parse_range("x => 1")


@pytest.mark.parametrize("long", [lambda n: "x" * n, lambda n: list(range(n)), lambda n: {"a": ["y" * n]}, lambda n: 16**n])
def test_a_value_is_shown_and_not_dumped(long):
    assert 5 < len(ranges.show_value(long(9999))) <= 80


def test_a_short_value_is_shown_whole():
    assert ranges.show_value(["SASRec", 3, 0.5]) == "['SASRec', 3, 0.5]"


REFUSED = [
    (S.Data, {"max_history": 0}, "data_max_history must be at least 1; found 0"),
    (S.Data, {"min_interactions": -1}, "data_min_interactions must be at least 0; found -1"),
    (S.Data, {"start": "2014-13"}, "data_start is a month such as 2014-09 .* found '2014-13'"),
    (S.Data, {"end": "released"}, "data_end is a month"),
    (S.Data, {"start": "2014-05", "end": "2014-05"}, "data_start 2014-05 must be before data_end 2014-05"),
    (S.Data, {"min_items": 5, "start": ""}, "data_start is empty"),
    (S.Data, {"columns": ["price=x"]}, "data_columns takes role=name .*found 'price=x'"),
    (S.Data, {"columns": ["user=a", "user=b"]}, "gives the role 'user' to two columns"),
    (S.Data, {"train_domains": ["a", "b", "a"]}, "data_train_domains holds 'a' twice"),
    (S.Data, {"domain": "a\0b"}, "holds a character that is none of a text"),
    (S.Data, {"source": "synthetic", "synthetic_items": 22}, "data_synthetic_items must be at least 23"),
    (S.Data, {"text": "{title"}, "data_text is no template"),
    (S.Data, {"text": "{title:>9}"}, "data_text takes plain names in braces"),
    (S.Backbone, {"hidden": 50, "heads": 6}, "backbone_hidden 50 must be a multiple of backbone_heads 6"),
    (S.Backbone, {"hidden": 30, "heads": 6}, "and an even one"),
    (S.Backbone, {"seed": 2**32}, "backbone_seed must be at least 0 and below 4294967296; found 4294967296"),
    (S.Backbone, {"name": " "}, "backbone_name is a hub name"),
    (S.CSFT, {"warmup_steps": 11, "steps": 10}, r"csft_warmup_steps \(11\) must not be more than csft_steps \(10\)"),
    (S.CSFT, {"warmup_steps": 11, "schedule_steps": 10, "steps": 50}, r"more than csft_schedule_steps \(10\)"),
    (S.MNTP, {"schedule_steps": 5, "schedule_epochs": 2}, "not both: set one of them to 0"),
    (S.CSFT, {"patience": 2, "evaluate_every": 20, "steps": 10, "warmup_steps": 0}, "none comes before csft_steps"),
    (S.CSFT, {"patience": 2, "evaluate_samples": 0}, r"csft_evaluate_samples \(0\) leaves no sample"),
    (S.MNTP, {"keep": "best", "held_out": 0.0}, r"mntp_keep \(best\) watches .* mntp_held_out \(0.0\)"),
    (S.MNTP, {"lora_targets": ["q_proj"], "tuning": "full"}, "mntp_tuning is 'full', which has none"),
    (S.MNTP, {"rate": 0.0}, "mntp_rate must be above 0 and at most 1; found 0.0"),
    (S.Contrastive, {"batch_size": 1}, "contrastive_batch_size must be at least 2; found 1"),
    (S.Contrastive, {"temperature": 0.0}, "contrastive_temperature must be above 0"),
    (S.Encoding, {"variants": ["csft-sum-causal"]}, "a variant is <stage>-<pooling>-<attention>"),
    (S.Evaluation, {"hidden": 10, "heads": 4}, "evaluation_hidden 10 is not a multiple of evaluation_heads 4"),
    (S.Evaluation, {"hidden": 9, "heads": 3, "embeddings": ["csft_concat_id"]}, "must be even"),
    (S.Evaluation, {"recommenders": [], "baselines": []}, "are both empty: nothing would be ranked"),
    (S.Evaluation, {"embeddings": [], "baselines": []}, "evaluation_embeddings and evaluation_baselines are both empty"),
    (S.Evaluation, {"seeds": []}, r"evaluation_seeds takes a list of 1 at least; found \[\]"),
    (S.Evaluation, {"cutoffs": []}, "evaluation_cutoffs takes a list of 1 at least"),
    (S.Evaluation, {"cutoffs": [10, 10]}, "evaluation_cutoffs holds 10 twice"),
    (S.Evaluation, {"metric": "auc"}, "evaluation_metric: 'auc' is none of recall@k"),
    (S.Evaluation, {"tested": "ndcg@0"}, "evaluation_tested: 'ndcg@0' is none of"),
    (S.Maps, {"min_dist": 1.5}, "maps_min_dist must be at least 0 and at most 1"),
    (S.Maps, {"stages": ["adapted"]}, r"maps_stages names adapted alone.*\[csft, adapted\]"),
    (S.Tables, {"cells": ["minilm"]}, "tables_cells must be one of"),
    (S.Questions, {"seeds": [1, 1]}, "questions_seeds holds 1 twice"),
]


@pytest.mark.parametrize(
    ("stage", "values", "says"), REFUSED, ids=lambda v: "" if isinstance(v, type | str) else str(v)[:40]
)
def test_what_cannot_work_is_named(stage, values, says):
    with pytest.raises(S.SettingsError, match=says):
        stage.from_parameters({f"{stage.prefix}_{name}": value for name, value in values.items()})


def test_what_was_allowed_stays_allowed():
    assert S.Evaluation(adapter_widths=[64, 64]).adapter_widths == [64, 64]
    assert S.Backbone(name="Qwen/Qwen2-0.5B", hidden=50, heads=6).check()
    assert S.Evaluation(recommenders=["GRU4Rec"], hidden=15).check()
    assert S.CSFT(clip=0.0, patience=0, schedule_steps=0, weight_decay=0.0, evaluate_samples=0).check()
    assert S.Data(users=0, text_words=0, min_interactions=0, start="released").check()


def test_what_is_given_must_go_together_and_check_asks_it_of_the_defaults_too():
    given = S.CSFT.from_parameters({"csft_steps": 5})  # the default warm-up is longer
    with pytest.raises(S.SettingsError, match=r"csft_warmup_steps \(200\) must not be more than csft_steps \(5\)"):
        given.check()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"run": 2024}, "run takes str; found int: 2024. .* papermill takes it as `-r run VALUE`"),
        ({"outputs": 5}, "outputs takes str; found int: 5"),
        ({"force": "yes"}, "force takes bool; found str: 'yes'"),
        ({"csft_joiner": 5}, "csft_joiner takes str .* `-r csft_joiner VALUE`"),
    ],
)
def test_parameters_of_every_notebook_are_checked_with_its_own(values, says):
    with pytest.raises(S.SettingsError, match=says):
        S.CSFT.from_parameters(values)
