"""Figures of notebooks 01 to 03: what they say of spaces, masks and weights, and that no legend lies on what it names."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.figures import training_figures
from llm2rec_kit.maps import cooccurrence


def measure_first_shares(table, domains):
    """The share of the first direction that is drawn, and the effective rank in the legend."""
    figure = training_figures.draw_spectra({"csft": table}, pl.Series(domains))
    (line,) = figure.axes[0].lines
    return float(line.get_ydata()[0]), int(re.search(r"\d+$", line.get_label())[0]), figure.get_supxlabel()


def test_domains_that_lie_apart_are_no_direction_of_a_space():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(401, 16)).astype(np.float32)
    domains = ["games"] * 250 + ["crafts"] * 150
    first, rank, said = measure_first_shares(table, domains)
    assert said.endswith("400 items, each about its domain's mean (games, crafts).")
    table[251:] += 50
    assert measure_first_shares(table, domains)[:2] == (pytest.approx(first, abs=1e-4), rank)
    alone, _, said = measure_first_shares(table, ["games"] * 400)
    assert alone > 0.9
    assert said.endswith("400 items of games.")


def test_figures_of_closeness_say_under_which_mask_titles_were_read():
    corpus = make_corpus(users=30, items=40, seed=1)
    tables = {"raw": np.random.default_rng(0).normal(size=(41, 5)).astype(np.float32)}
    pairs = np.array([[1, 2], [3, 4], [5, 9]])
    figure = training_figures.draw_similarities(tables, pairs, pairs[::-1, ::-1] + 1, mask="bidirectional")
    assert figure.get_supxlabel().startswith("Mask: bidirectional. 3 pairs")
    found = cooccurrence.measure_closeness(cooccurrence.list_pairs(corpus), tables)
    assert training_figures.draw_closeness(found, mask="causal").get_supxlabel().startswith("Mask: causal. Means")


@pytest.mark.parametrize(("first", "extend"), [(1.0, "max"), (0.4, "neither")])
def test_a_colour_bar_says_that_weights_lie_above_it(first, extend, monkeypatch):
    given = {}
    monkeypatch.setattr(training_figures.PlainFigure, "colorbar", lambda self, drawn, **asked: given.update(asked))
    weight = np.array([[first, 0, 0], [0.5, 0.5, 0], [0.4, 0.3, 0.3]])
    training_figures.draw_attention_weights({"causal": weight}, ["a", "b", "c"])
    assert given["extend"] == extend


def test_a_title_of_one_token_has_its_weights_drawn():
    training_figures.draw_attention_weights({"causal": np.ones((1, 1))}, ["a"])


def test_legends_lie_outside_the_axes():
    corpus = make_corpus(users=30, items=40, seed=1)
    table = np.random.default_rng(0).normal(size=(41, 5)).astype(np.float32)
    pairs = np.array([[1, 2], [3, 4], [5, 9]])
    for figure in (
        training_figures.draw_split_timeline(
            dataclasses.replace(corpus, times=86_400_000 * np.arange(len(corpus.sequence)))
        ),
        training_figures.draw_similarities({"raw": table}, pairs, pairs + 1, mask="causal"),
    ):
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert not any(ax.bbox.overlaps(legend.get_window_extent()) for ax in figure.axes)


def test_a_fall_of_a_tenth_is_drawn_as_a_tenth():
    history = [
        {"step": k, "loss": 1.0, "validation_alignment": 0.1, "validation_uniformity": u, "validation_effective_rank": r}
        for k, u, r in ((0, -2.0, 100.5), (9, -2.1, 88.8))
    ]
    axes = {ax.get_title(): ax for ax in training_figures.draw_contrast_curves(history, title="t").axes}
    assert axes["effective rank, 1 is collapsed"].get_ylim()[0] == 0
    assert axes["uniformity, 0 is collapsed"].get_ylim()[1] == 0
