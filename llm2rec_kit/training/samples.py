"""Samples: the text of CSFT as token ids, prepared once as flat arrays that training reads from disk.

The text of a sample is the history's titles joined by ", ", directly followed by the target's title, a newline and
end-of-text; no beginning-of-text token (paper sec. 3.2, official code). Two ways to make it token ids:

joined   the history's text as a whole, the target's as a whole, one after the other: what the official code does.
apart    each title by itself (from the second on with the joiner before it), so each distinct title is tokenised once.
         Differs from `joined` where a tokenizer merges a title's end with the joiner, such as ")" and "," to "),".

Samples of a user that begin at the same history item are one *row*: the longest one's history once, and each sample as a
branch. A branch is the answer (what is predicted) and before it, where the tokens of a shorter history are not a prefix of
the longer one's, the few that differ. With `apart` none do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.fitting import checkpoints
from llm2rec_kit.fitting.ragged import Ragged, compare_pieces, compute_offsets, count_common_prefix, index_spans
from llm2rec_kit.runs.workers import count_cores
from llm2rec_kit.storage import clear, hold_lock, write_json

CHUNK = 20_000  # samples prepared at a time: bounds the memory
TEXTS = 1_000  # texts given to the tokenizer at a time: it keeps some 20 KiB a text until its ids are read
SHAPING = ("tokenisation", "joiner", "ending", "max_tokens", "shared_prefix")  # the settings that samples depend on
PIECES, PLAIN = ("history", "tails", "answers"), ("first", "seen", "item", "target")  # the arrays of `Samples`
ARRAYS = (*PIECES, *(f"{name}_offsets" for name in PIECES), *PLAIN)  # those on disk

Engine = Callable[[Sequence[str]], Ragged]  # texts to token ids
Histories = Callable[[np.ndarray], Ragged]  # samples to token ids


@dataclass(frozen=True, eq=False)
class Samples:
    """S samples in R rows. Arrays are in memory, or memory-mapped where `prepare` had a folder.

    history  R pieces of token ids: each row's history, oldest first, cut to fit `max_tokens`.
    first    int64 (R + 1,): row r holds samples first[r]:first[r + 1].
    seen     int32 (S,): how many of its row's history tokens a sample sees.
    tails    S pieces: the history tokens that a sample has after those, mostly none.
    item     int32 (S,): the target item.
    answers  N + 1 pieces: title, ending and end-of-text of item i; empty for 0.
    target   int64 (S,): the sample as an index into `corpus.sequence`.
    facts    plain numbers: samples, rows, plain_tokens (one row a sample), shared_tokens, label_tokens, truncated;
             of `joined` also tokenised_otherwise (than `apart`) and whole_prefix (samples without a tail).
    """

    history: Ragged
    first: NDArray[np.int64]
    seen: NDArray[np.int32]
    tails: Ragged
    item: NDArray[np.int32]
    answers: Ragged
    target: NDArray[np.int64]
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.seen)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each row (int64)."""
        return np.diff(self.first)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, history and branches (int64)."""
        branch = compute_offsets(self.tails.lengths + self.answers.lengths[self.item])
        return self.history.lengths + branch[self.first[1:]] - branch[self.first[:-1]]

    @property
    def longest(self) -> int:
        """Index of the sample of most tokens, history and answer."""
        return int((self.seen + self.tails.lengths + self.answers.lengths[self.item]).argmax())

    @property
    def saved(self) -> dict[str, float]:
        """Tokens read in one row a sample (plain_tokens) and with shared prefixes (shared_tokens), and their ratio."""
        plain, shared = (self.facts[f"{way}_tokens"] for way in ("plain", "shared"))
        return {"plain_tokens": plain, "shared_tokens": shared, "ratio": plain / shared}

    def alone(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of one sample as the official code writes it: (history, answer)."""
        row = int(np.searchsorted(self.first, sample, side="right")) - 1
        history = self.history[row][: self.seen[sample]]
        return np.concatenate([history, self.tails[sample]]), np.asarray(self.answers[self.item[sample]])


