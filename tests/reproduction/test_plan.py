"""A plan: which rows it has, what it adds up, and what it says of what it cannot know."""

from __future__ import annotations

import re

import pytest
from conftest import make_corpus

from llm2rec_kit import cli
from llm2rec_kit.reproduction.plan import estimate, plan_text
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run


def planned(profile, tmp_path, only=(), start="", **overrides):
    values, books = notebooks.prepare(
        profile, overrides=overrides, only=list(only), start=start, outputs=str(tmp_path), look=False
    )
    return estimate.make_plan(values, [book.name[:2] for book in books])


def rows(made):
    return {(row.notebook, row.label): row for row in made.rows}


def flops(made, *which):
    return sum(w.flops for key, row in rows(made).items() for w in row.work if key in which or key[0] in which)


def test_the_papers_series_counted_by_hand(tmp_path):
    made = planned("paper", tmp_path, ["01", "02", "03", "04", "05"])
    body = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    items = 108_753 + 13_952 + 6_837 + 4_550
    assert flops(made, ("03", "encoding")) == pytest.approx(4 * items * 20 * 2 * body)
    assert [label for _, label in rows(made)] == ["csft", "mntp", "contrastive", "encoding", "evaluation"]
    assert made.memory == pytest.approx(4 * 494e6 * 2, rel=1e-3)
    assert made.disk["model"] == (5, pytest.approx(5 * 494e6 * 2, rel=1e-3))
    assert made.disk["table"] == (4, pytest.approx(4 * items * 896 * 4, rel=1e-3))
    assert made.disk["ranking"][0] == 9 * 2 * 5 * 3


def test_mixed_precision_counts_float32_weights(tmp_path):
    pure, mixed = (planned("paper", tmp_path, ["02"], csft_precision=p) for p in ("pure", "mixed"))
    assert (mixed.memory, mixed.passing) == (2 * pure.memory, (2 * pure.passing[0], 3))
    auto = [planned("pretrained", tmp_path, ["02"], csft_precision=p) for p in ("pure", "mixed")]
    pure, mixed, tiny = (
        " ".join(plan_text.render_plan(made).split()) for made in (*auto, planned("demo", tmp_path, ["02"]))
    )
    told = "on a GPU without bfloat16 of its own, they take twice that on disk"
    assert f"{told}, and a training twice the memory." in pure
    assert f"{told}." in mixed
    assert told not in tiny


def test_lora_trains_its_adapters_alone(tmp_path):
    """Gradients, moments and what checkpoints hold, of rank 8 on all linear layers of Qwen2-0.5B."""
    made = planned("paper", tmp_path, ["02"], csft_tuning="lora", csft_lora_r=8, csft_lora_alpha=16)
    adapters = 24 * 8 * (2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864))
    assert adapters == 4_399_104  # as peft counts them
    assert made.memory == pytest.approx(2 * (494e6 + 3 * adapters), rel=1e-3)
    assert made.passing == (pytest.approx(2 * 9 * adapters), 3)
    best = planned("paper", tmp_path, ["02"], csft_keep="best")
    assert best.passing == (pytest.approx(2 * 12 * 494e6, rel=1e-3), 4)
    assert "(4 checkpoints with optimiser)" in " ".join(plan_text.render_plan(best).split())
    both = planned("paper", tmp_path, ["02", "03"], csft_tuning="lora", csft_lora_r=8, csft_lora_alpha=16)
    assert both.memory == pytest.approx(4 * 494e6 * 2, rel=1e-3)  # stage 2 trains every weight


def test_which_notebooks_run_is_what_is_counted(tmp_path):
    profile = {row.notebook for row in planned("demo", tmp_path).rows}  # its own choice: 01 to 05
    assert profile == {"02", "03", "04"}
    assert {row.notebook for row in planned("demo", tmp_path, ["06", "07"]).rows} == {"06", "07"}
    assert {row.notebook for row in planned("demo", tmp_path, start="04").rows} == {"04", "06", "07"}
    assert {row.notebook for row in planned("smoke", tmp_path).rows} == {"02", "03", "04", "06", "07"}
    assert planned("demo", tmp_path, ["01", "05"]).rows == []


