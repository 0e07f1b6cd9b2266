"""Preconditions: what the later notebooks need of a corpus, looked at before the first long step instead of at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import times
from llm2rec_kit.maps import projection


def check(corpus: Corpus, parameters: Mapping[str, Any] | None = None) -> list[str]:
    """Raise ValueError, one paragraph with all that is in the way, where no notebook after 01 could use `corpus`.

    `parameters` are those of the notebooks that are to be run, by their flat names, where they are known: then what each of
    them needs is looked at, too. Returns remarks: what does not stop a run but should be seen before it begins.
    """
    known = dict(parameters or {})
    faults = [fault for domain in corpus.domains for fault in _domain_faults(corpus, domain)] + _training_faults(corpus)
    untrained = [f"the domain {domain!r} has no train sample" for domain in _without_training(corpus)]
    faults += untrained if known else []
    if "evaluation_cutoffs" in known and not faults:
        faults += _evaluation_faults(corpus, S.Evaluation.from_parameters(known))
    if "maps_stages" in known and corpus.n_items < projection.FEWEST:
        faults.append(f"a map takes {projection.FEWEST} items at least, and there are {corpus.n_items}")
    if faults:
        raise ValueError(
            f"The notebooks after 01 cannot go on with this corpus: {'; '.join(faults)}. Keep more data (data_users, "
            "data_min_interactions, data_start, data_end, data_title_rules; the table of steps in section 2 of "
            "notebooks/01_data_prep.ipynb shows what each left), leave the domain out of the source, or change the settings named."
        )
    return [*(f"{fault}: nothing can be trained on it" for fault in untrained), *_odd_times(corpus), *_small(corpus, known)]


def _domain_faults(corpus: Corpus, domain: str) -> list[str]:
    """Why recommenders of a domain could not be compared."""
    part, _ = corpus.select([domain])
    faults = [f"the domain {domain!r} has no {s} sample" for s in ("valid", "test") if not len(part.samples(s))]
    if part.n_items < 2:
        faults.append(f"the domain {domain!r} has {part.n_items} item, and to rank takes two at least")
    if len(np.unique(part.owners(part.samples("test")))) == 1:
        faults.append(f"the test samples of the domain {domain!r} are of one user, and to compare takes two at least")
    return faults


def _without_training(corpus: Corpus) -> list[str]:
    trained = set(corpus.users["domain"].gather(np.unique(corpus.owners(corpus.samples("train")))))
    return [domain for domain in corpus.domains if domain not in trained]


def _training_faults(corpus: Corpus) -> list[str]:
    """Why a language model could not learn from the training domains."""
    part, _ = corpus.select(corpus.train_domains)
    train, faults = part.samples("train"), []
    if len(train) and (part.sequence[train] == part.sequence[train - 1]).all():
        faults.append("no training sample of the training domains leads from one item to another")
    if len({" ".join(title.casefold().split()) for title in part.titles}) < 2:
        faults.append(
            "the training domains have fewer than two different titles, and contrast needs another to tell one from"
        )
    if blank := [title for title in corpus.titles if not title.strip()]:
        faults.append(f"{len(blank)} of {corpus.n_items} items have an empty text, and so no embedding")
    return faults


def _evaluation_faults(corpus: Corpus, asked: S.Evaluation) -> list[str]:
    from llm2rec_kit.downstream import evaluation  # imports torch

    faults = []
    for domain in corpus.domains:
        try:
            evaluation.check(asked, corpus.select([domain])[0], evaluation.device_of(asked)[0])
        except ValueError as error:
            faults.append(f"in the domain {domain!r}: {str(error).rstrip('.')}")
    return faults


def _odd_times(corpus: Corpus) -> list[str]:
    """Remarks on years that are likely a wrong unit or a wrong date."""
    spans = times.span(corpus)
    return [
        f"{row['domain']}: {row[what]:,} of {row['events']:,} events lie {what} (from {row['earliest']:%Y-%m-%d} to "
        f"{row['latest']:%Y-%m-%d}). Are the source's times what they were taken for?"
        for row in spans.iter_rows(named=True)
        for what in times.ODD
        if row[what]
    ]


def _small(corpus: Corpus, known: Mapping[str, Any]) -> list[str]:
    """Remarks on batches that are larger than what they are drawn from."""
    part, _ = corpus.select(corpus.train_domains)
    there = {"csft_batch_size": len(part.samples("train")), "contrastive_batch_size": part.items["title"].n_unique()}
    there["mntp_batch_size"] = there["contrastive_batch_size"]
    what = {"csft_batch_size": "training samples"}
    return [
        f"{name} is {known[name]}, and there are {count} {what.get(name, 'titles')}: a step takes them all"
        for name, count in there.items()
        if known.get(name, 0) > count
    ]
