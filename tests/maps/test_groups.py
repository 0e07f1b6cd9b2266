"""Clusters and communities that are there are found; names tell the groups apart."""

from __future__ import annotations

import dataclasses

import numpy as np
from conftest import make_corpus
from sklearn.metrics import adjusted_rand_score

from llm2rec_kit.corpus import TRAIN
from llm2rec_kit.maps import groups

RNG = np.random.default_rng(2)


def block_corpus(blocks: int, loose: int = 2):
    """Users who stay within one of `blocks` equal blocks of 16 items, and some items that nobody takes."""
    corpus = make_corpus(users=200, items=16 * blocks + loose, longest=9)
    owners = np.repeat(np.arange(200), np.diff(corpus.offsets))
    sequence = 16 * (owners % blocks) + RNG.integers(1, 17, len(owners))
    return dataclasses.replace(
        corpus, sequence=sequence.astype(np.int32), splits=np.full(len(corpus.targets), TRAIN, np.uint8)
    )


def test_communities_are_found_and_loose_items_have_none():
    corpus = block_corpus(4)
    found = groups.find_communities(corpus, 4, seed=0)
    assert adjusted_rand_score(np.repeat(np.arange(4), 16), found[:64]) > 0.95
    assert (found[64:] == groups.NONE).all()
    assert (groups.find_communities(corpus, 4, seed=0) == found).all()


def test_co_purchases_count_what_follows_what_in_training():
    corpus = make_corpus(users=30)
    expected = np.zeros((corpus.n_items, corpus.n_items))
    for t in corpus.samples("train"):
        a, b = corpus.sequence[t - 1] - 1, corpus.sequence[t] - 1
        expected[a, b] += a != b
    assert (groups.count_co_purchases(corpus).toarray() == expected).all()


def test_clusters_are_found_largest_first():
    truth = np.repeat([0, 1, 2], [10, 30, 20])
    middles = 5 * np.eye(3)
    found = groups.find_clusters((middles[truth] + 0.2 * RNG.normal(size=(60, 3))).astype(np.float32), 3, seed=0)
    assert adjusted_rand_score(truth, found) == 1
    assert np.bincount(found).tolist() == [30, 20, 10]


def test_more_clusters_than_different_items_are_not_asked_for():
    assert groups.find_clusters(np.ones((5, 3), np.float32), 4, seed=0).tolist() == [0] * 5


def test_tiny_corpora_have_one_community():
    corpus = block_corpus(1, loose=0)
    assert set(groups.find_communities(corpus, 1, seed=0)) == {0}


def test_names_are_the_words_that_tell_a_group():
    titles = ["Star Harbor racing for PC", "Star Harbor chess for PC", "Moss yarn, blue 12", "Moss yarn for PC"]
    named = groups.name_groups(titles, np.array([0, 0, 1, 1]))
    assert named[0].split(", ")[0] == "star harbor"
    assert named[1].split(", ")[0] == "moss yarn"
    assert not {"for", "12", "pc"} & {w for name in named.values() for w in name.split(", ")}


def test_a_group_without_a_telling_word_still_has_a_name():
    assert groups.name_groups(["1", "2"], np.array([0, groups.NONE])) == {0: "group 1"}


def test_two_groups_of_the_same_words_have_different_names():
    titles = ["Star Harbor"] * 4 + ["Moss yarn"] * 2
    named = groups.name_groups(titles, np.array([0, 0, 1, 1, 2, 2]))
    assert named == {0: "star harbor", 1: "star harbor (2)", 2: "moss yarn"}


def test_by_size_numbers_from_the_largest():
    assert groups.number_by_size(np.array([5, 2, 2, 9, 9, 2])).tolist() == [2, 0, 0, 1, 1, 0]