def prepare(
    corpus: Corpus, targets: np.ndarray, tokenizer: PreTrainedTokenizerBase, settings: S.CSFT, folder: Path | None = None
) -> Samples:
    """Prepare the samples `targets` (indices into `corpus.sequence`) as arrays; in `folder`, memory-mapped, if one is given.

    What lies in `folder` is used again where it was made from the same corpus, tokenizer and settings and its files are what
    they were (sizes and hashes, looked at once), and replaced where not. Of several processes that want the same (torchrun)
    one prepares it and the others wait. Raises ValueError for a title without tokens.
    """
    if folder is None:
        return _prepare(corpus, targets, tokenizer, settings)
    key = _key(corpus, targets, tokenizer, settings)
    place = folder / key[:16]
    if _fault(place, key):
        with hold_lock(folder.with_name(f".{folder.name}.lock")):
            if why := _fault(place, key):
                if place.exists():
                    print(f"  csft: the samples in {place} are prepared again: {why}", flush=True)
                _save(_prepare(corpus, targets, tokenizer, settings), place, key)
    return open_samples(place)


def open_samples(folder: Path) -> Samples:
    """Open the samples that `prepare` keeps in `folder`, as they lie there: their hashes are not looked at."""
    facts = json.loads((folder / "facts.json").read_text())
    # Small files are read: an empty array cannot be mapped.
    arrays = {p.stem: np.load(p, mmap_mode="r" if p.stat().st_size > 2**16 else None) for p in folder.glob("*.npy")}
    pieces = {k: Ragged(arrays[k], np.asarray(arrays[f"{k}_offsets"])) for k in PIECES}
    held: dict[str, Any] = {**pieces, **{k: arrays[k] for k in PLAIN}}
    return Samples(**held, facts=facts)


def compare_tokenisations(
    corpus: Corpus, targets: np.ndarray, tokenizer: PreTrainedTokenizerBase, settings: S.CSFT, most: int = 5000
) -> dict[str, Any]:
    """Count how often `apart` and `joined` differ, on at most `most` of the samples drawn by seed.

    {"compared", "tokenised_otherwise", "share", "joined_tokens", "apart_tokens"}: numbers of samples, of history tokens.
    """
    drawn = np.sort(np.random.default_rng(settings.seed).permutation(targets)[:most])
    joined = _joined(corpus, tokenizer, settings.joiner)(drawn)
    apart = _apart(corpus, tokenise(corpus, tokenizer, settings).history, drawn)
    differ = int((~compare_pieces(joined, apart)).sum())
    found = {"compared": len(drawn), "tokenised_otherwise": differ, "share": differ / max(1, len(drawn))}
    return found | {"joined_tokens": len(joined.flat), "apart_tokens": len(apart.flat)}


@dataclass(frozen=True, eq=False)
class Texts:
    """Token ids of the pieces of N titles. history: 2 (N + 1) pieces, item i opening a history, then joiner and item i;
    answers: N + 1."""

    history: Ragged
    answers: Ragged


def tokenise(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, settings: S.CSFT) -> Texts:
    """Tokenise the pieces of every title, each distinct one once; raises ValueError for a title without tokens."""
    distinct, where = np.unique(np.array(corpus.titles, dtype=object), return_inverse=True)
    engine, where = _engine(tokenizer), np.concatenate([[0], where + 1])  # piece 0 is that of padding: empty
    nothing = Ragged.of([np.empty(0, np.int32)])
    opening = engine(distinct.tolist())
    if len(empty := np.flatnonzero(opening.lengths == 0)):
        raise ValueError(
            f"Title {distinct[empty[0]]!r} has no token and so cannot be read or predicted. Drop empty titles in data prep "
            "(notebooks/01_data_prep.ipynb)."
        )
    later = engine([settings.joiner + t for t in distinct])
    end = np.array([tokenizer.eos_token_id], np.int32)
    answers = engine([t + settings.ending for t in distinct])
    ended = Ragged.of([np.concatenate([answers[i], end]) for i in range(len(answers))])
    opening, later, ended = (Ragged.joined([nothing, r]).take(where) for r in (opening, later, ended))
    return Texts(Ragged.joined([opening, later]), ended)


