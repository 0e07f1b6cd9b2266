"""What a test may know beforehand, against counts by hand."""

from __future__ import annotations

from shops import ERAS, LETTERS, plain, shop, two_eras

from llm2rec_kit.data import cleaning, leakage


def findings(corpus) -> dict[tuple[str, str], tuple[int, int]]:
    return {(r["finding"], r["split"]): (r["count"], r["of"]) for r in leakage.find_leakage(corpus).to_dicts()}


def test_leakage_counts_by_hand():
    titles = {**LETTERS, "f": "Item a"}
    events = [("u", i, t) for t, i in enumerate("abbc")] + [("v", i, 10 + t // 2) for t, i in enumerate("abdf")]
    assert findings(cleaning.build_corpus(shop(events, titles), plain())) == {
        ("users in several splits", "all"): (2, 2),
        ("users without a training sample", "valid"): (0, 2),
        ("users without a training sample", "test"): (0, 2),
        ("target repeats the last item", "train"): (0, 2),
        ("target repeats the last item", "valid"): (1, 2),
        ("target repeats the last item", "test"): (0, 2),
        ("target's text is in its history", "train"): (0, 2),
        ("target's text is in its history", "valid"): (1, 2),
        ("target's text is in its history", "test"): (1, 2),
        ("target never a training target", "valid"): (1, 2),
        ("target never a training target", "test"): (2, 2),
        ("target nowhere in training", "valid"): (1, 2),
        ("target nowhere in training", "test"): (2, 2),
        ("items with a title of another", "all"): (2, 6),
        ("target older than a training target", "valid"): (1, 2),
        ("target older than a training target", "test"): (1, 2),
        ("target tied in time with the item before", "train"): (1, 2),
        ("target tied in time with the item before", "valid"): (0, 2),
        ("target tied in time with the item before", "test"): (1, 2),
    }


def test_the_leakage_of_a_split_by_time():
    events = [("u", i, t) for t, i in enumerate("abcabcab")] + [("v", i, 20 + t) for t, i in enumerate("ad")]
    events += [("w", i, 10 + t) for t, i in enumerate("abcd")]
    found = findings(cleaning.build_corpus(shop(events, LETTERS), plain(split="global_time")))  # 11 samples: 8, 1, 2
    assert found["users in several splits", "all"] == (1, 3)  # w: its first sample is the training's last
    assert found["users without a training sample", "test"] == (1, 2)
    assert found["target nowhere in training", "test"] == (2, 2)
    assert found["target older than a training target", "test"] == (0, 2)
    assert ("target tied in time with the item before", "valid") in found


def test_the_future_is_that_of_the_own_domain_and_of_the_others_that_train():
    source = two_eras()
    found = findings(cleaning.build_corpus(source, plain(split="global_time")))
    for part in ("valid", "test"):
        assert found["target older than a training target", part] == (0, 4)
        assert found["target older than another domain's", part] == (2, 4)  # those of `old`: `new` trains later
    found = findings(cleaning.build_corpus(source, plain(split="global_time", train_domains=["old"])))
    assert found["target older than another domain's", "test"] == (0, 4)  # `new` does not train, `old` trains earlier
    found = findings(cleaning.build_corpus(source, plain()))
    assert ("target older than a training target", "test") in found
    events = [("u", i, t) for t, i in enumerate("xyzx")] + [("v", i, 3 + t) for t, i in enumerate("xyzx")]
    events += [("w", i, 100 + t) for t, i in enumerate("abca")]
    three = shop(events, dict.fromkeys(ERAS, "Item"), ERAS)
    held = findings(cleaning.build_corpus(three, plain()))
    assert held["target older than a training target", "test"] == (1, 3)  # u's, at 3: v trains on its second, at 4
    assert held["target older than another domain's", "test"] == (2, 3)  # u's and v's: w trains at 101
    held = findings(cleaning.build_corpus(three, plain(train_domains=["old"])))
    assert held["target older than another domain's", "test"] == (0, 3)  # v is of u's own domain


def test_without_training_or_times_the_audit_still_answers():
    found = findings(cleaning.build_corpus(shop([("u", i) for i in "abc"], LETTERS), plain()))
    assert found["target nowhere in training", "test"] == (1, 1)
    assert found["users without a training sample", "test"] == (1, 1)
