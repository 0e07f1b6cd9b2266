"""Synthetic: a small store, made from a seed, whose best possible recommender is known.

Two domains, `games` (in-domain) and `crafts` (out-of-domain), share 48 invented franchises and the words for editions;
their kinds of product differ. A title reads `franchise kind platform edition`. A user has one hidden taste z. What comes
next is drawn from the items of the user's domain not yet consumed, with probability proportional to

    similarity * S(i | last item) + taste * C(i | z) + popularity * P(i) + noise / N

S  what titles show: shared franchise, kind, platform.
C  what no title shows: each pair of franchise and kind belongs to one of 12 tastes. A franchise's kinds are split
   between two tastes, and a taste joins parts of eight franchises. The two tastes are the same in both domains.
P  Zipf-like, with its head flattened; it also orders the items of a taste.

Because the process is known, so is the posterior of z after any history (exact Bayes), hence the true probability of each
next item: ranking by it is the *oracle*, the ceiling of Recall and NDCG at any k.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm2rec_kit.corpus import Corpus, read_plain_titles
from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.settings import Data


@dataclass(frozen=True)
class Weights:
    """Shares of the four components of what comes next; they add up to 1."""

    similarity: float = 0.25  # S: what titles show
    taste: float = 0.55  # C: co-consumption that no title shows
    popularity: float = 0.12  # P
    noise: float = 0.08  # uniform


WEIGHTS = Weights()
TASTES = 12
FIRST = [
    *("Ember", "Silver", "Hollow", "Crimson", "Northern", "Velvet", "Iron", "Lunar"),
    *("Amber", "Thunder", "Quiet", "Golden", "Frost", "Shadow", "Copper", "Wild"),
    *("Crystal", "Ancient", "Storm", "Paper", "Neon", "Royal", "Salt", "Hidden"),
]
SECOND = [
    *("Harbor", "Vale", "Lantern", "Orchard", "Citadel", "Fox", "Meridian", "Garden"),
    *("Compass", "Raven", "Tide", "Forge", "Canyon", "Willow", "Banner", "Comet"),
    *("Atlas", "Burrow", "Signal", "Mosaic", "Summit", "Voyager", "Thistle", "Drake"),
]
FRANCHISES = [f"{FIRST[f % 24]} {SECOND[(7 * f + 5 * (f // 24)) % 24]}" for f in range(48)]
EDITIONS = ["", " - Deluxe Edition", " - Collector's Edition", " - Anniversary Edition", " - Starter Bundle"]
KINDS = {
    "games": [
        *("Racing", "Role-Playing Game", "Puzzle Quest", "Platformer", "Strategy", "Party Game"),
        *("Flight Simulator", "Tennis", "Wireless Controller", "Stereo Headset", "Carrying Case", "Strategy Guide"),
    ],
    "crafts": [
        *("Yarn", "Cross Stitch Kit", "Sticker Set", "Watercolor Paint", "Quilting Fabric", "Rubber Stamp"),
        *("Bead Box", "Sketchbook", "Sewing Pattern", "Ribbon", "Modeling Clay", "Washi Tape"),
    ],
}
FORMS = {
    "games": [" for Nova One", " for Nova Two", " for Pocketron", " for Omnicube", " for PC", " for Streamdeck"],
    "crafts": [", Small", ", Medium", ", Large", ", Travel Size", ", Pack of 6", ", Pack of 24"],
}
SHARES = {"games": 2 / 3, "crafts": 1 / 3}  # of the items and of the users
DAY = 86_400_000  # milliseconds
OPENED = 1_451_606_400_000  # 2016-01-01, when the first users come
SPREAD = 4 * 365 * DAY  # they come over four years


@dataclass(frozen=True, eq=False)
class Shelf:
    """One domain of the store: N items and the components of what comes next, each row adding up to 1."""

    items: pl.DataFrame  # source_id, title, domain, category
    similarity: NDArray[np.float64]  # (N, N): S(column | row)
    taste: NDArray[np.float64]  # (TASTES, N): C
    popularity: NDArray[np.float64]  # (N,): P


@dataclass(frozen=True, eq=False)
class History:
    """What the users of one domain consumed: U users, at most L items each."""

    items: NDArray[np.int64]  # (U, L): indices into the shelf, -1 after the end
    times: NDArray[np.int64]  # (U, L): milliseconds since 1970
    tastes: NDArray[np.int64]  # (U,): the hidden z


def load(settings: Data) -> Interactions:
    """Make the store of `settings.seed` with `synthetic_users` users and `synthetic_items` items over both domains."""
    if settings.domain:
        raise ValueError(
            f"data_domain names the domain of a one-domain source; the synthetic store has {list(SHARES)}. "
            "Leave it empty; data_train_domains chooses what training sees."
        )
    items, events = [], []
    for name in SHARES:
        shelf, history, users = _part(settings, name)
        row, step = np.nonzero(history.items >= 0)
        ids = shelf.items["source_id"].to_numpy()[history.items[row, step]]
        items.append(shelf.items)
        events.append(pl.DataFrame({"user": np.array(users)[row], "item": ids, "time": history.times[row, step]}))
    facts = {"source": "synthetic", "synthetic": True, "weights": asdict(WEIGHTS), "seed": settings.seed}
    return Interactions(items=pl.concat(items), events=pl.concat(events), domains_in=["games"], facts=facts)


def explain(settings: Data) -> pl.DataFrame:
    """List the components of what comes next, one a row: component, weight, meaning, whether titles show it."""
    n = settings.synthetic_items
    meanings = {
        "similarity": ("shares franchise, kind or platform with the last item", "yes"),
        "taste": (f"belongs to the user's hidden taste, one of {TASTES}, each joining parts of eight franchises", "no"),
        "popularity": (f"Zipf-like over each domain's share of the {n:,} items", "no"),
        "noise": ("any item, all alike", "no"),
    }
    rows = [(name, weight, *meanings[name]) for name, weight in asdict(WEIGHTS).items()]
    return pl.DataFrame(rows, schema=["component", "weight", "meaning", "titles show it"], orient="row")


def oracle_ranks(corpus: Corpus, settings: Data) -> NDArray[np.int32]:
    """Rank each test target of a synthetic corpus, or a part of it, by the true probability of what comes next.

    Returns int32 (n_test,), 1 = best. The candidates are the corpus's items of the user's domain; ties count against the
    target. The probability is given the user's whole history in the store, cleaned or not, with the taste integrated out;
    items already consumed have 0. `settings` must be those that made the corpus: ValueError otherwise.
    """
    targets = corpus.samples("test")
    owners, ranks = corpus.owners(targets), np.zeros(len(targets), dtype=np.int32)
    user_domains = corpus.users["domain"].to_numpy()[owners]
    for name in corpus.domains:
        if name not in SHARES:
            raise ValueError(f"No domain {name!r} in the synthetic store, which has {list(SHARES)}: there is no oracle.")
        shelf, history, users = _part(settings, name)
        here = np.flatnonzero(user_domains == name)
        shelf_of = _shelf_index(corpus, shelf, name)
        rows = _rows_of(corpus.users["source_id"].to_numpy()[owners[here]], users)
        wanted = shelf_of[corpus.sequence[targets[here]]]
        found = history.items[rows] == wanted[:, None]
        if not found.any(axis=1).all():
            raise ValueError("The corpus was not made by these settings: a test target is not in the store's history.")
        before = np.where(np.arange(found.shape[1]) < found.argmax(axis=1)[:, None], history.items[rows], -1)
        candidates = shelf_of[shelf_of >= 0]
        for chunk in np.array_split(np.arange(len(here)), max(1, len(here) // 512)):
            p = next_probabilities(shelf, before[chunk])
            own = p[np.arange(len(chunk)), wanted[chunk]]
            ranks[here[chunk]] = (p[:, candidates] >= own[:, None]).sum(axis=1)
    return ranks


def next_probabilities(shelf: Shelf, histories: NDArray[np.int64], weights: Weights = WEIGHTS) -> NDArray[np.float64]:
    """Compute p(next item | history), float64 (B, N): the taste integrated out exactly; consumed items have 0.

    `histories` is int (B, L), indices into the shelf, oldest first, -1 after the end.
    """
    n, rows = len(shelf.popularity), np.arange(len(histories))
    log_posterior = np.zeros((len(histories), TASTES))
    for step in range(histories.shape[1]):
        present = histories[:, step] >= 0
        left = 1 - _consumed(shelf, histories, step, weights)
        chance = _mixture(shelf, histories[:, step - 1] if step else None, histories[:, step], weights) / left
        log_posterior += np.where(present[:, None], np.log(np.where(present[:, None], chance, 1)), 0)
    posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    lengths = (histories >= 0).sum(axis=1)
    last = np.where(lengths > 0, histories[rows, np.maximum(lengths - 1, 0)], -1)
    share = posterior / (1 - _consumed(shelf, histories, histories.shape[1], weights, last))
    shown = np.where(last[:, None] >= 0, shelf.similarity[last], shelf.popularity)
    base = weights.similarity * shown + weights.popularity * shelf.popularity + weights.noise / n
    p: NDArray[np.float64] = base * share.sum(axis=1, keepdims=True) + weights.taste * (share @ shelf.taste)
    row, at = np.nonzero(histories >= 0)
    p[row, histories[row, at]] = 0
    return p


def make_shelf(name: str, n_items: int, seed: int) -> Shelf:
    """Make the items of domain `name` and their components; memory grows with the square of `n_items` (14 MB at 1,333)."""
    sizes = (len(FRANCHISES), len(KINDS[name]), len(FORMS[name]), len(EDITIONS))
    if not 8 <= n_items <= np.prod(sizes):
        raise ValueError(
            f"The domain {name!r} can have 8 to {np.prod(sizes)} items with distinct titles; found "
            f"{n_items}. Change data_synthetic_items."
        )
    rng = np.random.default_rng([seed, list(SHARES).index(name)])
    codes = rng.choice(np.prod(sizes), n_items, replace=False)
    franchise, kind, form, edition = np.unravel_index(codes, sizes)
    titles = [
        FRANCHISES[f] + " " + KINDS[name][k] + FORMS[name][m] + EDITIONS[e]
        for f, k, m, e in zip(franchise, kind, form, edition, strict=True)
    ]
    ids, kinds = [f"{name}-{i:05d}" for i in range(n_items)], [KINDS[name][k] for k in kind]
    items = pl.DataFrame({"source_id": ids, "title": titles, "domain": name, "category": kinds})
    popularity = 1 / (30 + rng.permutation(n_items))
    shared = sum(w * (a[:, None] == a) for w, a in ((3.0, franchise), (1.5, kind), (0.5, form)))
    similarity = shared**4 + 1e-9  # the rest counts for next to nothing, yet a lone item has neighbours
    np.fill_diagonal(similarity, 0)
    home = _homes(seed, len(KINDS[name]), rng)[franchise, kind]
    taste = (np.arange(TASTES)[:, None] == home) * popularity + 1e-6 * popularity
    return Shelf(items, *(m / m.sum(axis=-1, keepdims=True) for m in (similarity, taste, popularity)))


def make_history(shelf: Shelf, n_users: int, rng: np.random.Generator, weights: Weights = WEIGHTS) -> History:
    """Draw histories of `n_users` users, step by step for all at once.

    A component is drawn by its weight, then an item by the component; a consumed item is refused and all is drawn
    again. That is the mixture over the items not yet consumed, exactly, without computing its normaliser.
    """
    n = len(shelf.popularity)
    tastes = rng.integers(TASTES, size=n_users)
    lengths = np.minimum(4 + rng.geometric(1 / 3.5, n_users), min(50, n // 2))
    chosen: NDArray[np.int64] = np.full((n_users, lengths.max()), -1)
    tables = {name: _ladder(getattr(shelf, name)) for name in ("similarity", "taste", "popularity")}
    edges = np.cumsum([weights.similarity, weights.taste, weights.popularity])
    for step in range(chosen.shape[1]):
        waiting = np.flatnonzero(lengths > step)
        while len(waiting):
            which = np.searchsorted(edges, rng.random(len(waiting)), side="right")
            which = np.where((which == 0) & (step == 0), 2, which)  # no last item yet: its share is popularity's
            rungs = rng.random(len(waiting))
            item = (rungs * n).astype(np.int64)
            rows = {"similarity": chosen[waiting, step - 1], "taste": tastes[waiting], "popularity": np.zeros_like(item)}
            for k, (name, row) in enumerate(rows.items()):
                own = which == k
                item[own] = np.searchsorted(tables[name], row[own] + rungs[own], side="right") - row[own] * n
            item = np.minimum(item, n - 1)
            refused = (chosen[waiting] == item[:, None]).any(axis=1)
            chosen[waiting[~refused], step] = item[~refused]
            waiting = waiting[refused]
    start = OPENED + (rng.random(n_users) * SPREAD).astype(np.int64)
    gaps = 60_000 + (rng.exponential(40 * DAY, chosen.shape)).astype(np.int64)
    return History(chosen, start[:, None] + np.cumsum(gaps, axis=1), tastes)


def _part(settings: Data, name: str) -> tuple[Shelf, History, list[str]]:
    """Shelf, history and user ids of a domain."""
    place = list(SHARES).index(name)
    ends = np.concatenate([[0], np.cumsum(list(SHARES.values()))])
    users = np.rint(ends * settings.synthetic_users).astype(int)
    items = np.rint(ends * settings.synthetic_items).astype(int)
    shelf = make_shelf(name, items[place + 1] - items[place], settings.seed)
    rng = np.random.default_rng([settings.seed, place, 1])
    history = make_history(shelf, users[place + 1] - users[place], rng)
    return shelf, history, [f"u{u:05d}" for u in range(users[place], users[place + 1])]


def _homes(seed: int, kinds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Taste (int (48, kinds)) of each franchise and kind; a franchise's two tastes do not depend on the domain."""
    order = np.random.default_rng([seed, 99]).permutation(len(FRANCHISES))
    main, other = order % TASTES, (order + 1 + order // TASTES) % TASTES
    split = rng.random((len(FRANCHISES), kinds)).argsort(axis=1) < kinds // 2
    return np.where(split, main[:, None], other[:, None])


def _mixture(shelf: Shelf, last: NDArray[np.int64] | None, item: NDArray[np.int64], weights: Weights) -> NDArray[np.float64]:
    """similarity * S + taste * C + ... of one item a row under each taste, (B, TASTES); `last` -1 or None: no last."""
    popularity = shelf.popularity[item]
    shown = popularity if last is None else np.where(last >= 0, shelf.similarity[last, item], popularity)
    base = weights.similarity * shown + weights.popularity * popularity + weights.noise / len(shelf.popularity)
    return base[:, None] + weights.taste * shelf.taste[:, item].T


def _consumed(
    shelf: Shelf, histories: NDArray[np.int64], steps: int, weights: Weights, last: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Mixture mass (B, TASTES) of what was consumed in the first `steps` steps; `last` defaults to the latest."""
    mass = np.zeros((len(histories), TASTES))
    last = histories[:, steps - 1] if last is None else last
    for step in range(steps):
        present = histories[:, step] >= 0
        mass += np.where(present[:, None], _mixture(shelf, last, histories[:, step], weights), 0)
    return mass


def _ladder(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative rows of `table`, row r shifted by r and all laid end to end: one searchsorted draws from any row."""
    rows = np.cumsum(np.atleast_2d(table), axis=1)
    rows /= rows[:, -1:]
    return (rows + np.arange(len(rows))[:, None]).ravel()


def _shelf_index(corpus: Corpus, shelf: Shelf, name: str) -> NDArray[np.int64]:
    """Index into the shelf (int64 (N + 1,)) of each corpus item, by its plain title; -1 for padding and other domains."""
    place = {(s, t): i for i, (s, t) in enumerate(shelf.items.select("source_id", "title").iter_rows())}
    items = corpus.items.with_columns(read_plain_titles(corpus.items)).filter(domain=name)
    index = np.full(corpus.n_items + 1, -1)
    for item, source, title in items.select("item", "source_id", "title").iter_rows():
        if (source, title) not in place:
            raise ValueError(f"The corpus was not made by these settings: the store has no item {source} {title!r}.")
        index[item] = place[source, title]
    return index


def _rows_of(ids: np.ndarray, users: list[str]) -> NDArray[np.int64]:
    place = {u: i for i, u in enumerate(users)}
    if missing := [u for u in ids.tolist() if u not in place]:
        raise ValueError(f"The corpus was not made by these settings: the store has no user {missing[0]!r}.")
    return np.array([place[u] for u in ids.tolist()], dtype=np.int64)
