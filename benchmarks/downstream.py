"""Training and evaluating recommenders: the kit against the plain way, and against RecBole's SASRec; costs as sizes grow.

    python benchmarks/downstream.py --data FOLDER                     speed and quality, games.item and games.test.inter (RecBole)
    python benchmarks/downstream.py --data FOLDER --recbole PYTHON    the same, and RecBole 1.2.1 in an environment of peers.sh
    python benchmarks/downstream.py --times                           the speed of SASRec and GRU4Rec alone, on a made corpus of 9,613 items
    python benchmarks/downstream.py --seeds                           three seeds: one by one, and in one batched pass
    python benchmarks/downstream.py --curves                          1,000 to 1,000,000 items, 10,000 to 10,000,000 samples

The plain way is how such code is usually written: a DataLoader, one right-padded row a sample, the adapter over the full table
for every batch of 256 in training and of 32 in evaluation, PyTorch's own layers, dropout, cross-entropy and AdamW, and in
evaluation an argsort a batch and a Python loop over its rows for the metrics.

Both ways take steps in turn, in one process. Processor time is printed beside wall time: other programs disturb it least.
Embeddings are hashed words of the titles, 896 wide: made in a second, and not without meaning.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.downstream import evaluation, optimizers, ranking, recommenders, samples
from llm2rec_kit.results import metrics
from llm2rec_kit.settings import Data, Evaluation

DIM = 896
SETTINGS = Evaluation(device="cpu", cutoffs=[10, 20])


class PlainBlock(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, s: Evaluation) -> None:
        super().__init__()
        self.heads = s.heads
        self.query, self.key, self.value, self.out = (nn.Linear(s.hidden, s.hidden) for _ in range(4))
        self.inner, self.outer = nn.Linear(s.hidden, s.inner), nn.Linear(s.inner, s.hidden)
        self.norm1, self.norm2 = nn.LayerNorm(s.hidden, eps=1e-12), nn.LayerNorm(s.hidden, eps=1e-12)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States (B, L, d) under an additive mask."""
        b, length, d = x.shape
        q, k, v = (f(x).view(b, length, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = self.dropout(torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d / self.heads) + mask, -1))
        x = self.norm1(x + self.dropout(self.out((weights @ v).transpose(1, 2).reshape(b, length, d))))
        return self.norm2(x + self.dropout(self.outer(F.gelu(self.inner(x)))))