def _prepare(corpus: Corpus, targets: np.ndarray, tokenizer: PreTrainedTokenizerBase, settings: S.CSFT) -> Samples:
    targets = np.sort(np.asarray(targets, dtype=np.int64))
    texts = tokenise(corpus, tokenizer, settings)
    joined = _joined(corpus, tokenizer, settings.joiner) if settings.tokenisation == "joined" else None
    parts = [_part(corpus, part, texts, joined, settings) for part in _chunks(corpus, targets)]
    if not parts:
        nothing = Ragged.of([])
        parts = [{"history": nothing, "counts": [], "seen": [], "tails": nothing, "numbers": {}}]
    history, tails = (Ragged.joined([p[k] for p in parts]) for k in ("history", "tails"))
    item = corpus.sequence[targets].astype(np.int32)
    counts, seen = (np.concatenate([p[k] for p in parts]) for k in ("counts", "seen"))
    labels = int(texts.answers.lengths[item].sum())
    numbers = {k: sum(p["numbers"][k] for p in parts) for k in parts[0]["numbers"]}
    facts = {
        "samples": len(targets),
        "rows": len(history),
        "plain_tokens": numbers.pop("history_tokens", 0) + labels,
        "shared_tokens": len(history.flat) + len(tails.flat) + labels,
        "label_tokens": labels,
        **numbers,
    }
    return Samples(history, compute_offsets(counts), seen.astype(np.int32), tails, item, texts.answers, targets, facts)


def _chunks(corpus: Corpus, targets: np.ndarray) -> Iterator[np.ndarray]:
    """Sorted targets, some `CHUNK` at a time, never cut between samples that begin at the same history item."""
    starts = corpus.starts(targets)
    new = np.flatnonzero(np.diff(starts, prepend=-1) != 0)
    cuts = np.unique(new[np.searchsorted(new, np.arange(CHUNK, len(targets), CHUNK), side="right") - 1])
    return (part for part in np.split(targets, cuts) if len(part))


def _part(corpus: Corpus, targets: np.ndarray, texts: Texts, joined: Histories | None, settings: S.CSFT) -> dict[str, Any]:
    """Rows and samples of one chunk; histories from `joined`, where it is given.

    A sample longer than `max_tokens` stands alone and loses its oldest tokens, as in the official code; at least one
    token of history is kept, and the title to predict as a whole (`csft.check_longest`).
    """
    own = _apart(corpus, texts.history, targets)
    numbers = {}
    if joined:
        apart, own = own, joined(targets)
        numbers["tokenised_otherwise"] = int((~compare_pieces(own, apart)).sum())
    answer = texts.answers.lengths[corpus.sequence[targets]]
    skip = np.clip(own.lengths + answer - settings.max_tokens, 0, own.lengths - 1)
    alone = (skip > 0) | (not settings.shared_prefix)
    after = np.concatenate([[False], alone[:-1]])
    begins = np.flatnonzero((np.diff(corpus.starts(targets), prepend=-1) != 0) | alone | after)
    counts = np.diff(np.append(begins, len(targets)))
    longest = begins + counts - 1
    history = own.take(longest, skip[longest])
    every = np.arange(len(targets))
    seen = count_common_prefix(own.take(every, skip), history, np.repeat(np.arange(len(counts)), counts))
    tails = own.take(every, skip + seen)
    if joined:
        numbers["whole_prefix"] = int((tails.lengths == 0).sum())
    numbers["truncated"] = int((skip > 0).sum())
    numbers["history_tokens"] = int((own.lengths - skip).sum())
    return {"history": history, "counts": counts, "seen": seen, "tails": tails, "numbers": numbers}