def test_what_06_has_trained_is_not_counted_in_07(tmp_path):
    half = {"tables_backbones": ["tiny-32"], "tables_share": 0.5, "questions_share": 0.5}
    both, alone = planned("smoke", tmp_path, **half), planned("smoke", tmp_path, start="07", **half)
    saved = flops(alone, ("07", "split")) - flops(both, ("07", "split"))
    csft = flops(planned("smoke", tmp_path, ["02"], csft_steps=5), ("02", "csft"))
    assert csft < saved < 1.5 * csft  # its table and a recommender, too


def test_figure_4_counts_each_backbone_at_its_own_size(tmp_path):
    made = planned("official", tmp_path, ["06"], tables_backbones=["Qwen/Qwen2-1.5B"])
    row = rows(made)["06", "Figure 4"]
    (larger,) = (w for a, w in zip(row.artefacts, row.work, strict=True) if a.name == "csft")
    body, head = 28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960), 151936 * 1536
    assert larger.flops == pytest.approx((1_280_000 * 6 + 10_000 * 2) * (104 * body + 20 * head))
    assert made.memory == pytest.approx(4 * 1543.7e6 * 2, rel=1e-3)
    text = plan_text.render_plan(made)
    assert "Memory of a training (of the largest model, 1,544 M parameters): 12.3 GB" in text
    assert re.search(r"Qwen/Qwen2-1.5B is (to be downloaded, 3.1 GB|in the hub's cache)", text)


def test_a_model_of_unknown_size_is_left_out_and_named(tmp_path):
    asked = {"tables_backbones": ["tiny-16", "some/model"], "tables_encoders": ["an/encoder"]}
    with_it, without = planned("smoke", tmp_path, **asked), planned("smoke", tmp_path)
    assert flops(with_it, "06") == pytest.approx(flops(without, "06"))
    assert with_it.memory == without.memory
    text = re.sub(r"\s+", " ", plan_text.render_plan(with_it))
    assert (
        "Left out of every sum, as its size is not known here: some/model (06 Figure 4: 1 training, 2 encodings of the items, "
        "4 recommenders)"
    ) in text
    assert "an/encoder (06 Table 3, 06 Figure 5: 0 trainings, 3 encodings of the items, 4 recommenders)" in text
    assert "Left out" not in plan_text.render_plan(without)
    with pytest.raises(ValueError, match="size of backbone 'someone/unknown' is not known"):
        planned("smoke", tmp_path, backbone_name="someone/unknown")


@pytest.mark.parametrize("profile", ["paper", "official"])
def test_the_papers_encoders_and_backbones_are_all_known(tmp_path, profile):
    made = planned(profile, tmp_path)
    assert made.unknown == []
    assert {label for number, label in rows(made) if number == "06"} == {
        "Table 3",
        "Table 4",
        "Table 5",
        "Figure 4",
        "Figure 5",
        "start and length",
    }
    assert max(map(len, plan_text.render_plan(made).splitlines())) <= 112


def test_sums_are_those_of_the_rows(tmp_path):
    made = planned("smoke", tmp_path)
    lines = plan_text.render_plan(made).splitlines()
    sums = {m[1].strip(): float(m[2]) for line in lines if (m := re.match(r"(sum[^.]*?) +(\d\.\de[+]\d+)", line))}
    assert list(sums) == ["sum of 01 to 05", "sum of 06", "sum of 07", "sum"]
    assert sums["sum"] == pytest.approx(sum(w.flops for row in made.rows for w in row.work), rel=0.05)
    assert sums["sum of 06"] == pytest.approx(flops(made, "06"), rel=0.05)
    told = plan_text.render_plan(made)
    assert "06 makes mntp_from_backbone (10 steps); llm2vec (5 steps); llmemb (5 steps); csft_mixed (10 steps)" in told
    assert told.count("mntp_from_backbone") == 1  # 07 has the very same
    assert "mntp_from_backbone" in plan_text.render_plan(planned("smoke", tmp_path, ["07"]))