class PlainSASRec(nn.Module):
    """SASRec over frozen embeddings and a linear adapter; scores over all rows, padding among them."""

    def __init__(self, s: Evaluation, embeddings: np.ndarray, max_history: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(embeddings), freeze=True, padding_idx=0)
        self.adapter = nn.Linear(embeddings.shape[1], s.hidden)
        self.positions = nn.Embedding(max_history, s.hidden)
        self.dropout = nn.Dropout(s.dropout)
        self.blocks = nn.ModuleList(PlainBlock(s) for _ in range(s.layers))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module is not self.embedding:
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.xavier_normal_(self.adapter.weight)

    def forward(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) and lengths (B,) to scores (B, N + 1)."""
        place = torch.arange(items.shape[1], device=items.device)
        x = self.dropout(self.adapter(self.embedding(items)) + self.positions(place))
        seen = (items > 0)[:, None, None, :] & (place[None, :] <= place[:, None])
        mask = torch.where(seen, 0.0, -10000.0)
        for block in self.blocks:
            x = block(x, mask)
        states = x[torch.arange(len(x)), lengths - 1]
        return states @ self.adapter(self.embedding.weight).T


class PlainGRU4Rec(nn.Module):
    """GRU4Rec over frozen embeddings and a linear adapter, by torch's own GRU; scores over all rows, padding among them."""

    def __init__(self, s: Evaluation, embeddings: np.ndarray, max_history: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(embeddings), freeze=True, padding_idx=0)
        self.adapter = nn.Linear(embeddings.shape[1], s.hidden)
        self.dropout = nn.Dropout(s.dropout)
        self.gru = nn.GRU(s.hidden, s.hidden, s.layers, bias=False, batch_first=True)
        nn.init.xavier_normal_(self.adapter.weight)
        nn.init.zeros_(self.adapter.bias)
        for name, weight in self.gru.named_parameters():
            (nn.init.xavier_uniform_ if "weight_ih" in name else nn.init.orthogonal_)(weight)

    def forward(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) and lengths (B,) to scores (B, N + 1)."""
        states = self.gru(self.dropout(self.adapter(self.embedding(items))))[0]
        return states[torch.arange(len(items)), lengths - 1] @ self.adapter(self.embedding.weight).T


PLAIN = {"SASRec": PlainSASRec, "GRU4Rec": PlainGRU4Rec}


def rate_of(recommender: str) -> float:
    """The learning rate of a recommender."""
    return SETTINGS.learning_rate_gru if recommender == "GRU4Rec" else SETTINGS.learning_rate


class PlainSamples(Dataset):
    """One right-padded row a sample."""

    def __init__(self, corpus: Corpus, split: str) -> None:
        targets = corpus.samples(split)
        self.histories = [corpus.history(t).tolist() for t in targets]
        self.targets = corpus.sequence[targets].tolist()
        self.width = corpus.max_history

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, int, int]:
        history = self.histories[k]
        return torch.tensor(history + [0] * (self.width - len(history))), len(history), self.targets[k]


class Plain:
    """The plain way: `train_step` takes the next batch, `evaluate` a number of batches of 32."""

    def __init__(self, corpus: Corpus, embeddings: np.ndarray, seed: int, recommender: str = "SASRec") -> None:
        torch.manual_seed(seed)
        self.model = PLAIN[recommender](SETTINGS, embeddings, corpus.max_history)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=rate_of(recommender), weight_decay=SETTINGS.weight_decay)
        self.loader = DataLoader(PlainSamples(corpus, "train"), batch_size=SETTINGS.batch_size, shuffle=True)
        self.tests = DataLoader(PlainSamples(corpus, "test"), batch_size=32)
        self.steps = iter(())

    def train_step(self) -> None:
        """Take the next batch."""
        self.model.train()
        batch = next(self.steps, None)
        if batch is None:
            self.steps = iter(self.loader)
            batch = next(self.steps)
        items, lengths, targets = batch
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(items, lengths), targets)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def epoch(self) -> None:
        """Take all batches once."""
        for _ in range(len(self.loader)):
            self.train_step()

    @torch.no_grad()
    def evaluate(self, batches: int = 10**9) -> dict[str, float]:
        """Mean metrics over the first `batches` of 32 test samples."""
        self.model.eval()
        found = {f"{name}@{k}": [] for k in SETTINGS.cutoffs for name in ("recall", "ndcg")}
        for at, (items, lengths, targets) in enumerate(self.tests):
            if at == batches:
                break
            scores = self.model(items, lengths)
            scores[:, 0] = -torch.inf
            order = torch.argsort(scores, dim=1, descending=True)
            for row, target in zip(order, targets, strict=True):
                rank = (row == target).nonzero().item() + 1
                for k in SETTINGS.cutoffs:
                    found[f"recall@{k}"].append(1.0 if rank <= k else 0.0)
                    found[f"ndcg@{k}"].append(1 / math.log2(rank + 1) if rank <= k else 0.0)
        return {name: float(np.mean(values)) for name, values in found.items()}


class Kit:
    """The kit's way, through the same functions that notebook 04's trainings call."""

    def __init__(
        self, corpus: Corpus, embeddings: np.ndarray | None, seed: int, recommender: str = "SASRec", **change
    ) -> None:
        self.settings = Evaluation(**{**SETTINGS.as_dict(), **change})
        torch.manual_seed(seed)
        self.both = evaluation.make_model_and_table(
            recommender, corpus.n_items, corpus.max_history, embeddings, self.settings
        )
        self.optimizer = optimizers.make_optimizer(self.both, self.settings, recommender)
        self.rows = samples.make_rows(corpus, corpus.samples("train"), shared=True)
        self.tests = samples.make_rows(corpus, corpus.samples("test"), shared=False)
        self.seed, self.epochs, self.order = seed, 0, []

    def train_step(self) -> None:
        """Take the next batch."""
        self.both.train()
        if not self.order:
            self.order = samples.draw_batches(self.rows.samples, self.settings.batch_size, np.random.default_rng(self.seed))[
                ::-1
            ]
            recommenders.draw_from(self.both[0], np.random.SFC64(self.seed))
        value = evaluation.compute_loss(self.both, *self.rows.take(self.order.pop()), self.settings)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        value.item()

    def epoch(self) -> None:
        """Take all batches once."""
        self.epochs += 1
        evaluation.train_epoch(self.both, self.rows, self.optimizer, self.settings, (self.seed, self.epochs))

    @torch.no_grad()
    def evaluate(self, most: int = 10**9) -> dict[str, float]:
        """Mean metrics over the first `most` test samples."""
        self.both.eval()
        some = samples.Rows(self.tests.histories[:most], self.tests.labels[:most])
        return metrics.summarise(ranking.rank_rows(self.both[0], self.both[1](), some).ranks, self.settings.cutoffs)


def games(folder: str, users: int) -> tuple[Corpus, np.ndarray]:
    """The corpus of `users` drawn users, and an embedding of each title (N + 1, 896)."""
    settings = Data(source="recbole", path=folder, users=users)
    corpus = cleaning.build_corpus(sources.load(settings), settings)
    return corpus, hashed(corpus.titles)


def hashed(titles: list[str], wide: int = DIM) -> np.ndarray:
    """An embedding of each title by its hashed words, float32 (N + 1, wide), row 0 padding."""
    words = HashingVectorizer(n_features=wide, ngram_range=(1, 2), norm="l2").transform(titles).toarray()
    return np.concatenate([np.zeros((1, wide)), words * math.sqrt(wide) / 4]).astype(np.float32)


def timed(work: Callable[[], object]) -> np.ndarray:
    """(wall, processor) milliseconds of one call."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - own]) * 1e3