def _apart(corpus: Corpus, pieces: Ragged, targets: np.ndarray) -> Ragged:
    """Each sample's history, its titles tokenised apart."""
    starts = corpus.starts(targets)
    titles = compute_offsets(targets - starts)
    piece = corpus.sequence[index_spans(starts, targets - starts)] + len(pieces) // 2
    piece[titles[:-1]] -= len(pieces) // 2
    found = pieces.take(piece)
    return Ragged(found.flat, found.offsets[titles])


def _joined(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, joiner: str) -> Histories:
    """A function from samples to their histories, each one's joined text tokenised as a whole."""
    engine, titles = _engine(tokenizer), np.array(["", *corpus.titles], dtype=object)

    def of(targets: np.ndarray) -> Ragged:
        begins = corpus.starts(targets)
        return engine([joiner.join(titles[corpus.sequence[a:b]]) for a, b in zip(begins, targets, strict=True)])

    return of


def _engine(tokenizer: PreTrainedTokenizerBase) -> Engine:
    """Texts to token ids, no special tokens, on all cores."""
    if not getattr(tokenizer, "is_fast", False):
        return lambda texts: Ragged.of(
            [np.array(i, np.int32) for i in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
            if len(texts)
            else []
        )
    backend = _backend(tokenizer)

    def some(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(e.ids, np.int32) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def every(texts: Sequence[str]) -> Ragged:
        texts = list(texts)
        parts = [texts[k : k + TEXTS] for k in range(0, len(texts), TEXTS)]
        with ThreadPoolExecutor(count_cores()) as pool:
            return Ragged.of([ids for part in pool.map(some, parts) for ids in part])

    return every


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of what a fast tokenizer stands on: itself it may still truncate or pad as some earlier call asked it to."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def _key(corpus: Corpus, targets: np.ndarray, tokenizer: PreTrainedTokenizerBase, settings: S.CSFT) -> str:
    """A hash of all that the samples depend on."""
    digest = hashlib.sha256()
    for array in (corpus.offsets, corpus.sequence, np.sort(targets)):
        digest.update(np.ascontiguousarray(array).tobytes())
    fast = getattr(tokenizer, "is_fast", False)
    words = _backend(tokenizer).to_str() if fast else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    about = [corpus.titles, corpus.max_history, words, tokenizer.eos_token_id, [getattr(settings, k) for k in SHAPING]]
    digest.update(json.dumps(about).encode())
    return digest.hexdigest()


def _fault(place: Path, key: str) -> str:
    """Why the samples in `place` are not those of `key`, as a phrase; empty where they are, to the byte."""
    if why := checkpoints.find_fault(place):
        return why
    mark = checkpoints.read_marker(place)
    if mark.get("key") != key:
        return "they were made from something else"
    return "" if {f"{name}.npy" for name in ARRAYS} <= mark["files"].keys() else "not all of them are there"


def _save(samples: Samples, place: Path, key: str) -> None:
    """Write all arrays and, last, their mark beside `place`, and move them there at once.

    Whatever else lies beside it is out of date or left from a killed process, and goes.
    """
    for other in place.parent.iterdir() if place.parent.is_dir() else ():
        clear(other)
    part = place.with_name(".partial")
    part.mkdir(parents=True)
    try:
        for name in PIECES:
            np.save(part / f"{name}.npy", getattr(samples, name).flat)
            np.save(part / f"{name}_offsets.npy", getattr(samples, name).offsets)
        for name in PLAIN:
            np.save(part / f"{name}.npy", getattr(samples, name))
        write_json(part / "facts.json", samples.facts)
        checkpoints.seal(part, {"key": key})
        os.replace(part, place)
    finally:
        clear(part)
