"""A plan against operations counted by hand."""

from __future__ import annotations

import pytest

from llm2rec_kit import cli
from llm2rec_kit.reproduction import assets, notebooks, plan
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone


def planned(profile, tmp_path, **overrides):
    values, _ = notebooks.prepared(profile, overrides=overrides, outputs=str(tmp_path), look=False)
    return plan.make(values)


def work(made: plan.Plan, stage: str) -> plan.Work:
    return next(w for w in made.work if w.stage == stage)


def test_the_papers_training_counted_by_hand(tmp_path):
    made = planned("paper", tmp_path)
    body, head = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864), 151936 * 896
    sample = 5.2 * 20
    read = 5 * 2000  # five validations of 2,000 samples
    assert work(made, "csft").flops == pytest.approx(
        1_280_000 * 6 * (sample * body + 20 * head) + read * 2 * (sample * body + 20 * head)
    )
    assert work(made, "csft").passes == 10_000 * 4  # 128 x 104 tokens in passes of 4,096
    assert work(made, "mntp").flops == pytest.approx(1000 * 32 * 20 * 6 * (body + 0.2 * head))
    assert work(made, "contrastive").flops == pytest.approx(1000 * 256 * 2 * 20 * 6 * body)
    items = 108_753 + 13_952 + 6_837 + 4_550
    assert work(made, "encoding").flops == pytest.approx(4 * items * 20 * 2 * body)
    assert made.memory == pytest.approx(4 * 494e6 * 2, rel=1e-3)


def test_evaluation_counted_by_hand(tmp_path):
    made = planned("smoke", tmp_path, evaluation_epochs=3, evaluation_seeds=[1, 2], evaluation_embeddings=["raw", "id"])
    (store,) = made.sizes.domains
    assert (store.items, store.valid, store.test) == (160, 300, 300)
    assert store.train == round(300 * 6.4) - 600
    hidden, inner, layers, steps = 16, 32, 2, -(-store.train // 256)
    layer = layers * (4 * hidden**2 + 2 * hidden * inner)
    epoch = 6 * store.train * (hidden * 160 + layer) + 6 * steps * 160 * 32 * hidden
    validation = 2 * 300 * (hidden * 160 + 4.2 * layer)
    assert work(made, "evaluation").flops == pytest.approx(2 * 2 * 2 * 3 * (epoch + validation))
    assert "8 trainings" in work(made, "evaluation").what


@pytest.mark.parametrize("split", ["global_time", "released"])
def test_a_split_by_time_holds_out_a_tenth_twice(tmp_path, split):
    (store,) = planned("smoke", tmp_path, data_split=split).sizes.domains
    assert (store.train, store.valid, store.test) == (1920 - 2 * 192, 192, 192)  # 300 users, 6.4 samples each


def test_hours_from_operations_and_peak():
    shape = assets.shape(Backbone(name="Qwen/Qwen2-0.5B"))
    low, high = plan.hours(plan.Work("x", "", 150e12 * 3600), shape, "A40")
    assert (low, high) == (pytest.approx(1 / 0.4), pytest.approx(1 / 0.1))
    launch = 3600 / (24 * plan.LAYER_MS / 1e3)  # as many passes as fit into an hour
    low, high = plan.hours(plan.Work("x", "", 1.0, passes=int(launch)), shape, "H100")
    assert low == pytest.approx(1, rel=1e-3)
    assert high == pytest.approx(1, rel=1e-3)
    assert plan.cpu_hours(plan.Work("x", "", plan.CORE_GFLOPS * 1e9 * 7200), 2) == pytest.approx(1)


def test_a_run_that_has_its_corpus_is_counted_from_it(tmp_path):
    statistics = [
        {"domain": d, "users": 5, "items": n, "interactions": 40, "train": 20, "valid": 5, "test": 5}
        for d, n in (("games", 7), ("total", 7))
    ]
    Run("games", tmp_path).make("corpus", lambda f: {"statistics": statistics}, settings={}, quiet=True)
    made = planned("games", tmp_path)
    assert [(d.name, d.items, d.train) for d in made.sizes.domains] == [("games", 7, 20)]
    assert str(tmp_path / "games") in plan.text(made)


def test_what_is_not_known_is_said_not_guessed(tmp_path):
    text = plan.text(planned("games", tmp_path))
    assert "not counted yet. Run notebook 01" in text
    assert "evaluation  " not in text
    with pytest.raises(ValueError, match="size of backbone 'someone/unknown' is not known"):
        planned("smoke", tmp_path, backbone_name="someone/unknown")


def test_the_command_prints_and_makes_nothing(tmp_path, capsys):
    assert cli.main(["reproduce", "--profile", "paper", "--plan", "--outputs", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "nothing is run or written" in text
    assert "Not here yet: The source 'table' reads files" in text
    assert "494.0 M parameters" in text
    assert "estimates, good to a factor of two or three" in text
    assert max(map(len, text.splitlines())) <= 112
    assert list(tmp_path.iterdir()) == []


def test_a_dated_run_is_told_beside_the_estimate(tmp_path, capsys):
    (tmp_path / "expected").mkdir()
    (tmp_path / "mine.yaml").write_text("csft_steps: 5\n")
    (tmp_path / "expected" / "mine.yaml").write_text("date: 2026-11-24\nmachine: CPU, 2 cores\nseconds: 350\n")
    assert cli.main(["reproduce", "--profile", str(tmp_path / "mine.yaml"), "--plan"]) == 0
    assert "Measured: the run of 2026-11-24 on CPU, 2 cores took 6 min." in capsys.readouterr().out


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
    assert plan._time(hours) == says
    assert plan._span(hours, hours) == says
