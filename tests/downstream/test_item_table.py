"""Item tables: what each kind is made of, where its gradient goes, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm2rec_kit.downstream import fast_ops
from llm2rec_kit.downstream.item_table import ItemTable, parse_name, read_table
from llm2rec_kit.geometry import normalise_rows
from llm2rec_kit.runs import ArtefactError, Run

RAW = np.random.default_rng(0).normal(3, 2, (5, 3)).astype(np.float32)
RAW[0] = 0


def test_names():
    assert parse_name("contrastive_add_id") == ("contrastive", "add")
    assert parse_name("minilm_concat_id") == ("minilm", "concat")
    assert parse_name("raw") == ("raw", "text")
    assert parse_name("id_detached") == (None, "id_detached")


def test_a_table_is_found_by_the_name_that_notebook_03_gave_it(tmp_path):
    run = Run("r", tmp_path)
    name, encoder = "bge-large-en-v1_5", "BAAI/bge-large-en-v1.5"
    run.make(f"embeddings/{name}", lambda f: (np.save(f / f"{name}.npy", RAW), {"encoder": encoder})[1], settings={})
    assert (read_table(run, [name])[name] == RAW).all()
    for named in (encoder, "bge-large-en-v1.5"):
        with pytest.raises(ArtefactError, match=f"the table of the encoder '{named}' is called '{name}'"):
            read_table(run, [named])
    with pytest.raises(ArtefactError, match=r"no embeddings 'csft'.*it has \['bge-large-en-v1_5'\]\. Run notebooks/03"):
        read_table(run, ["csft"])


def test_a_table_of_a_model_that_was_trained_anew_since_is_refused(tmp_path):
    run, table = Run("r", tmp_path), "csft-last-causal"

    def train(steps):
        write = lambda folder: (folder / "it.txt").write_text(str(steps)) and None  # noqa: E731
        run.make("csft", write, settings={"steps": steps}, quiet=True)

    train(1)
    run.make(f"embeddings/{table}", lambda f: np.save(f / f"{table}.npy", RAW), settings={}, inputs=["csft"], quiet=True)
    run.make("embeddings/raw", lambda f: np.save(f / "raw.npy", RAW), settings={}, quiet=True)
    assert list(read_table(run, ["raw", table])) == ["raw", table]
    train(2)  # 02 again, and 03 without the variant
    assert list(read_table(run, ["raw"])) == ["raw"]
    with pytest.raises(
        ArtefactError, match=rf"embeddings/{table} of run 'r' was made from .*notebooks/03.*encoding_variants"
    ):
        read_table(run, ["raw", table])


def test_text_is_a_linear_map_of_frozen_embeddings():
    table = ItemTable(4, 8, RAW)
    assert not table.adapter.bias.detach().any()
    with torch.no_grad():
        table.adapter.bias.normal_()
    wanted = torch.from_numpy(RAW) @ table.adapter.weight.T + table.adapter.bias
    torch.testing.assert_close(table(), wanted)
    table().sum().backward()
    assert table.adapter.weight.grad.abs().sum() > 0
    assert set(table.state_dict()) == {"adapter.weight", "adapter.bias"}


def test_a_deeper_adapter_has_its_widths():
    table = ItemTable(4, 8, RAW, widths=[16, 12])
    assert [tuple(p.shape) for p in table.parameters()] == [(16, 3), (16,), (12, 16), (12,), (8, 12), (8,)]
    a, b, c = table.adapter[0], table.adapter[2], table.adapter[4]
    gelu = torch.nn.functional.gelu
    torch.testing.assert_close(table(), c(gelu(b(gelu(a(torch.from_numpy(RAW)))))))


@pytest.mark.parametrize("kind", ["add", "concat"])
def test_text_joined_with_ids(kind):
    table = ItemTable(4, 8, RAW, kind=kind)
    text = torch.from_numpy(RAW) @ table.adapter.weight.T
    ids = table.ids.weight
    assert ids.shape == ((5, 8) if kind == "add" else (5, 4))
    torch.testing.assert_close(table(), text + ids if kind == "add" else torch.cat([text, ids], 1))
    (table() ** 2).sum().backward()
    assert table.adapter.weight.grad.abs().sum() > 0
    assert (table.ids.weight.grad.abs().sum(1) > 0).tolist() == [False, True, True, True, True]


def both_uses(table, ids, label):
    rows, classes = fast_ops.lookup(table(), torch.tensor([ids]))
    fast_ops.softmax_loss(rows.sum(1), table.classes(classes), torch.tensor([label]), padding_class=True).backward()
    return (table.ids.weight.grad.abs().sum(1) > 0).tolist()


def test_ids_learn_on_both_sides_and_padding_stays_zero():
    """Item 3 and 4 are nowhere in the history: their gradient comes through the scores alone."""
    assert both_uses(ItemTable(4, 8), [1, 2], 3) == [False, True, True, True, True]


def test_detached_ids_learn_as_input_alone():
    assert both_uses(ItemTable(4, 8, kind="id_detached"), [1, 2], 3) == [False, True, True, False, False]


def test_low_precision_rounds_what_tells_items_apart_and_not_what_they_share():
    """A mean a thousand times the spread would be all that bfloat16 keeps."""
    rng = np.random.default_rng(0)
    raw = (1000 + rng.normal(size=(301, 32))).astype(np.float32)
    torch.manual_seed(0)
    table = ItemTable(300, 8, raw, low_precision=True)
    exact = table.eval()()[1:].detach()
    rounded = table.train()()[1:].detach()
    spread = (exact - exact.mean(0)).norm()
    assert 0 < (rounded - exact).norm() < 0.01 * spread
    naive = (torch.from_numpy(raw).bfloat16() @ table.adapter.weight.bfloat16().T).float()[1:]
    assert (naive - exact).norm() > 0.5 * spread
    (table() ** 2).sum().backward()
    low = table.adapter.weight.grad.clone()
    table.zero_grad()
    (table.eval()() ** 2).sum().backward()
    assert (low - table.adapter.weight.grad).norm() < 0.01 * low.norm()


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        (np.zeros((4, 3)), r"shape \(5, dim\)"),
        (np.zeros(5), r"shape \(5, dim\)"),
        (np.array([[0, 0], [1, 1], [np.nan, 1], [1, 1], [1, 1.0]]), "1 rows, first in row 2"),
        (np.where(np.arange(10).reshape(5, 2) == 4, 1e300, 1.0), "first in row 2"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(embeddings, words):
    with pytest.raises(ValueError, match=words):
        ItemTable(4, 8, embeddings)


def test_kinds_that_do_not_go_with_their_embeddings_are_refused():
    with pytest.raises(ValueError, match="only where it has text"):
        ItemTable(4, 8, RAW, kind="id")
    with pytest.raises(ValueError, match="only where it has text"):
        ItemTable(4, 8, kind="add")
    with pytest.raises(ValueError, match="must be even"):
        ItemTable(4, 7, RAW, kind="concat")


def test_normalisation():
    unit = ItemTable(4, 8, RAW, normalise="unit").embeddings[1:]
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4))
    standard = ItemTable(4, 8, RAW, normalise="standardised").embeddings[1:]
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(3))


@pytest.mark.parametrize("normalise", ["none", "unit", "whitened"])
def test_a_scale_multiplies_items_once_they_are_normalised(normalise):
    plain, scaled = (ItemTable(4, 8, RAW, normalise=normalise, scale=scale).embeddings for scale in (1.0, 100.0))
    torch.testing.assert_close(scaled, 100 * plain)


def test_free_vectors_start_as_asked():
    """Official: N(0, 1), the padding row too, which no gradient reaches [C]."""
    torch.manual_seed(0)
    official, scaled = (ItemTable(2000, 16, initialisation=start).ids for start in ("official", "scaled"))
    assert official.weight.std().item() == pytest.approx(1, abs=0.02)
    assert scaled.weight.std().item() == pytest.approx(0.02, abs=0.0004)
    assert official.weight[0].abs().min() > 0
    assert scaled.weight[0].abs().max() == 0
    (official(torch.tensor([0, 1])) ** 2).sum().backward()
    assert official.weight.grad[0].abs().max() == 0
    assert official.weight.grad[1].abs().min() > 0


def test_whitened_rows_are_uncorrelated_and_a_dead_axis_stays_dead():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 6)) + 5  # four axes in six
    given = rows.astype(np.float32)
    found = normalise_rows(given, given, "whitened").astype(np.float64)
    covariance = found.T @ found / 200
    np.testing.assert_allclose(covariance, np.diag([1, 1, 1, 1, 0, 0]), atol=1e-4)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
