"""The work of artefacts against operations counted by hand."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.plan import cost
from llm2rec_kit.reproduction.plan.dry_study import Artefact
from llm2rec_kit.reproduction.plan.sizes import Domain, Sizes

QWEN = S.Backbone(name="Qwen/Qwen2-0.5B")
BODY, HEAD = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864), 151936 * 896
SIZES = Sizes([Domain("games", 160, 900, 300, 300), Domain("crafts", 40, 300, 100, 100)], "by hand", ["games"])


def artefact(settings, model=QWEN, *, domains=(), data=None, inputs=(), text="title"):
    corpus = Artefact(("01", "corpus"), "corpus", data or S.Data(), model)
    return Artefact(("06", "Table 3"), "it", settings, model, (corpus, *inputs), tuple(domains), text)


def test_trainings_counted_by_hand():
    csft = cost.estimate_work(
        artefact(S.CSFT(steps=10_000, batch_size=128, evaluate_every=2000, evaluate_samples=2000)), SIZES
    )
    sample = 5.2 * 20
    read = 5 * 2000  # five validations of 2,000 samples
    assert csft.flops == pytest.approx((1_280_000 * 6 + read * 2) * (sample * BODY + 20 * HEAD))
    assert csft.passes == 10_000 * 4  # 128 x 104 tokens in passes of 4,096
    assert csft.pass_ms == 24 * cost.LAYER_MS
    mntp = cost.estimate_work(artefact(S.MNTP(steps=1000, batch_size=32, rate=0.2, held_out=0.1)), SIZES)
    checked = 10 * 16  # ten validations of a tenth of the 160 titles that it may see
    assert mntp.flops == pytest.approx((1000 * 32 * 6 + checked * 2) * 20 * (BODY + 0.2 * HEAD))
    contrast = cost.estimate_work(artefact(S.Contrastive(steps=1000, batch_size=256, batch_tokens=4096)), SIZES)
    assert contrast.flops == pytest.approx(1000 * 256 * 2 * 20 * 6 * BODY)
    assert contrast.passes == 1000 * 3  # 2 views x 256 x 20 tokens in passes of 4,096
    attributes = cost.estimate_work(artefact(S.Contrastive(steps=1000, batch_size=256), text="attributes"), SIZES)
    assert attributes.flops == pytest.approx(contrast.flops * 40 / 12)


def test_a_table_is_read_with_the_size_of_its_own_encoder():
    assert cost.estimate_work(artefact(S.Encoding()), SIZES).flops == pytest.approx(200 * 20 * 2 * BODY)
    bge = cost.estimate_work(artefact(S.Encoding(), S.Backbone(name="BAAI/bge-large-en-v1.5")), SIZES)
    assert bge.flops == pytest.approx(200 * 20 * 2 * 24 * (4 * 1024**2 + 2 * 1024 * 4096))
    assert cost.estimate_work(artefact(S.Encoding(), S.Backbone(name="someone/unknown")), SIZES) is None


def test_a_recommender_counted_by_hand():
    hidden, inner, layers, steps = 16, 32, 2, -(-900 // 256)
    e = S.Evaluation(epochs=3, evaluate_every=2, hidden=hidden, inner=inner, layers=layers, batch_size=256)
    layer = layers * (4 * hidden**2 + 2 * hidden * inner)
    epoch = 6 * 900 * (hidden * 160 + layer)
    validation = 2 * 300 * (hidden * 160 + 4.2 * layer)
    ids = cost.estimate_work(artefact(e, domains=["games"]), SIZES)
    assert ids.flops == pytest.approx(3 * (epoch + validation / 2))
    assert (ids.passes, ids.pass_ms, ids.gflops) == (3 * steps, cost.STEP_MS, cost.THREAD_GFLOPS)
    over_text = cost.estimate_work(artefact(e, domains=["games"], inputs=[artefact(S.Encoding())]), SIZES)
    adapter = 160 * 896 * hidden  # trained every step, and read for every validation
    assert over_text.flops - ids.flops == pytest.approx(3 * (6 * steps + 2 / 2) * adapter)
    assert ids.on_gpu
    assert not cost.estimate_work(artefact(dataclasses.replace(e, device="cpu"), domains=["games"]), SIZES).on_gpu


def test_a_loss_over_drawn_items_is_counted_by_what_is_drawn():
    large = dataclasses.replace(SIZES, domains=[Domain("games", 100_000, 5_000, 10, 10)])
    text = [artefact(S.Encoding())]
    e = S.Evaluation(epochs=1, hidden=16, inner=32, layers=1, batch_size=100, sampled_items=500, negatives=7)

    def count(loss, inputs=()):
        given = artefact(dataclasses.replace(e, loss=loss), domains=["games"], inputs=inputs)
        return cost.estimate_work(given, large).flops

    layer = 4 * 16**2 + 2 * 16 * 32
    validations = 2 * 10 * (16 * 100_000 + 4.2 * layer) / e.evaluate_every
    assert count("softmax") - validations == pytest.approx(6 * 5_000 * (16 * 100_000 + layer))
    assert count("sampled_softmax") - validations == pytest.approx(6 * 5_000 * (16 * 501 + layer))
    assert count("gbce") - validations == pytest.approx(6 * 5_000 * (16 * 8 + layer))
    read = 2 * 100_000 * 896 * 16 / e.evaluate_every
    adapter = count("sampled_softmax", text) - count("sampled_softmax") - read
    assert adapter == pytest.approx(6 * 50 * 896 * 16 * (500 + 520))  # 100 samples of 5.2 items each
    assert count("bce", text) - count("bce") - read == pytest.approx(6 * 50 * 896 * 16 * 100_000)


def test_richer_text_is_counted_in_the_words_of_the_corpus():
    corpus = make_corpus(items=2)
    columns = {"title": ["a b", "a b c d"], "brand": [None, "x y"]}
    corpus = dataclasses.replace(corpus, items=corpus.items.with_columns(**{k: pl.Series(v) for k, v in columns.items()}))
    here = dataclasses.replace(SIZES, corpus=corpus)
    richer = S.Data(text="{title}. {brand}", text_words=5)  # 2 words, and 6 cut at 5; titles have 3 on average
    plain = cost.count_tokens(artefact(S.CSFT()), here)
    assert plain == 20
    assert cost.count_tokens(artefact(S.CSFT(), data=richer), here) == pytest.approx(20 * 3.5 / 3)
    assert cost.count_tokens(artefact(S.CSFT(), data=richer), SIZES) == pytest.approx(20 * 5 / 12)


def test_hours_from_operations_and_peak():
    low, high = cost.estimate_hours(cost.Work(150e12 * 3600), "A40")
    assert (low, high) == (pytest.approx(1 / 0.4), pytest.approx(1 / 0.1))
    launch = 3600 / (24 * cost.LAYER_MS / 1e3)  # as many passes as fit into an hour
    low, high = cost.estimate_hours(cost.Work(1.0, int(launch), 24 * cost.LAYER_MS), "H100")
    assert low == pytest.approx(1, rel=1e-3)
    assert high == pytest.approx(1, rel=1e-3)
    assert cost.estimate_cpu_hours(cost.Work(cost.CORE_GFLOPS * 1e9 * 7200), 2) == pytest.approx(1)
