"""Questions: what is said of an experiment's arms follows from their ranks, checked by hand and against scipy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from scipy import stats

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import TEST, Corpus
from llm2rec_kit.data import sources
from llm2rec_kit.downstream import saved_recommender
from llm2rec_kit.reproduction.studies import answers, enquiry, question_arms, questions
from llm2rec_kit.reproduction.studies.answers import Answer, Arm
from llm2rec_kit.reproduction.studies.study import FOLDER, Study
from llm2rec_kit.results import metrics
from llm2rec_kit.results.significance import NOTHING
from llm2rec_kit.runs import ArtefactError, Run, read_records
from llm2rec_kit.runs.places import find_project_root

USERS = 40
RANKS = {  # (embedding, seed): ranks of the test targets
    ("a", 1): np.full(USERS, 20),
    ("a", 2): np.where(np.arange(USERS) < 10, 1, 20),
    ("b", 1): np.where(np.arange(USERS) < 30, 1, 20),
    ("b", 2): np.where(np.arange(USERS) < 30, 1, 20),
    ("id", 1): np.where(np.arange(USERS) < 6, 1, 20),
    ("id", 2): np.where(np.arange(USERS) % 8 == 7, 1, 20),
}
WHERE = {"domain": "toy", "recommenders": ["SASRec"], "seeds": [1, 2], "metric": "recall@10"}


def study_of(place, name, corpus, recommenders=("SASRec",)):
    run = Run(name, place)
    run.make("corpus", lambda folder: corpus.save(folder), settings={}, quiet=True)
    for table in ("a", "b"):
        run.make(
            f"embeddings/{table}", lambda folder, t=table: np.save(folder / f"{t}.npy", np.ones(1)), settings={}, quiet=True
        )
    for recommender in recommenders:
        for (table, seed), ranks in RANKS.items():
            stem = f"{recommender}-{table}-seed{seed}"

            own = {"domain": "toy", "recommender": recommender, "embedding": table, "seed": seed}

            def build(folder, stem=stem, ranks=ranks, own=own):
                np.save(folder / f"{stem}.npy", ranks.astype(np.int32))
                return {**own, "metrics": {"recall@10": float((ranks <= 10).mean())}}

            run.make(f"evaluation/toy/{stem}", build, settings={}, quiet=True)
    return Study(run, run, {})


@pytest.fixture
def study(tmp_path):
    return study_of(tmp_path, "one", make_corpus(users=USERS))


@pytest.fixture
def arms(study):
    return [Arm("weak", study, "a"), Arm("strong", study, "b"), Arm("ids", study, "id")]


def test_arms_have_mean_spread_and_interval(arms):
    found = answers.answer("which", arms, [("weak", "strong")], **WHERE)
    rows = {row["arm"]: row for row in found.arms.iter_rows(named=True)}
    assert found.users == USERS
    assert rows["weak"]["mean"] == pytest.approx((0 + 10) / 2 / USERS)
    assert rows["weak"]["std"] == pytest.approx(10 / USERS / 2)  # population, of 0 and 1/4
    assert rows["strong"]["mean"] == pytest.approx(0.75)
    assert rows["strong"]["std"] == 0
    assert rows["strong"]["low"] < 0.75 < rows["strong"]["high"]
    assert rows["ids"]["trained"] == "no text"


def test_tests_are_paired_over_users_and_corrected_within_the_question(arms):
    pairs = [("weak", "strong"), ("weak", "ids"), ("strong", "ids")]
    found = answers.answer("which", arms, pairs, **WHERE).tests
    users = {
        name: np.mean([RANKS[table, s] <= 10 for s in (1, 2)], axis=0)
        for name, table in (("weak", "a"), ("strong", "b"), ("ids", "id"))
    }
    wanted = [stats.ttest_rel(users[after], users[before]) for before, after in pairs]
    assert found["p"].to_list() == pytest.approx([w.pvalue for w in wanted])
    low, middle, high = sorted(w.pvalue for w in wanted)
    assert sorted(found["p_holm"]) == pytest.approx([3 * low, max(3 * low, 2 * middle), max(3 * low, 2 * middle, high)])
    assert found["verdict"].to_list() == ["better", NOTHING, "worse"]


def test_a_user_with_several_test_samples_counts_as_one(tmp_path):
    """10 users of 4 test samples each: the p is that of a regression with errors clustered by user."""
    of = np.repeat(np.arange(10), 4)
    corpus = make_corpus(users=10)
    corpus = replace(
        corpus,
        offsets=np.arange(0, 51, 5),
        sequence=np.resize(corpus.sequence, 50),
        targets=np.setdiff1d(np.arange(50), np.arange(0, 50, 5)),
        splits=np.full(40, TEST, dtype=np.uint8),
    ).check()
    some = study_of(tmp_path, "several", corpus)
    arms = [Arm("weak", some, "a"), Arm("strong", some, "b")]
    found = answers.answer("which", arms, [("weak", "strong")], **WHERE)
    difference = np.mean([(RANKS["b", s] <= 10) * 1.0 - (RANKS["a", s] <= 10) for s in (1, 2)], 0)
    sums = np.bincount(of, difference - difference.mean())
    t = difference.mean() / (np.sqrt(10 / 9 * (sums**2).sum()) / 40)
    assert found.tests["difference"][0] == pytest.approx(difference.mean())
    assert found.tests["p"][0] == pytest.approx(2 * stats.t.sf(t, 9))
    assert (found.users, found.samples) == (10, 40)
    among = of < 7
    few = answers.answer("which", arms, [("weak", "strong")], **WHERE, among=among)
    assert (few.users, few.samples) == (7, 28)
    means = np.bincount(of[among], np.mean([RANKS["a", s] <= 10 for s in (1, 2)], 0)[among]) / 4
    drawn = means[np.random.default_rng(0).integers(0, 7, (1000, 7))].mean(1)
    assert (few.arms["low"][0], few.arms["high"][0]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_recommenders_of_a_question_are_one_family(tmp_path):
    both = study_of(tmp_path, "both", make_corpus(users=USERS), ("SASRec", "GRU4Rec"))
    some = [Arm("weak", both, "a"), Arm("ids", both, "id")]
    one = answers.answer("q", some, [("weak", "ids")], **WHERE)
    two = answers.answer("q", some, [("weak", "ids")], **WHERE | {"recommenders": ["SASRec", "GRU4Rec"]})
    assert two.tests["p_holm"].to_list() == pytest.approx([min(1, 2 * one.tests["p"][0])] * 2)
    assert two.sentence.startswith(f"SASRec: {NOTHING}")
    assert "; GRU4Rec: " in two.sentence


def test_among_keeps_some_users(arms):
    found = answers.answer("which", arms, [("weak", "strong")], **WHERE, among=np.arange(USERS) < 20)
    assert found.users == 20
    assert found.arms.filter(arm="strong")["mean"][0] == 1


def test_arms_with_other_targets_are_not_paired(arms, tmp_path):
    other = study_of(tmp_path, "two", make_corpus(users=USERS, seed=1))
    with pytest.raises(ValueError, match="no paired test"):
        answers.answer("which", [*arms, Arm("other", other, "a")], [("weak", "other")], **WHERE)
    longer = study_of(tmp_path, "three", replace(make_corpus(users=USERS), max_history=9))
    answers.answer("which", [*arms, Arm("longer", longer, "a")], [("weak", "longer")], **WHERE)


def test_a_question_needs_a_pair(arms):
    with pytest.raises(ValueError, match="'which' compares no pair"):
        answers.answer("which", arms, [], **WHERE)


def test_over_trainings_a_row_is_all_of_its_trainings(tmp_path):
    both = study_of(tmp_path, "both", make_corpus(users=USERS), ("SASRec", "GRU4Rec"))
    arms = [Arm("ids", both, "id"), Arm("first", both, "a"), Arm("second", both, "b")]
    drawn = {"text": ["first", "second"]}
    found = answers.answer_over_trainings("q", arms, drawn, **WHERE | {"recommenders": ["SASRec", "GRU4Rec"]})
    values = {t: np.stack([RANKS[t, s] <= 10 for s in (1, 2)]) * 1.0 for t in ("a", "b", "id")}
    text = np.stack([values["a"], values["b"]])
    wanted = metrics.test_over_trainings(text - values["id"], np.arange(USERS))
    one = found.tests.filter(recommender="GRU4Rec").to_dicts()[0]
    assert {k: one[k] for k in wanted} == pytest.approx(wanted)
    assert found.tests["p_holm"].to_list() == pytest.approx([min(1, 2 * wanted["p"])] * 2)
    rows = {row["arm"]: row for row in found.arms.filter(recommender="SASRec").iter_rows(named=True)}
    assert (rows["text"]["mean"], rows["text"]["std"]) == pytest.approx((text.mean(), text.mean((1, 2)).std()))
    assert rows["ids"]["std"] == pytest.approx(values["id"].mean(1).std())
    assert found.counted == f"recall@10, n = {USERS} users, 2 trainings, 2 seeds"
    told = found.record()
    assert (told["trainings"], told["SASRec ids to text of trainings"]) == (2, pytest.approx(wanted["of trainings"]))
    each = answers.answer("q", arms, [("ids", "first"), ("ids", "second")], **WHERE)
    assert answers.describe_each(each, drawn) == f"text 1 {NOTHING}, 1 better"
    assert not {"trainings", "SASRec ids to first of trainings"} & set(each.record())


def test_leads_are_compared_sample_by_sample(tmp_path):
    both = study_of(tmp_path, "both", make_corpus(users=USERS), ("SASRec", "GRU4Rec"))
    arms = [Arm("ids", both, "id"), Arm("weak", both, "a"), Arm("strong", both, "b")]
    leads = {"lead of weak": ("ids", "weak"), "lead of strong": ("ids", "strong")}
    where = WHERE | {"recommenders": ["SASRec", "GRU4Rec"]}
    found = answers.answer_leads("q", arms, leads, [("lead of weak", "lead of strong")], **where)
    values = {t: np.mean([RANKS[t, s] <= 10 for s in (1, 2)], 0) for t in ("a", "b", "id")}
    rows = {row["arm"]: row for row in found.arms.filter(recommender="GRU4Rec").iter_rows(named=True)}
    assert rows["lead of weak"]["mean"] == pytest.approx((values["a"] - values["id"]).mean())
    assert rows["lead of strong"]["mean"] == pytest.approx((values["b"] - values["id"]).mean())
    wanted = stats.ttest_rel(values["b"] - values["id"], values["a"] - values["id"])
    assert found.tests["p"].to_list() == pytest.approx([wanted.pvalue] * 2)
    assert found.tests["verdict"].to_list() == ["larger"] * 2
    assert "SASRec: lead of strong is larger than lead of weak, +0.6" in found.sentence
    back = answers.answer_leads("q", arms, leads, [("lead of strong", "lead of weak")], **WHERE)
    assert back.tests["verdict"].to_list() == ["smaller"]


def answer_of(verdicts, means=(0.3, 0.2, 0.1), samples=1234):
    """An answer about arms a, b, c and the pairs a-b, b-c with these verdicts."""
    size = {"better": 0.5, "worse": -0.5, NOTHING: 0.001}
    pairs = [("a", "b"), ("b", "c")]
    tests = [
        {"recommender": "SASRec", "before": x, "after": y, "difference": size[v], "low": size[v] - 0.1, "high": size[v] + 0.1, "verdict": v}
        for (x, y), v in zip(pairs, verdicts, strict=True)
    ]  # fmt: skip
    arms = [{"recommender": "SASRec", "arm": x, "mean": m} for x, m in zip("abc", means, strict=True)]
    return Answer("q", "ndcg@10", 1234, samples, 2, pl.DataFrame(arms), pl.DataFrame(tests))


def test_the_record_is_flat(arms):
    record = answers.answer("which", arms, [("weak", "strong")], **WHERE).record()
    assert list(record) == [
        "answer",
        "users",
        "seeds",
        "SASRec weak",
        "SASRec strong",
        "SASRec ids",
        "p SASRec weak to strong",
    ]
    assert record["SASRec strong"] == 0.75


def test_the_sentence_says_first_what_can_be_told_and_always_n():
    said = answer_of([NOTHING, "worse"]).sentence
    assert said == (
        "c is worse than b, -0.5000 [-0.6000, -0.4000]; no detectable difference between b and a, +0.0010 [-0.0990, +0.1010] "
        "(ndcg@10, n = 1,234 users, 2 seeds)"
    )
    assert answer_of([NOTHING, "worse"], samples=5678).counted == "ndcg@10, n = 1,234 users with 5,678 test samples, 2 seeds"


@pytest.mark.parametrize(
    ("there", "agree", "counts"),
    [
        (["better", NOTHING], ["same", "same"], "2 of 2 verdicts the same, 0 opposite, 0 detectable in one only"),
        (["worse", "better"], ["opposite", "seen once"], "0 of 2 verdicts the same, 1 opposite, 1 detectable in one only"),
    ],
)
def test_answers_of_different_users_are_compared_by_their_verdicts(there, agree, counts):
    table, said = answers.compare_answers(
        answer_of(["better", NOTHING]), answer_of(there, means=(0.1, 0.3, 0.2)), ("one", "two")
    )
    assert table["agree"].to_list() == agree
    assert said.startswith("one: a > b > c (ndcg@10, n = 1,234 users, 2 seeds); two: b > c > a (")
    assert said.endswith(counts)


def kinds(immediate, before, novel):
    """Rows of slices.tabulate: (samples, mean) of each kind of target."""
    named = (("immediate repeat", immediate), ("seen before", before), ("novel", novel))
    return pl.DataFrame(
        [
            {"slice": "target", "label": label, "samples": n, "recommender": "SASRec", "embedding": "a", "mean": mean, "low": 0.0, "high": 1.0}
            for label, (n, mean) in named
            if n
        ]
    )  # fmt: skip


def test_what_repeats_give():
    found = questions.compare_repeats(kinds((5, 0.8), (5, 0.2), (90, 0.1)))
    row = found.row(0, named=True)
    assert row["targets"] == 100
    assert row["repeats"] == pytest.approx(0.1)
    assert row["overall"] == pytest.approx(0.14)
    assert row["share"] == pytest.approx(5 / 14)  # 5 * 0.8 + 5 * 0.2 of 14
    assert row["novel"] == pytest.approx(0.1)
    assert (
        questions.describe_repeats(found, "recall@10")
        == "10.0% of 100 test targets are repeats and give 35.7% to 35.7% of recall@10"
    )


def test_without_repeats_all_is_novel():
    found = questions.compare_repeats(kinds((0, 0), (0, 0), (90, 0.1)))
    assert found["share"].to_list() == [0]
    assert "no test target repeats" in questions.describe_repeats(found, "recall@10")


def test_questions_that_a_source_cannot_answer():
    corpus, data, asked = make_corpus(), S.Data(source="recbole"), S.Questions(user_shares=[0.5])
    assert set(questions.find_unanswerable(corpus, data, asked)) == {"split", "text"}
    timed = replace(
        corpus,
        times=np.arange(len(corpus.sequence)),
        items=corpus.items.with_columns(brand=pl.lit("x"), category=pl.lit("")),
    )
    assert questions.list_fields(timed, asked) == ["brand"]
    assert not questions.find_unanswerable(timed, data, asked)
    assert set(questions.find_unanswerable(timed, S.Data(source="mix"), asked)) == {"split", "text", "history"}
    assert set(questions.find_unanswerable(timed, S.Data(source="llm2rec"), asked)) == {"split", "history"}
    assert set(questions.find_unanswerable(timed, data, replace(asked, histories=[10]))) == {"history"}
    assert set(questions.find_unanswerable(timed, data, replace(asked, seeds=[1]))) == {"trainings"}


@pytest.mark.parametrize(
    ("asked", "share", "says"),
    [
        ({"user_shares": [0.05, 0.2]}, 1.0, ""),
        (
            {"user_shares": [0.05, 0.06]},
            1.0,
            r"\[0.05, 0.06\] of 20 users, and all of them, are \[1, 1, 20\]: not so many sizes",
        ),
        ({"user_shares": [0.5, 0.999]}, 1.0, r"are \[10, 20, 20\]"),
        ({"user_shares": [0.05], "seeds": [1, 2]}, 1.0, "0.05 of 20 users, drawn by seed 2, have no train sample"),
        ({"user_shares": [0.05], "seeds": [2], "domain": "toys"}, 1.0, ""),  # the setting is refused by its name, elsewhere
        ({"user_shares": [0.5]}, 0.5, "from a part of the users, evaluation_user_share 0.5"),
    ],
)
def test_a_learning_curve_needs_sizes_with_samples(asked, share, says):
    timed = replace(make_corpus(users=20), times=np.arange(125))
    asked = S.Questions(**{"asked": ["users"], "seeds": [0, 1]} | asked)
    found = questions.find_unanswerable(timed, S.Data(), asked, share=share)
    assert ("users" in found) == bool(says)
    assert re.search(says, found.get("users", ""))


def test_a_table_that_the_run_does_not_have_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    study = study_of(tmp_path, "mine", make_corpus(users=USERS))
    monkeypatch.setattr(
        enquiry.experiments, "open_study", lambda run, *_: Study(run, run, {"data": S.Data(), "evaluation": S.Evaluation()})
    )
    enquiry.Enquiry.open(study.run, S.Questions(asked=["users"], user_tables=["a", "b_add_id", "id"]))
    with pytest.raises(ArtefactError, match=r"no embeddings 'c', which questions_user_tables names; it has a, b\."):
        enquiry.Enquiry.open(study.run, S.Questions(asked=["users"], user_tables=["a", "c_add_id"]))
    enquiry.Enquiry.open(study.run, S.Questions(asked=["id"], user_tables=["c"]))


def test_richer_text_of_amazon_is_asked_of_fields_that_its_loader_reads_once_a_text_names_them():
    corpus, data, asked = make_corpus(), S.Data(source="amazon"), S.Questions(text_fields=["brand", "colour", "description"])
    corpus = replace(corpus, facts=corpus.facts | {"source": "amazon"})
    assert question_arms.choose_template(corpus, asked) == "{title}. {brand}. {description}"
    assert "text" not in questions.find_unanswerable(corpus, data, asked)
    empty = replace(corpus, items=corpus.items.with_columns(brand=pl.lit("")))  # its text names the brand, and none is there
    assert questions.list_fields(empty, asked) == ["description"]
    found = questions.find_unanswerable(corpus, data, S.Questions(text_fields=["colour"]))
    assert found["text"] == "the corpus' items have none of colour"


def test_questions_that_read_the_source_again_stop_where_it_has_changed(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    for name in ("interactions", "items"):
        (tmp_path / "shop" / f"{name}.csv").write_text("as it was")
    data, corpus = S.Data(source="table", path=str(tmp_path / "shop")), make_corpus()
    run = Run("mine", tmp_path / "outputs")
    made = {"settings": data.recipe | {"files": sources.hash_files(data)}, "quiet": True}
    run.make("corpus", lambda folder: corpus.save(folder) or {}, **made)
    monkeypatch.setattr(
        enquiry.experiments, "open_study", lambda *_: Study(run, run, {"data": data, "evaluation": S.Evaluation()})
    )
    asked = S.Questions(asked=["split", "text", "history"])
    assert set(enquiry.Enquiry.open(run, asked).reasons) == {"split", "text", "users"}
    (tmp_path / "shop" / "items.csv").write_text("changed")
    asked = S.Questions(asked=["split", "history", "id"])
    with pytest.raises(
        S.SettingsError, match=r"questions history read .* again, .*'mine' was made from \(shop/items\.csv\): put"
    ):
        enquiry.Enquiry.open(run, asked)
    (tmp_path / "shop").rename(tmp_path / "moved")
    with pytest.raises(
        S.SettingsError, match=r"\(shop/interactions\.csv, shop/items\.csv\): put them back, make the run anew"
    ):
        enquiry.Enquiry.open(run, asked)
    assert enquiry.Enquiry.open(run, replace(asked, asked=["split", "id"]))  # the other is none of this run


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"split": "leave_one_out"}, ("leave_one_out", "global_time")),
        ({"split": "global_time"}, ("global_time", "leave_one_out")),
        ({"split": "released", "split_rules": {"toy": "global_time"}}, ("global_time", "leave_one_out")),
        ({"split": "released", "split_rules": {"toy": "leave_one_out"}}, ("leave_one_out", "global_time")),
    ],
)
def test_the_split_of_the_domain_and_the_other(facts, expected):
    at = question_arms.At(None, None, S.Questions(), "toy", replace(make_corpus(), facts=facts))
    assert question_arms.splits(at) == expected


def test_texts_and_histories_are_counted():
    found = questions.compare_texts({"plain": ["a b", "c"], "richer": ["a b. d", "c. d e"]})
    assert found.rows() == [("plain", 1.5, "a b"), ("richer", 3.0, "a b. d")]
    found = questions.find_longer(np.array([1, 10, 11, 30]), [10, 20])
    assert found.rows() == [(10, 2, 4), (20, 1, 4)]


@pytest.fixture
def shown(monkeypatch):
    """All that an enquiry shows."""
    found = []
    monkeypatch.setattr(enquiry, "display", lambda *things: found.extend(things))
    return found


@pytest.fixture
def asked_of(study, monkeypatch):
    """An enquiry of a run whose recommenders are there; its arms are those of the question `id`, and what it evaluates is noted."""
    settings = {"evaluation": S.Evaluation(cutoffs=[10], tested="recall@10")}
    own = replace(study, settings=settings)
    done = []
    do = SimpleNamespace(evaluate=lambda where, tables, **how: done.append((where, tables, how)))
    arms = [question_arms.Arm("weak", own, "a"), question_arms.Arm("strong", own, "b")]
    monkeypatch.setitem(question_arms.ARMS, "id", lambda at: [question_arms.Family("id", arms, [("weak", "strong")])])
    asked = S.Questions(asked=["id", "views"], recommenders=["SASRec"], seeds=[1, 2])
    at = question_arms.At(do, own.run, asked, "toy", own.corpus, {}, {"questions_own": own})
    return enquiry.Enquiry(at, {"views": "there are none"}), done


def test_an_enquiry_begins_without_the_figures_of_questions_asked_before(tmp_path, monkeypatch):
    study = study_of(tmp_path, "one", make_corpus(users=USERS))
    monkeypatch.setattr(
        enquiry.experiments,
        "open_study",
        lambda run, name, **_: replace(study, settings={"data": S.Data(), "evaluation": S.Evaluation()}),
    )
    figures = study.run.path / "figures"
    figures.mkdir()
    for name in ("question_views.png", "results.png"):
        (figures / name).write_bytes(b"")
    enquiry.Enquiry.open(study.run, S.Questions(asked=["id"]))
    assert [path.name for path in figures.iterdir()] == ["results.png"]


def test_an_answer_tells_the_split_of_its_domain_and_not_a_setting_that_a_mix_leaves_unread(asked_of, monkeypatch):
    here, _ = asked_of
    monkeypatch.setattr(enquiry.answers, "count_steps", lambda *_: 0)
    settings = {stage.prefix: stage() for stage in S.STAGES}
    for facts, split in (({}, "leave_one_out"), ({"split": "global_time"}, "global_time")):
        corpus = replace(here.corpus, facts={"source": "amazon", **facts})
        own = replace(here.own, settings=settings)
        told = enquiry.Enquiry(replace(here.at, corpus=corpus, studies={"questions_own": own}), {}).about()
        assert told["split"] == split


def test_a_question_is_asked_trained_compared_and_said(asked_of, shown, capsys):
    here, done = asked_of
    here.answer("id")
    assert capsys.readouterr().out.startswith(S.QUESTIONS["id"])
    assert done == [(here.own, ["a", "b"], {"recommenders": ["SASRec"], "seeds": [1, 2], "domains": ["toy"]})]
    arms = [Arm("weak", here.own, "a"), Arm("strong", here.own, "b")]
    expected = answers.answer("id", arms, [("weak", "strong")], **WHERE)
    assert here.said == {"id": expected.sentence}
    assert shown[0].equals(expected.arms)
    assert shown[1].equals(expected.tests)
    assert (here.at.base.path / "figures" / "question_id.png").is_file()
    (family,) = here.train("id")
    some = here.compare(family, "some users", among=np.arange(USERS) < 20)
    assert (some.question, some.users) == ("some users", 20)
    assert (here.at.base.path / "figures" / "question_some_users.svg").is_file()


def test_a_question_that_is_not_asked_or_cannot_be_answered_says_so_and_trains_nothing(asked_of, shown, capsys):
    here, done = asked_of
    for question in ("views", "mntp"):
        here.answer(question)
    assert here.said == {"views": "not answered here: there are none", "mntp": "not asked (questions_asked)"}
    assert capsys.readouterr().out.splitlines()[1::2] == list(here.said.values())
    assert not done
    assert not shown
    told = dict(here.table().rows())
    assert told[S.QUESTIONS["views"]] == "no: there are none"
    assert told[S.QUESTIONS["id"]] == "yes"
    assert told[S.QUESTIONS["mntp"]] == "not asked"


def test_of_a_question_that_cannot_be_answered_no_cell_of_notebook_07_runs_on(asked_of):
    """With `questions_histories: []` there is no first length."""
    here, _ = asked_of
    nothing = S.Questions(asked=list(questions.ASKED), histories=[])
    reasons = questions.find_unanswerable(here.corpus, S.Data(), nothing)
    here = enquiry.Enquiry(replace(here.at, asked=nothing), dict.fromkeys(questions.ASKED, "no") | reasons)
    cells = json.loads((find_project_root() / "notebooks/07_beyond_the_paper.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for source in (s for s in sources if "history" in s and "here." in s):
        exec(source, {"here": here, "stage": nothing, "np": np})
    assert "questions_histories is []" in here.said["history"]


def test_without_weights_seen_items_are_not_left_out_and_notebook_07_says_so_and_goes_on(asked_of, shown, capsys):
    """A study that took a recommender from another one, of whose seeds it was a later one, has none of it."""
    here, _ = asked_of
    here = enquiry.Enquiry(replace(here.at, asked=replace(here.at.asked, asked=["repeats"])), {}, {"repeats": "told"})
    cells = json.loads((find_project_root() / "notebooks/07_beyond_the_paper.ipynb").read_text())["cells"]
    (source,) = ("".join(c["source"]) for c in cells if "without_seen" in "".join(c["source"]))
    exec(source.replace('"contrastive"', '"a"'), {"here": here})
    why = "no weights were kept of SASRec over 'a', SASRec over 'id'; notebook 04 keeps those"
    assert here.said["repeats"].startswith(f"told; seen items left out: not ranked again, as {why}")
    assert why in capsys.readouterr().out
    assert not shown


def test_budgets_are_read_from_what_was_trained(toy_run):
    whole = "csft 10 steps, mntp 10 steps, contrastive 5 steps"
    names = ("raw", "csft", "contrastive", "contrastive_add_id", "id")
    assert [answers.describe_budget(toy_run.run, n) for n in names] == [
        "no training",
        "csft 10 steps",
        whole,
        f"{whole} + id",
        "no text",
    ]


@pytest.fixture(scope="module")
def records(toy_run):
    """What notebook 07 of the finished run kept."""
    return read_records(toy_run.run.path / "notebooks" / "07_beyond_the_paper.ipynb")


def test_every_question_has_an_answer_with_n(records):
    assert set(records["answers"]) == set(S.QUESTIONS)
    assert all("n = " in line for line in records["answers"].values())


def test_the_report_has_every_question_and_its_answer_in_order(toy_run, records):
    report = (toy_run.run.path / "report.md").read_text()
    lines = [f"| {question} | {records['answers'][name]} |" for name, question in S.QUESTIONS.items()]
    assert "\n".join(lines) in report
    kept = json.loads((toy_run.run.path / "results.json").read_text())["beyond"]
    assert kept["07_beyond_the_paper"]["answers"] == records["answers"]
    assert sum(kept["06_paper_tables"]["directions"].values()) > 0


def test_controls_are_the_runs_own(toy_run, records):
    study = Run("questions_own", toy_run.run.path / FOLDER)  # the run has one seed
    names = [(toy_run.run, 2024), (study, 2025)]
    own = np.mean([r.record(f"evaluation/games/SASRec-contrastive-seed{s}")["metrics"]["ndcg@10"] for r, s in names])
    for question, arm in (("temperature", "0.2"), ("views", "mask"), ("normalise", "none"), ("id", "text")):
        assert records[question][f"SASRec {arm}"] == pytest.approx(own)


def test_arms_of_contrast_have_the_same_steps_from_the_same_start(toy_run):
    own = Run("questions_own", toy_run.run.path / FOLDER)
    names = ("contrastive", "temperature_01", "views_dropout", "other_seed")
    assert {answers.describe_budget(own, n).removesuffix(f"{n} 5 steps") for n in names} == {
        "csft 10 steps, mntp 10 steps, "
    }


def test_trainings_of_the_chain_differ_in_their_seeds_alone(toy_run, records):
    own = Run("questions_own", toy_run.run.path / FOLDER)
    for stage, start in (("csft", "backbone"), ("mntp", "csft"), ("contrastive", "mntp")):
        first, other = own.manifest(stage), own.manifest(f"{stage}_seed43")
        assert other["settings"] == first["settings"] | {"seed": 43}
        assert (start if start == "backbone" else f"{start}_seed43") in other["inputs"]
        assert other["files"] != first["files"]
    held, over = records["trainings"], records["over trainings"]
    assert over["SASRec CSFT"] == pytest.approx(np.mean([held[f"SASRec CSFT, training {k}"] for k in (1, 2, 3)]))
    assert "3 trainings" in records["answers"]["trainings"]


def test_recommenders_of_few_users_are_trained_on_those_alone_and_tested_on_all(toy_run, records):
    few, own = (Run(name, toy_run.run.path / FOLDER) for name in ("questions_users_0_3", "questions_own"))
    for table in ("id", "raw", "contrastive", "contrastive_add_id"):
        name = f"evaluation/games/SASRec-{table}-seed2025"
        made, all_of_them = few.manifest(name), own.manifest(name)
        assert made["settings"]["user_share"] == 0.3
        assert "user_share" not in all_of_them["settings"]
        assert made["record"]["samples"] == all_of_them["record"]["samples"]
        assert made["settings"]["epochs"] == round(all_of_them["settings"]["epochs"] / 0.3)
    means = [
        np.mean([few.record(f"evaluation/games/SASRec-{t}-seed{s}")["metrics"]["ndcg@10"] for s in (2024, 2025)])
        for t in ("id", "raw")
    ]
    assert records["users lead"]["SASRec lead of raw, 30% of users"] == pytest.approx(means[1] - means[0], abs=1e-4)
    assert "The lead over ids: " in records["answers"]["users"]
    assert (toy_run.run.path / "figures" / "question_users_curve.png").is_file()


def test_leaving_out_seen_items_moves_targets_up_and_nothing_else(toy_run, records):
    """The run's own weights, ranked by brute force."""
    own = Run("questions_own", toy_run.run.path / FOLDER)
    part = Corpus.load(own.require("corpus")).select(["games"])
    table = np.load(own.require("embeddings/contrastive").with_suffix(".npy"))
    model = saved_recommender.load(own, "games", "SASRec", "contrastive", part, {"contrastive": table})
    corpus, values = part[0], {"all": [], "unseen": []}
    for target in corpus.samples("test"):
        scores = model.scores(corpus.history(target))
        wanted = scores[corpus.sequence[target] - 1]
        had = corpus.sequence[corpus.offsets[corpus.owners(np.array([target]))[0]] : target]
        unseen = np.setdiff1d(np.arange(1, corpus.n_items + 1), had)
        for name, some in (("all", scores), ("unseen", scores[unseen - 1])):
            values[name].append(metrics.compute_per_sample(np.array([(some >= wanted).sum()]), "ndcg@10")[0])
    assert records["seen items"]["SASRec text, all items"] == pytest.approx(np.mean(values["all"]), abs=1e-3)
    assert records["seen items"]["SASRec text, unseen items"] == pytest.approx(np.mean(values["unseen"]), abs=1e-3)
    assert records["seen items"]["users"] == len(values["all"])


def test_nothing_of_it_is_in_the_runs_own_results(toy_run):
    assert not [name for name in toy_run.run.artefacts() if "questions" in name]