def test_what_is_kept_on_the_cpu_is_in_no_gpus_sum(tmp_path):
    made = planned("smoke", tmp_path, ["04"], evaluation_device="cpu")
    assert sum(map(len, (row.work for row in made.rows))) == 2 * 2 * 5  # domains, recommenders, tables; one seed
    assert re.search(r"evaluation +\S+ +on the CPU  ", plan_text.render_plan(made))
    mixed = plan_text.render_plan(planned("smoke", tmp_path, ["02", "04"], evaluation_device="cpu"))
    assert "What evaluation_device keeps on the CPU is in no sum of a GPU" in mixed


@pytest.mark.parametrize("split", ["global_time", "released"])
def test_a_split_by_time_holds_out_a_tenth_twice(tmp_path, split):
    for last, by_time in zip(
        *(planned("smoke", tmp_path, data_split=s).sizes.domains for s in ("leave_one_out", split)), strict=True
    ):
        samples = last.train + 2 * last.test
        assert (by_time.train, by_time.valid, by_time.test) == (samples - 2 * (samples // 10), samples // 10, samples // 10)
        assert by_time.test < last.test


def test_a_run_that_has_its_corpus_is_counted_from_it(tmp_path):
    corpus = make_corpus()
    statistics = corpus.statistics().to_dicts()
    Run("games", tmp_path).make("corpus", lambda f: corpus.save(f) or {"statistics": statistics}, settings={}, quiet=True)
    made = planned("games", tmp_path)
    assert [(d.name, d.items, d.train) for d in made.sizes.domains] == [("toy", 16, statistics[0]["train"])]
    assert str(tmp_path / "games") in plan_text.render_plan(made)


def test_what_is_not_known_is_said_not_guessed(tmp_path):
    text = plan_text.render_plan(planned("games", tmp_path, start="02"))
    assert "not counted yet. Run notebook 01" in text
    assert "evaluation  " not in text
    assert " 0 recommenders" not in text
    assert "As long as there is no corpus" in text
    assert "As long as there is no corpus" not in plan_text.render_plan(planned("games", tmp_path, ["02"]))


def test_the_command_prints_and_makes_nothing(tmp_path, capsys):
    assert cli.main(["reproduce", "--profile", "paper", "--plan", "--outputs", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "nothing is run or written" in text
    assert "A run would stop at its start: The source 'table' reads files" in text
    assert "494.0 M parameters" in text
    assert "estimates, good to a factor of two or three" in text
    assert max(map(len, text.splitlines())) <= 112
    assert list(tmp_path.iterdir()) == []


def test_a_dated_run_is_told_beside_the_estimate(tmp_path, capsys):
    (tmp_path / "expected").mkdir()
    (tmp_path / "mine.yaml").write_text("csft_steps: 5\ncsft_warmup_steps: 0\n")
    (tmp_path / "expected" / "mine.yaml").write_text("date: 2026-11-24\nmachine: CPU, 2 cores\nseconds: 350\n")
    assert cli.main(["reproduce", "--profile", str(tmp_path / "mine.yaml"), "--plan"]) == 0
    assert "Measured: the run of 2026-11-24 on CPU, 2 cores took 6 min." in capsys.readouterr().out
    assert cli.main(["reproduce", "--profile", str(tmp_path / "mine.yaml"), "--plan", "--only", "07"]) == 0
    said = capsys.readouterr().out
    assert "notebook 07: nothing is run" in said
    assert "Measured" not in said  # it took that for all of its notebooks


@pytest.mark.parametrize(
    ("hours", "says"),
    [
        (0.5 / 3600, "1 s"),
        (42 / 3600, "42 s"),
        (0.05, "3.0 min"),
        (1.4, "84 min"),
        (5.55, "5.5 h"),
        (30, "30 h"),
        (240, "10 d"),
    ],
)
def test_times_have_the_unit_that_reads_best(hours, says):
    assert plan_text._time(hours) == says
    assert plan_text._span(hours, hours) == says
