"""Preconditions: what the later notebooks need of a corpus, looked at before the first long step instead of at its end."""

from __future__ import annotations

import numpy as np

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import times
from llm2rec_kit.paper_statistics import match_domains
from llm2rec_kit.settings import Data


def check(corpus: Corpus, *, to_train: bool = False) -> list[str]:
    """Raise ValueError, one paragraph with all that is in the way, where the notebooks after 01 could not use `corpus`.

    With `to_train` also where a domain has nothing to train on. Returns remarks: what stops nothing yet but should be seen.
    """
    trained = set(corpus.users["domain"].gather(np.unique(corpus.owners(corpus.samples("train")))))
    untrained = [f"the domain {domain!r} has no train sample" for domain in corpus.domains if domain not in trained]
    faults = [fault for domain in corpus.domains for fault in _domain_faults(corpus, domain)] + _text_faults(corpus)
    if faults := [*faults, *(untrained if to_train else ())]:
        raise ValueError(
            f"The notebooks after 01 cannot go on with this corpus: {'; '.join(faults)}. Keep more data (data_users, "
            f"data_min_interactions, data_start, data_end, data_title_rules{_list_steps(corpus)}), or leave the domain out of the "
            "source."
        )
    return [*(f"{one}: no notebook can train on it" for one in untrained), *_odd_times(corpus)]


def check_train_domains(settings: Data, found: list[str]) -> None:
    """Raise ValueError where `settings.train_domains` names what is none of the domains `found` in a source, before it is
    cleaned."""
    if unknown := [name for name in match_domains(settings.train_domains, found) if name not in found]:
        raise ValueError(
            f"data_train_domains names {unknown}; the source {settings.source!r} has {found}. Set it to some of those, or to [] "
            "(all of them), as for a corpus that becomes part of a mix (docs/data.md)."
        )


def _list_steps(corpus: Corpus) -> str:
    """What each cleaning step dropped, for the error; empty where none did, or nothing is known."""
    dropped = [f"{row['step']} {row['rows_dropped']:,}" for row in corpus.facts.get("cleaning", []) if row["rows_dropped"]]
    return f"; interactions that each step of the cleaning dropped: {', '.join(dropped)}" if dropped else ""


def _domain_faults(corpus: Corpus, domain: str) -> list[str]:
    """Why recommenders of a domain could not be compared."""
    part, _ = corpus.select([domain])
    faults = [f"the domain {domain!r} has no {s} sample" for s in ("valid", "test") if not len(part.samples(s))]
    if part.n_items < 2:
        faults.append(f"the domain {domain!r} has {part.n_items} item, and to rank takes two at least")
    if len(np.unique(part.owners(part.samples("test")))) == 1:
        faults.append(f"the test samples of the domain {domain!r} are of one user, and to compare takes two at least")
    return faults


def _text_faults(corpus: Corpus) -> list[str]:
    """Why a language model could not learn from the training domains."""
    part, _ = corpus.select(corpus.train_domains)
    train, faults = part.samples("train"), []
    if len(train) and (part.sequence[train] == part.sequence[train - 1]).all():
        faults.append("no training sample of the training domains leads from one item to another")
    if len({" ".join(title.casefold().split()) for title in part.titles}) < 2:
        faults.append(
            "the training domains have fewer than two different titles, and contrast needs another to tell one from"
        )
    if blank := sum(not title.strip() for title in corpus.titles):
        faults.append(f"{blank} of {corpus.n_items} items have an empty text, and so no embedding")
    return faults


def _odd_times(corpus: Corpus) -> list[str]:
    """Remarks on years that are likely a wrong unit or a wrong date."""
    return [
        f"{row['domain']}: {row[what]:,} of {row['events']:,} events lie {what} (from {row['earliest']:%Y-%m-%d} to "
        f"{row['latest']:%Y-%m-%d}). Are the source's times what they were taken for?"
        for row in times.describe_span(corpus).iter_rows(named=True)
        for what in times.ODD
        if row[what]
    ]
