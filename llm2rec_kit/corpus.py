"""Corpus: items, sequences of what users consumed, and the samples cut from them.

Item ids run 1..N; 0 is padding. A *sample* is a target position in the flat array of sequences: its history is the up to
`max_history` items of the same user before it (paper sec. 3.1). Every stage reads this class and nothing else of the data.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm2rec_kit.storage import as_plain, make_safe_name

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}
NOT_ATTRIBUTES = ("item", "source_id", "domain", "plain_title")  # columns of items that say nothing of what an item is


class CorpusError(ValueError):
    """A corpus that breaks its own contract; the message names the column or array and the first bad value."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """N items, U users, T interactions, S samples.

    items        DataFrame: item (Int32, 1..N in order), source_id, title, domain (str), further columns as found.
    users        DataFrame: user (Int32, 0..U-1 in order), source_id, domain (str).
    offsets      int64 (U+1,): user u consumed sequence[offsets[u]:offsets[u+1]], oldest first.
    sequence     int32 (T,): item ids.
    times        int64 (T,) milliseconds since 1970, or None where the source has none.
    targets      int64 (S,): each sample's target as an index into `sequence`.
    splits       uint8 (S,): TRAIN, VALID or TEST of each sample.
    max_history  most items in a sample's history.
    facts        plain values worth keeping: source, split rule, cleaning steps, training domains.
    """

    items: pl.DataFrame
    users: pl.DataFrame
    offsets: NDArray[np.int64]
    sequence: NDArray[np.int32]
    times: NDArray[np.int64] | None
    targets: NDArray[np.int64]
    splits: NDArray[np.uint8]
    max_history: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.items)

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.users)

    @property
    def titles(self) -> list[str]:
        """Titles of items 1..N: `titles[i - 1]` is item i's."""
        return self.items["title"].to_list()

    @property
    def domains(self) -> list[str]:
        """The domains, in the order of their first item."""
        return self.items["domain"].unique(maintain_order=True).to_list()

    @property
    def train_domains(self) -> list[str]:
        """The domains that training stages may see; the rest are out-of-domain."""
        return list(self.facts.get("train_domains") or self.domains)

    @property
    def sources(self) -> dict[str, Any]:
        """Where each domain is from, by its name; None where nothing says."""
        known, same = self.facts.get("sources", {}), self.facts.get("source")
        return {d: known.get(d, same) for d in self.domains}

    @property
    def split_rules(self) -> dict[str, str]:
        """How each domain was split: {domain: leave_one_out, global_time, given, or "" where nothing says}."""
        rules, same = self.facts.get("split_rules", {}), self.facts.get("split") or ""
        return {d: rules.get(d, same) for d in self.domains}

    def samples(self, split: str) -> NDArray[np.int64]:
        """Return the targets (int64, indices into `sequence`) of the samples of a split, in the corpus's order."""
        wanted: NDArray[np.bool_] = self.splits == SPLITS[split]
        return self.targets[wanted]

    def owners(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the user (int64) of each target."""
        return np.searchsorted(self.offsets, targets, side="right") - 1

    def starts(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the index into `sequence` at which each target's history begins (int64)."""
        return np.maximum(self.offsets[self.owners(targets)], targets - self.max_history)

    def history(self, target: int) -> NDArray[np.int32]:
        """Return the item ids (int32) before `target`, oldest first, at most `max_history`."""
        start = self.starts(np.asarray([target]))[0]
        return self.sequence[start:target]

    def select(self, domains: list[str]) -> tuple[Corpus, NDArray[np.int64]]:
        """Cut out the part of the corpus in `domains`, items renumbered 1..n. Returns (corpus, ids) with ids int64 (n+1,),
        ids[0] = 0: rows `ids` of an embedding table are the part's table."""
        if unknown := [d for d in domains if d not in self.domains]:
            raise CorpusError(f"No such domain {unknown}; the corpus has {self.domains}.")
        keep_items = self.items["domain"].is_in(domains).to_numpy()
        keep_users = self.users["domain"].is_in(domains).to_numpy()
        ids = np.concatenate([[0], np.flatnonzero(keep_items) + 1])
        new_id = np.zeros(self.n_items + 1, dtype=np.int32)
        new_id[ids] = np.arange(len(ids))
        lengths = np.diff(self.offsets)
        kept = np.repeat(keep_users, lengths)
        moved = np.cumsum(kept) - 1  # where a kept interaction stands in the new flat array
        in_part = kept[self.targets]
        return replace(
            self,
            items=self.items.filter(keep_items).with_columns(item=pl.int_range(1, len(ids), dtype=pl.Int32)),
            users=self.users.filter(keep_users).with_columns(user=pl.int_range(0, keep_users.sum(), dtype=pl.Int32)),
            offsets=np.concatenate([[0], np.cumsum(lengths[keep_users])]).astype(np.int64),
            sequence=new_id[self.sequence[kept]],
            times=None if self.times is None else self.times[kept],
            targets=moved[self.targets[in_part]].astype(np.int64),
            splits=self.splits[in_part],
            facts={**self.facts, "selected": list(domains)},
        ), ids

    def count_drawn(self, share: float) -> int:
        """Count the users that `draw_users` draws for a share: one at least."""
        return max(1, round(share * self.n_users))

    def draw_users(self, share: float, seed: int) -> Corpus:
        """Keep the training and validation samples of a `share` of the users, drawn by `seed`, and every test sample.

        Those of a smaller share are among those of a larger one. Sequences and items stay whole; a share of 1 is the corpus.
        """
        if share == 1:
            return self
        drawn = np.zeros(self.n_users, dtype=bool)
        drawn[np.random.default_rng(seed).permutation(self.n_users)[: self.count_drawn(share)]] = True
        kept = drawn[self.owners(self.targets)] | (self.splits == TEST)
        return replace(self, targets=self.targets[kept], splits=self.splits[kept])

    def list_empty_draws(self, shares: Sequence[float], seeds: Sequence[int]) -> list[tuple[float, int, str]]:
        """List where `draw_users` leaves nothing to learn from, as (share, seed, the split without a sample: train or valid)."""
        drawn = ((share, seed, self.draw_users(share, seed)) for share in shares for seed in seeds)
        return [
            (share, seed, split) for share, seed, c in drawn for split in ("train", "valid") if not len(c.samples(split))
        ]

    def statistics(self) -> pl.DataFrame:
        """Count users, items, interactions and samples by split: one row a domain, and a total where there are several."""
        parts = [(d, self.select([d])[0]) for d in self.domains] if len(self.domains) > 1 else []
        rows = [*parts, ("total" if parts else self.domains[0], self)]
        return pl.DataFrame(
            [
                {
                    "domain": name,
                    "users": c.n_users,
                    "items": c.n_items,
                    "interactions": len(c.sequence),
                    "samples": len(c.targets),
                    **{s: int((c.splits == k).sum()) for s, k in SPLITS.items()},
                    "mean length": round(len(c.sequence) / max(1, c.n_users), 2),
                }
                for name, c in rows
            ]
        )

    def check(self) -> Corpus:
        """Return the corpus, or raise CorpusError naming what breaks the contract above."""
        n, t = self.n_items, len(self.sequence)
        _expect((self.items["item"].to_numpy() == np.arange(1, n + 1)).all(), "items.item must be 1..N in order")
        _expect(n > 0 and self.n_users > 0, f"a corpus needs items and users; found {n} items, {self.n_users} users")
        _expect(self.items["title"].null_count() == 0, "items.title has nulls")
        for domain, name in folder_names(self.domains).items():
            _expect(domain == name, f"the domain {domain!r} cannot be the name of a folder, {name!r} could")
        _expect(
            len(self.offsets) == self.n_users + 1
            and self.offsets[0] == 0
            and self.offsets[-1] == t
            and (np.diff(self.offsets) >= 0).all(),
            "offsets must rise from 0 to the number of interactions",
        )
        _expect(t == 0 or (self.sequence.min() >= 1 and self.sequence.max() <= n), f"sequence must hold item ids 1..{n}")
        _expect(self.times is None or len(self.times) == t, "times must be as long as sequence")
        mixed = self._foreign()
        _expect(
            not len(mixed),
            f"a user's items must be of the user's domain (`select` counts on it); {len(mixed)} "
            f"interactions are not, the first at sequence[{mixed[0] if len(mixed) else 0}]",
        )
        if self.times is not None:
            backward = np.setdiff1d(np.flatnonzero(np.diff(self.times) < 0) + 1, self.offsets)
            _expect(not len(backward), f"times must not fall within a user; they do at {backward[:1]}")
        _expect(len(self.splits) == len(self.targets), "splits must be as long as targets")
        if len(self.targets):
            _expect(self.targets.min() >= 0 and self.targets.max() < t, "targets must index sequence")
            _expect((self.starts(self.targets) < self.targets).all(), "a sample has an empty history")
        return self

    def _foreign(self) -> NDArray[np.int64]:
        """Indices into `sequence` of items that are of another domain than their user."""
        codes = pl.concat([self.items["domain"], self.users["domain"]]).rank("dense").to_numpy()
        of_items, of_users = codes[: self.n_items][self.sequence - 1], codes[self.n_items :]
        return np.flatnonzero(of_items != np.repeat(of_users, np.diff(self.offsets)))

    def save(self, folder: Path) -> None:
        """Write items.parquet, users.parquet, sequences.parquet, samples.parquet and corpus.json into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.items.write_parquet(folder / "items.parquet")
        self.users.with_columns(length=pl.Series(np.diff(self.offsets))).write_parquet(folder / "users.parquet")
        sequences = {"item": self.sequence} | ({} if self.times is None else {"time": self.times})
        pl.DataFrame(sequences).write_parquet(folder / "sequences.parquet")
        pl.DataFrame({"target": self.targets, "split": self.splits}).write_parquet(folder / "samples.parquet")
        facts = {"max_history": self.max_history, "facts": self.facts}
        (folder / "corpus.json").write_text(json.dumps(facts, indent=1, default=as_plain) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Read the corpus that `save` wrote; CorpusError for a domain whose folder of results would lie outside the run."""
        folder = Path(folder)
        items = pl.read_parquet(folder / "items.parquet")
        if away := [d for d in items["domain"].unique() if len(Path(d).parts) != 1 or d.startswith(".")]:
            raise CorpusError(
                f"The corpus in {folder} has the domain {away[0]!r}, and results are kept in folders of that name: make it anew "
                "with notebooks/01_data_prep.ipynb, which gives domains safe names."
            )
        users = pl.read_parquet(folder / "users.parquet")
        sequences = pl.read_parquet(folder / "sequences.parquet")
        samples = pl.read_parquet(folder / "samples.parquet")
        about = json.loads((folder / "corpus.json").read_text())
        return cls(
            items=items,
            users=users.drop("length"),
            offsets=np.concatenate([[0], np.cumsum(users["length"].to_numpy())]).astype(np.int64),
            sequence=sequences["item"].to_numpy(),
            times=sequences["time"].to_numpy() if "time" in sequences.columns else None,
            targets=samples["target"].to_numpy(),
            splits=samples["split"].to_numpy(),
            max_history=about["max_history"],
            facts=about["facts"],
        )


Parts = Mapping[str, tuple[Corpus, NDArray[Any]]]  # {domain: (corpus, ids)} as `Corpus.select` gives them


def attribute_columns(items: pl.DataFrame) -> list[str]:
    """List the columns of `items` that are attributes, text or numbers, `title` among them; empty where that is all."""
    texts = [c for c, kind in items.schema.items() if kind == pl.String or kind.is_numeric()]
    found = [c for c in texts if c not in NOT_ATTRIBUTES]
    return found if len(found) > 1 else []


def read_plain_titles(items: pl.DataFrame) -> pl.Series:
    """Read the titles themselves, strings in the order of `items`, also where the column `title` holds a text made of more.

    In a mix of parts with and without such texts `plain_title` is null for the items of the latter: their `title` is plain.
    """
    known = [pl.col(c) for c in ("plain_title", "title") if c in items.columns]
    return items.select(pl.coalesce(known).alias("title")).to_series()


def folder_names(domains: Iterable[str]) -> dict[str, str]:
    """Return {domain: the folder under which a run keeps its results}, a safe name (`storage.make_safe_name`).

    >>> folder_names(["Home/Kitchen", "Games"])
    {'Home/Kitchen': 'Home_Kitchen', 'Games': 'Games'}

    Raises CorpusError for a domain that no folder can be named after, and for two of one folder, which may differ in case.
    """
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for domain in domains:
        try:
            name = make_safe_name(domain or "")
        except ValueError as error:
            raise CorpusError(f"A domain is the name of a folder of results, too: {error}") from None
        if name.lower().endswith(".json"):  # a run's manifests end so
            name = f"{name[:-5]}_{name[-4:]}"
        found[domain] = name
        if (other := owners.setdefault(unicodedata.normalize("NFC", name).casefold(), domain)) != domain:
            raise CorpusError(
                f"The domains {other!r} and {domain!r} would have one folder of results, {name!r}: give one of them another name."
            )
    return found


def mix(corpora: Sequence[Corpus]) -> Corpus:
    """Put several corpora together, as the paper's Mix-6: items, users and samples in the order given, ids disjoint.

    `select` with a part's domains gives the part back. CorpusError for a domain in two parts and for another `max_history`.
    Where a part has no times, the mix has none; `facts` then says whose are missing. Training domains are the parts' own.
    """
    if not corpora:
        raise CorpusError("A mix needs one corpus at least; found none.")
    _expect_mixable(corpora)
    item_shifts = _shifts([c.n_items for c in corpora])
    user_shifts = _shifts([c.n_users for c in corpora])
    shifts = _shifts([len(c.sequence) for c in corpora])
    untimed = [d for c in corpora if c.times is None for d in c.domains]
    rules = {d: rule for c in corpora for d, rule in c.split_rules.items()}
    facts = {
        "source": _common([c.facts.get("source") for c in corpora]),
        "split": _common([c.facts.get("split") for c in corpora]),
        **({"split_rules": rules} if len(set(rules.values())) > 1 or any("split_rules" in c.facts for c in corpora) else {}),
        "cleaning": [
            s | {"step": f"{'+'.join(c.domains)}: {s['step']}"} for c in corpora for s in c.facts.get("cleaning", [])
        ],
        "train_domains": [d for c in corpora for d in c.train_domains],
        "duplicate_titles": sum(c.facts.get("duplicate_titles", 0) for c in corpora),
        "sources": {d: source for c in corpora for d, source in c.sources.items()},
        **({"times_left_out": f"{untimed} have none"} if untimed else {}),
    }
    return Corpus(
        items=_stacked(
            "item", [c.items.with_columns(pl.col("item") + n) for c, n in zip(corpora, item_shifts, strict=True)]
        ),
        users=_stacked(
            "user", [c.users.with_columns(pl.col("user") + n) for c, n in zip(corpora, user_shifts, strict=True)]
        ),
        offsets=np.concatenate([[0], *(c.offsets[1:] + n for c, n in zip(corpora, shifts, strict=True))]).astype(np.int64),
        sequence=np.concatenate([c.sequence + np.int32(n) for c, n in zip(corpora, item_shifts, strict=True)]),
        times=None if untimed else np.concatenate([c.times for c in corpora]),
        targets=np.concatenate([c.targets + n for c, n in zip(corpora, shifts, strict=True)]),
        splits=np.concatenate([c.splits for c in corpora]),
        max_history=corpora[0].max_history,
        facts=facts,
    ).check()


def _expect_mixable(corpora: Sequence[Corpus]) -> None:
    histories = sorted({c.max_history for c in corpora})
    if len(histories) > 1:
        raise CorpusError(f"Corpora of one mix need the same max_history; found {histories}. Make them anew with one value.")
    domains = [d for c in corpora for d in c.domains]
    if twice := sorted({d for d in domains if domains.count(d) > 1}):
        raise CorpusError(f"The domains {twice} are in several parts of the mix: give each part its own name (data_domain).")


def _stacked(number: str, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Frames one under another; a column that some lack is null there."""
    return pl.concat(frames, how="diagonal_relaxed").with_columns(pl.col(number).cast(pl.Int32))


def _shifts(lengths: list[int]) -> list[int]:
    return [0, *np.cumsum(lengths)[:-1].tolist()]


def _common(values: list[Any]) -> Any:
    """The value that all share, else the distinct ones joined by " + "."""
    return values[0] if len(set(values)) == 1 else " + ".join(dict.fromkeys(map(str, values)))


def _expect(holds: bool | np.bool_, what: str) -> None:
    if not holds:
        raise CorpusError(f"Not a sound corpus: {what}.")