def speed(corpus: Corpus, table: np.ndarray, rounds: int, recommender: str = "SASRec") -> None:
    """Milliseconds a training step of 256 and an evaluation of 32 samples: medians over rounds taken in turn."""
    ways = {"plain": Plain(corpus, table, 0, recommender), "kit float32": Kit(corpus, table, 0, recommender)}
    if evaluation.fast_ops.has_fast_bfloat16():
        ways["kit bfloat16"] = Kit(corpus, table, 0, recommender, precision="bfloat16")
    many = min(len(corpus.samples("test")), 8192)
    found: dict[tuple[str, int, str], list] = {}
    for at in range(rounds + 1):
        for threads in (1, os.cpu_count() or 1):
            torch.set_num_threads(threads)
            for name, way in ways.items():
                train = timed(way.train_step)
                size, call = (
                    (4, lambda w=way: w.evaluate(4)) if name == "plain" else (many / 32, lambda w=way: w.evaluate(many))
                )
                if at and (name == "plain" or threads == 1):  # the first round warms up
                    found.setdefault((name, threads, "train"), []).append(train)
                    found.setdefault((name, threads, "rank"), []).append(timed(call) / size)
    torch.set_num_threads(1)
    rows = []
    for (name, threads, what), values in found.items():
        wall, own = np.median(values, axis=0)
        rows.append({"way": name, "threads": threads, "what": what, "wall ms": wall, "processor ms": own})
    base = {(r["what"], r["threads"]): r for r in rows if r["way"] == "plain"}
    for r in rows:
        r["wall factor"] = base[r["what"], r["threads"]]["wall ms"] / r["wall ms"]
        r["processor factor"] = base[r["what"], r["threads"]]["processor ms"] / r["processor ms"]
    print(
        f"\n{recommender}, {corpus.n_items:,} items x {DIM}; train: a step of 256 samples, rank: 32 test samples (of {many:,})"
    )
    print(pl.DataFrame(rows))


def _work(task: tuple) -> float:
    """Seconds of `steps` training steps in a process of its own, on one thread."""
    (folder, users, steps, change), seed = task
    torch.set_num_threads(1)
    way = Kit(*games(folder, users), seed, **change)
    way.train_step()
    began = time.perf_counter()
    for _ in range(steps):
        way.train_step()
    return (time.perf_counter() - began) / steps * 1e3


def side_by_side(folder: str, users: int, steps: int) -> None:
    """Two trainings at a time in processes of their own, as notebook 04 runs them: milliseconds a step, shared."""
    for name, change in (("float32", {}), ("bfloat16", {"precision": "bfloat16"})):
        if name == "float32" or evaluation.fast_ops.has_fast_bfloat16():
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
                each = list(pool.map(_work, [((folder, users, steps, change), seed) for seed in (1, 2)]))
            print(
                f"two trainings at once, kit {name}: {np.mean(each):.1f} ms a step each, {np.mean(each) / 2:.1f} ms a step in all"
            )


def quality(corpus: Corpus, table: np.ndarray, epochs: int, seeds: list[int]) -> None:
    """Test metrics after the same number of epochs, mean and std over seeds: what is faster must not be worse."""
    ways = {"plain": {}, "kit float32": {}, "kit bfloat16": {"precision": "bfloat16"}}
    if not evaluation.fast_ops.has_fast_bfloat16():
        del ways["kit bfloat16"]
    rows = []
    for name, change in ways.items():
        found = []
        for seed in seeds:
            way = Plain(corpus, table, seed) if name == "plain" else Kit(corpus, table, seed, **change)
            for _ in range(epochs):
                way.epoch()
            found.append(way.evaluate())
        names = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")
        rows.append(
            {"way": name} | {n: f"{np.mean([f[n] for f in found]):.4f} ± {np.std([f[n] for f in found]):.4f}" for n in names}
        )
    print(f"\n{corpus.n_items:,} items, {epochs} epochs, seeds {seeds}: test metrics")
    print(pl.DataFrame(rows))


RECBOLE = """
import json, sys, time, torch
torch.set_num_threads(int(sys.argv[3]))
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed
epochs = int(sys.argv[2])
config = Config(model="SASRec", dataset="games", config_dict=dict(
    data_path=sys.argv[1], USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", TIME_FIELD="timestamp",
    load_col={"inter": ["user_id", "item_id", "timestamp"]}, MAX_ITEM_LIST_LENGTH=10, train_neg_sample_args=None,
    hidden_size=128, inner_size=256, n_layers=2, n_heads=2, hidden_dropout_prob=0.3, attn_dropout_prob=0.3, hidden_act="gelu",
    layer_norm_eps=1e-12, loss_type="CE", learning_rate=1e-3, weight_decay=1e-4, train_batch_size=256, eval_batch_size=4096,
    epochs=epochs, metrics=["Recall", "NDCG"], topk=[10, 20], valid_metric="Recall@20", use_gpu=False, show_progress=False,
    eval_args={"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"}, state="ERROR"))
init_seed(2024, True)
dataset = create_dataset(config)
train, valid, test = data_preparation(config, dataset)
model = SASRec(config, train.dataset)
trainer = Trainer(config, model)
wall, own = time.perf_counter(), time.process_time()
for epoch in range(epochs):
    trainer._train_epoch(train, epoch, show_progress=False)
spent = [time.perf_counter() - wall, time.process_time() - own]
wall, own = time.perf_counter(), time.process_time()
found = trainer.evaluate(test, load_best_model=False)
ranked = [time.perf_counter() - wall, time.process_time() - own]
print("RESULT", json.dumps({"spent": spent, "ranked": ranked, "found": {k: float(v) for k, v in found.items()},
                            "steps": len(train) * epochs, "items": dataset.item_num - 1, "samples": len(train.dataset)}))
"""


def against_recbole(corpus: Corpus, python: str, epochs: int) -> None:
    """RecBole's SASRec (trained ids, cross-entropy over the catalogue) and the kit's over `id`: same data, same sizes, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "games"
        target.mkdir()
        owner = np.repeat(np.arange(corpus.n_users), np.diff(corpus.offsets))
        within = np.arange(len(owner)) - np.repeat(corpus.offsets[:-1], np.diff(corpus.offsets))
        names = ("user_id:token", "item_id:token", "timestamp:float")
        frame = pl.DataFrame(dict(zip(names, (owner, corpus.sequence, within.astype(float)), strict=True)))
        frame.write_csv(target / "games.inter", separator="\t")
        words = [python, "-c", RECBOLE, folder, str(epochs), "1"]
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        )
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT")), None)
    if line is None:
        print(f"\nRecBole did not run: {(done.stdout + done.stderr)[-800:]}")
        return
    its = json.loads(line.removeprefix("RESULT "))
    torch.set_num_threads(1)
    way = Kit(corpus, None, 2024)
    spent = np.sum([timed(way.epoch) for _ in range(epochs)], axis=0) / 1e3
    ranked = timed(way.evaluate) / 1e3
    ours = way.evaluate()
    steps = epochs * -(-len(corpus.samples("train")) // SETTINGS.batch_size)
    tests = len(corpus.samples("test")) / 32
    rows = [
        {"way": "RecBole 1.2.1 SASRec", "samples": its["samples"], "processor ms a step": its["spent"][1] / its["steps"] * 1e3,
         "processor ms 32 ranked": its["ranked"][1] / tests * 1e3, "recall@10": its["found"]["recall@10"], "ndcg@10": its["found"]["ndcg@10"]},
        {"way": "kit SASRec over id", "samples": len(corpus.samples("train")), "processor ms a step": spent[1] / steps * 1e3,
         "processor ms 32 ranked": ranked[1] / tests * 1e3, "recall@10": ours["recall@10"], "ndcg@10": ours["ndcg@10"]},
    ]  # fmt: skip
    print(
        f"\n{corpus.n_items:,} items (RecBole counts {its['items']:,}), trained ids, {epochs} epochs, one thread, one seed"
    )
    print(pl.DataFrame(rows))


def seeds_in_one_pass(n_items: int, dim: int, hidden: int, rounds: int = 12) -> dict[str, float]:
    """Milliseconds of processor time for a step of three seeds: plain and kit one by one, and plain in one vmapped pass."""
    corpus = generated(4000, n_items)
    rng = np.random.default_rng(0)
    table = rng.normal(0, 0.1, (n_items + 1, dim)).astype(np.float32)
    global SETTINGS
    before, SETTINGS = SETTINGS, Evaluation(device="cpu", hidden=hidden, inner=2 * hidden)
    plain = [Plain(corpus, table, seed) for seed in range(3)]
    kit = [Kit(corpus, table, seed) for seed in range(3)]
    SETTINGS = before
    params, buffers = torch.func.stack_module_state([p.model for p in plain])
    frozen = params.pop("embedding.weight")[0]
    batches = [next(iter(p.loader)) for p in plain]
    items, lengths, targets = (torch.stack([b[k] for b in batches]) for k in range(3))

    def loss(own, held, x, n, y):
        scores = torch.func.functional_call(plain[0].model, ({**own, "embedding.weight": frozen}, held), (x, n))
        return F.cross_entropy(scores, y)

    step = torch.vmap(torch.func.grad(loss), randomness="different")
    ways = {
        "plain, one by one": lambda: [p.train_step() for p in plain],
        "plain, one vmapped pass": lambda: step(params, buffers, items, lengths, targets),
        "kit, one by one": lambda: [k.train_step() for k in kit],
    }
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            found[name].append(timed(work)[1])
    return {"items": n_items, "dim": dim, "hidden": hidden} | {name: float(np.median(v[1:])) for name, v in found.items()}


def generated(users: int, n_items: int, length: int = 9) -> Corpus:
    """Sequences of `length` random items: `users` times (length - 3) training samples."""
    rng = np.random.default_rng(0)
    offsets = np.arange(users + 1, dtype=np.int64) * length
    place = np.tile(np.arange(length), users)
    targets = np.flatnonzero(place > 0)
    splits = np.select([place == length - 1, place == length - 2], [TEST, VALID], TRAIN).astype(np.uint8)[targets]
    ids = np.arange(1, n_items + 1, dtype=np.int32)
    items = pl.DataFrame({"item": ids, "source_id": ids.astype(str), "title": "t", "domain": "d"})
    people = pl.DataFrame({"user": np.arange(users, dtype=np.int32)}).with_columns(source_id=pl.lit("u"), domain=pl.lit("d"))
    sequence = rng.integers(1, n_items + 1, users * length).astype(np.int32)
    return Corpus(items, people, offsets, sequence, None, targets, splits, 10)


def made(n_items: int = 9613, users: int = 3000) -> tuple[Corpus, np.ndarray]:
    """A corpus of random sequences, of ten items and more, and random vectors (N + 1, 896)."""
    table = np.random.default_rng(0).standard_normal((n_items + 1, DIM), dtype=np.float32)
    return generated(users, n_items), table / 30


def short() -> dict[str, float]:
    """Ratios of the short form: the plain way's time over the kit's, of a training step and of ranking, at 2,000 items."""
    torch.set_num_threads(1)
    found = {}
    for recommender in PLAIN:
        plain, kit = (way(*made(2000, 500), 0, recommender) for way in (Plain, Kit))
        works = {
            "a training step": (plain.train_step, kit.train_step, 1.0),
            "ranking": (lambda p=plain: p.evaluate(4), lambda k=kit: k.evaluate(500), 500 / 128),
        }
        for what, (theirs, ours, more) in works.items():
            ratios = [timed(theirs)[1] * more / timed(ours)[1] for _ in range(8)]
            found[f"{recommender}, {what}, plain over kit"] = float(np.median(ratios[1:]))
    return found


def curves() -> None:
    """Cost of a step and of 32 ranked samples by items; of building rows, and of an epoch, by samples."""
    torch.set_num_threads(1)
    rows = []
    for n_items in (1_000, 10_000, 100_000, 1_000_000):
        table = np.random.default_rng(0).standard_normal((n_items + 1, DIM), dtype=np.float32) / 10
        way = Kit(generated(2000, n_items), table, 0)
        del table
        rounds = 8 if n_items <= 10_000 else 2
        way.train_step()
        step = np.median([timed(way.train_step) for _ in range(rounds)], axis=0)
        many = 1024 if n_items <= 100_000 else 128
        with torch.no_grad():
            items = way.both.eval()[1]()
            some = samples.Rows(way.tests.histories[:many], way.tests.labels[:many])
            ranked = timed(lambda w=way, t=items, s=some: ranking.rank_rows(w.both[0], t, s)) / many * 32
        rows.append({"items": n_items, "step of 256, ms": step[1], "32 ranked, ms": ranked[1]})
        del way, items
    print(f"\nby items, {DIM} wide, float32, one thread, processor time")
    print(pl.DataFrame(rows))
    rows = []
    for count in (10_000, 100_000, 1_000_000, 10_000_000):
        corpus = generated(count // 6, 1000)
        built = timed(lambda c=corpus: samples.make_rows(c, c.samples("train"), shared=True))
        way = Kit(corpus, None, 0)
        steps = -(-len(corpus.samples("train")) // SETTINGS.batch_size)
        done = timed(way.epoch)[1] if count <= 100_000 else sum(timed(way.train_step)[1] for _ in range(200)) / 200 * steps
        size = way.rows.histories.nbytes + way.rows.labels.nbytes
        rows.append({"samples": len(corpus.samples("train")), "build rows, s": built[1] / 1e3, "rows, MiB": size / 2**20,
                     "epoch, s": done / 1e3, "epoch is": "measured" if count <= 100_000 else "extrapolated from 200 steps"})  # fmt: skip
    print("\nby samples, 1,000 items, trained ids, one thread, processor time")
    print(pl.DataFrame(rows))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with games.item and games.test.inter")
    parser.add_argument("--users", type=int, default=25_000, help="users drawn for the speed (25,000: about 9,600 items)")
    parser.add_argument("--quality-users", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recbole", default="", help="python of an environment that has RecBole 1.2.1")
    parser.add_argument("--times", action="store_true", help="speed on a made corpus, of both recommenders")
    parser.add_argument("--seeds", action="store_true")
    parser.add_argument("--curves", action="store_true")
    given = parser.parse_args()
    pl.Config(
        tbl_cols=-1,
        tbl_rows=40,
        float_precision=2,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_width_chars=160,
    )
    torch.set_num_threads(1)
    if given.data:
        speed(*games(given.data, given.users), given.rounds)
        side_by_side(given.data, given.users, 2 * given.rounds)
        quality(*games(given.data, given.quality_users), given.epochs, [1, 2, 3])
        if given.recbole:
            against_recbole(games(given.data, given.quality_users)[0], given.recbole, given.epochs)
    if given.times:
        for recommender in PLAIN:
            speed(*made(), given.rounds, recommender)
    if given.seeds:
        print("\na step of 256 samples for each of three seeds, one thread, processor ms")
        print(pl.DataFrame([seeds_in_one_pass(600, 192, 64), seeds_in_one_pass(9517, DIM, 128, 5)]))
    if given.curves:
        curves()
    if not (given.data or given.times or given.seeds or given.curves):
        parser.print_help()
        sys.exit(2)


if __name__ == "__main__":
    main()
