"""The official evaluation code, unmodified, beside the kit: the same data, vectors, settings and seeds; metrics, epochs, times.

    benchmarks/peers.sh FOLDER official          CHECKOUT is then FOLDER/checkout, PYTHON FOLDER/official/bin/python

    python benchmarks/official_code.py --checkout CHECKOUT --python OFFICIAL/bin/python --run RUN --work FOLDER
                                                 trains every arm to patience on both sides, prints tables, writes FOLDER/results.json
    python benchmarks/official_code.py ... --arms GRU4Rec/x100 --seeds 2025 2026        some of them, two seeds at least
    python benchmarks/official_code.py ... --times         seconds a step and a ranking at 9,517 items x 896, both sides in turn
    python benchmarks/official_code.py ... --dropout 300   the loss of one batch under dropout, drawn anew 300 times on both sides
    python benchmarks/official_code.py ... --record FILE   losses and gradients from weights given by a formula, for the tests

Nothing is fetched. RUN is a run's folder or a corpus folder of one domain; FOLDER keeps what was made, and what is in its
results.json, which is of one corpus, one table of vectors and one `--epochs`, is not run again. The official code writes nothing outside FOLDER, and to its tracker (wandb) nothing at all.
Both sides compute on one thread. Without `--vectors FILE.npy` (N + 1 rows, row 0 padding) the items' vectors are all-MiniLM's.

The official side is a process started as its README does, in a folder with the corpus in its loader's layout; its numbers are
read off what it prints. Its saved weights are then loaded into the kit, which ranks the test samples with them: that
checks both rankings, and gives each user's rank on the official side, which it does not keep.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from official_side import DATASET, FOLDER, RATES, RECORDED, official, record, settings_of, started, to_official
from scipy import stats
from starts import read_results

from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.downstream import evaluation, item_table, ranking, recommenders, samples
from llm2rec_kit.encoding import minilm
from llm2rec_kit.export import llm2rec_files
from llm2rec_kit.results import metrics
from llm2rec_kit.storage import hash_file, write_json

LENGTHS = {"unit": 1.0, "x100": 100.0}
ARMS = [f"{recommender}/{length}" for length, recommender in itertools.product(LENGTHS, RATES)]
SEEDS = (2024, 2025, 2026)
NAMES = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20)]
WAYS = {"kit": {}, "kit, a row a sample": {"shared_prefix": False}}


# -- metrics ------------------------------------------------------------------------------------------------------------


def kit(
    given: argparse.Namespace, corpus: Corpus, vectors: np.ndarray, recommender: str, length: str, seed: int, **change
) -> tuple[dict, np.ndarray]:
    """One training by the kit: metrics, epochs, processor seconds, and the test ranks."""
    settings = settings_of(normalise="unit", scale=LENGTHS[length], epochs=given.epochs, **change)
    began = time.process_time()
    result = evaluation.train_and_rank(corpus, vectors, settings, recommender=recommender, seed=seed)
    seconds = time.process_time() - began
    found = {name: metrics.summarise(result.ranks, settings.cutoffs)[name] for name in NAMES}
    facts = {"best_epoch": result.best_epoch, "epochs": len(result.losses), "seconds": seconds}
    return {"metrics": found, **facts, "curve": result.curve}, result.ranks


def train_all(given: argparse.Namespace, corpus: Corpus, vectors: np.ndarray) -> dict[str, dict]:
    """Every arm on every side, one after the other; what results.json has is left as it is."""
    results = results_of(given)
    found = results["trained"]
    for arm, seed in itertools.product(given.arms, given.seeds):
        recommender, length = arm.split("/")
        for way in ("official", *WAYS):
            name = f"{way}/{arm}/{seed}"
            if name in found:
                continue
            if way == "official":
                result, ranks = official(given, corpus, recommender, length, seed)
            else:
                result, ranks = kit(given, corpus, vectors, recommender, length, seed, **WAYS[way])
            np.save(given.work / "ranks" / f"{name.replace('/', '-')}.npy", ranks)
            found[name] = {**result, "load": os.getloadavg()[0]}
            write_json(given.work / "results.json", results)
            shown = " ".join(f"{k} {v:.4f}" for k, v in result["metrics"].items())
            print(
                f"{name}: {shown}, best of {result['epochs']} epochs {result['best_epoch']}, {result['seconds']:.0f} s",
                flush=True,
            )
    return found


def ranks_of(given: argparse.Namespace, arm: str, way: str) -> list[np.ndarray]:
    """Test ranks of each seed."""
    return [np.load(given.work / "ranks" / f"{way}-{arm.replace('/', '-')}-{seed}.npy") for seed in given.seeds]


def tables(given: argparse.Namespace, corpus: Corpus, found: dict[str, dict]) -> None:
    """Print metrics an arm and a side, and how the kit's differ: across seeds in an arm, over all arms, and by users."""
    arms = given.arms
    values = {
        (arm, way): np.array([[found[f"{way}/{arm}/{seed}"]["metrics"][name] for name in NAMES] for seed in given.seeds])
        for arm in arms
        for way in ("official", *WAYS)
    }
    by_kit = "official, ranked by the kit"  # one rule for ties: items of one title have equal vectors
    for arm in arms:
        again = [metrics.summarise(ranks, [5, 10, 20]) for ranks in ranks_of(given, arm, "official")]
        values[arm, by_kit] = np.array([[each[name] for name in NAMES] for each in again])
    rows, epochs = [], []
    for (arm, way), each in values.items():
        shown = [f"{m:.4f} ± {s:.4f}" for m, s in zip(each.mean(0), each.std(0, ddof=1), strict=True)]
        rows.append({"arm": arm, "way": way, **dict(zip(NAMES, shown, strict=True))})
        if way == by_kit:
            continue
        facts = [found[f"{way}/{arm}/{seed}"] for seed in given.seeds]
        took = np.mean([f["seconds"] / f["epochs"] for f in facts])
        epochs.append(
            {"arm": arm, "way": way, "best epochs": str([f["best_epoch"] for f in facts]), "processor s an epoch": took}
        )
    print(f"\ntest metrics, mean and standard deviation over seeds {given.seeds}")
    print(pl.DataFrame(rows))
    print(pl.DataFrame(epochs))
    _, group, sizes = np.unique(np.load(given.work / "vectors-unit.npy"), axis=0, return_inverse=True, return_counts=True)
    alike = (sizes > 1)[group]
    targets = alike[corpus.sequence[corpus.samples("test")]]
    print(
        f"\n{alike.sum()} of {corpus.n_items:,} items have the vector of another; {targets.sum()} of {len(targets):,} test targets"
    )
    for way, base in itertools.product(WAYS, ("official", by_kit)):
        print(f"\n{way} against {base}")
        print(pl.DataFrame(differences(given, corpus, values, arms, way, base)))


def differences(
    given: argparse.Namespace, corpus: Corpus, values: dict, arms: list[str], way: str, base: str
) -> list[dict[str, object]]:
    """A row a metric: relative difference to the mean of `base` and p, in each arm (Welch), over all of them, and over users.

    Over all arms: the mean of the arms' relative differences against its standard error, from the spread between seeds within
    arms. Over users: a user's metric is the mean over seeds and arms, paired, all ranked by the kit; it tells of these weights, not of other seeds.
    """
    owners = corpus.owners(corpus.samples("test"))
    rows = []
    for at, name in enumerate(NAMES):
        row, relative, variance = {"metric": name}, [], 0.0
        for arm in arms:
            a, b = values[arm, base][:, at], values[arm, way][:, at]
            relative.append(b.mean() / a.mean() - 1)
            variance += (a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) / a.mean() ** 2
            row[arm] = f"{relative[-1]:+.1%} (p {stats.ttest_ind(a, b, equal_var=False).pvalue:.2f})"
        error, freedom = variance**0.5 / len(arms), 2 * len(arms) * (len(given.seeds) - 1)
        mean = float(np.mean(relative))
        row["all arms"] = f"{mean:+.1%} ± {error:.1%} (p {2 * stats.t.sf(abs(mean) / error, freedom):.2f})"
        before, after = (
            np.mean([metrics.compute_per_sample(r, name) for arm in arms for r in ranks_of(given, arm, side)], 0)[:, None]
            for side in ("official", way)
        )
        test = metrics.test_pairs(before, after, owners, seed=0)[0]
        row["by users"] = f"{test['difference']:+.5f} ({test['low']:+.5f} to {test['high']:+.5f}, p {test['p']:.2f})"
        rows.append(row)
    return rows


# -- dropout ------------------------------------------------------------------------------------------------------------

DRAWS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from seqrec.utils import get_model
asked, held = json.loads(sys.argv[2]), {name: torch.from_numpy(x) for name, x in np.load("in.npz").items()}
model = get_model(asked["model"])(asked, held["embeddings"]).train()
named = {name: p for name, p in model.named_parameters() if p.requires_grad}
with torch.no_grad():
    for name, p in named.items():
        p.copy_(held[name])
batch = {name: held[name] for name in ("item_seqs", "seq_lengths", "labels")}
found = []
for _ in range(asked["draws"]):
    model.zero_grad()
    loss = model(batch)["loss"]
    loss.backward()
    found.append([loss.item(), sum(p.grad.square().sum() for p in named.values()).sqrt().item()])
np.save("out.npy", found)
"""


def dropout(given: argparse.Namespace, corpus: Corpus, vectors: np.ndarray) -> None:
    """Loss and gradient norm of one batch of 256 at the start, `given.dropout` times under new dropout: mean, spread, Welch's p."""
    some, rows = corpus.samples("train")[:256], []
    for recommender in RATES:
        torch.manual_seed(0)
        both = evaluation.make_model_and_table(
            recommender, corpus.n_items, corpus.max_history, vectors, settings_of()
        ).train()
        plain = samples.make_rows(corpus, some, shared=False)
        arrays = {"item_seqs": plain.histories.long(), "seq_lengths": torch.from_numpy(plain.lengths)}
        arrays |= {"embeddings": both[1].embeddings, "labels": plain.labels.amax(1).long(), **to_official(both, recommender)}
        asked = {**RECORDED, "model": recommender, "item_num": corpus.n_items, "max_seq_length": corpus.max_history}
        asked |= {"hidden_size": 128, "dropout": 0.3, "draws": given.dropout}
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "in.npz", **{name: x.numpy() for name, x in arrays.items()})
            started(given, DRAWS, asked, Path(folder)).communicate()
            found = {"official": np.load(Path(folder) / "out.npy")}
        for way, change in WAYS.items():
            here = samples.make_rows(corpus, some, shared=settings_of(**change).shared_prefix)
            recommenders.draw_from(both[0], np.random.SFC64(0))
            found[way] = np.array([drawn(both, here) for _ in range(given.dropout)])
        for way, each in found.items():
            row = {"recommender": recommender, "way": way}
            for at, what in enumerate(("loss", "gradient's norm")):
                p = stats.ttest_ind(each[:, at], found["official"][:, at], equal_var=False).pvalue
                row[what] = f"{each[:, at].mean():.5f}, sd {each[:, at].std(ddof=1):.5f}, p {p:.2g}"
            rows.append(row)
    print(f"\none batch of 256 samples at the start, dropout drawn {given.dropout} times")
    print(pl.DataFrame(rows))


def drawn(both: torch.nn.ModuleList, rows: samples.Rows) -> list[float]:
    """Loss and norm of the gradient."""
    both.zero_grad()
    value = evaluation.compute_loss(both, rows.histories, rows.labels, settings_of())
    value.backward()
    return [value.item(), sum(p.grad.square().sum() for p in both.parameters()).sqrt().item()]


# -- times --------------------------------------------------------------------------------------------------------------

TIMES = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from seqrec.runner import Runner
asked = json.loads(sys.argv[2])
said, sys.stdout, sys.argv = sys.stdout, sys.stderr, ["times"]
runner = Runner(asked["model"], asked)
trainer, since = runner.trainer, []
train, evaluate = trainer.model.train, trainer.evaluate
def now():
    return time.perf_counter(), time.process_time()
def begin(mode=True):
    if mode:  # an epoch begins: wait until it is this side's turn
        if not sys.stdin.readline():
            sys.exit()
        since[:] = now()
    return train(mode)
def rank(*given, **named):
    trained, found = now(), evaluate(*given, **named)
    ranked = now()
    print(json.dumps([[b - a for a, b in zip(*both)] for both in ((since, trained), (trained, ranked))]), file=said, flush=True)
    return found
trainer.model.train, trainer.evaluate = begin, rank
runner.run()
"""
USERS, ITEMS, WIDE, STEPS, RANKED = 15_322, 9_517, 896, 24, 640  # Games in the paper; how much of it a round takes


def generated() -> tuple[Corpus, np.ndarray]:
    """Random vectors, and sequences of Games' size: 3 or more training samples a user, 8 on average, one each of the other splits."""
    rng = np.random.default_rng(0)
    lengths = 5 + rng.geometric(1 / 6, USERS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    left = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
    targets = np.setdiff1d(np.arange(offsets[-1]), offsets)
    splits = np.select([left == 1, left == 2], [TEST, VALID], TRAIN).astype(np.uint8)[targets]
    ids = (
        pl.DataFrame({"item": np.arange(1, ITEMS + 1, dtype=np.int32)}),
        pl.DataFrame({"user": np.arange(USERS, dtype=np.int32)}),
    )
    items, users = (frame.with_columns(source_id=frame[:, 0].cast(pl.String), domain=pl.lit("d")) for frame in ids)
    sequence = rng.integers(1, ITEMS + 1, offsets[-1]).astype(np.int32)
    vectors = np.random.default_rng(1).standard_normal((ITEMS + 1, WIDE), dtype=np.float32) / 30
    vectors[0] = 0
    return Corpus(
        items.with_columns(title=pl.col("source_id")), users, offsets, sequence, None, targets, splits, 10
    ), vectors


class Kit:
    """The kit's epoch over the same training samples, and its ranking, by the functions that its trainings call."""

    def __init__(self, corpus: Corpus, vectors: np.ndarray, recommender: str, **change) -> None:
        evaluation.keep_freed_memory()  # as the processes that train do
        self.settings = settings_of(**change)
        self.both = evaluation.make_model_and_table(recommender, corpus.n_items, corpus.max_history, vectors, self.settings)
        trained = [p for p in self.both.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=float(RATES[recommender]), weight_decay=1e-4, fused=True)
        some = corpus.samples("train")[: 256 * STEPS]
        self.rows = samples.make_rows(corpus, some, shared=self.settings.shared_prefix)
        self.tests = samples.make_rows(corpus, corpus.samples("valid"), shared=False)

    def epoch(self) -> None:
        """Take every training sample once."""
        evaluation.train_epoch(self.both, self.rows, self.optimizer, self.settings, (0, 0))

    @torch.no_grad()
    def rank(self) -> None:
        """Rank all validation samples, and their metrics."""
        self.both.eval()
        metrics.summarise(ranking.rank_rows(self.both[0], self.both[1](), self.tests).ranks, self.settings.cutoffs)

    def round(self) -> list[list[float]]:
        """Seconds of training and of ranking, [wall, processor]; of ranking for as many samples as the official side ranks."""
        trained, ranked = timed(self.epoch), timed(self.rank)
        return [trained, [x * RANKED / len(self.tests) for x in ranked]]


def timed(work: Callable[[], object]) -> list[float]:
    """[wall, processor] seconds of one call."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return [time.perf_counter() - wall, time.process_time() - own]


def times(given: argparse.Namespace) -> None:
    """A step of 256 samples and the ranking of 32, both sides in turn `given.rounds` times, after one round that warms up."""
    corpus, vectors = generated()
    rows = []
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        write_for_times(corpus, vectors, Path(folder))
        for recommender in RATES:
            sides = {way: Kit(corpus, vectors, recommender, **change) for way, change in WAYS.items()}
            found = rounds(given, recommender, sides, Path(folder))
            rows += [row_of_times(recommender, way, own, found["official"]) for way, own in found.items()]
    print(
        f"\n{ITEMS:,} items x {WIDE}, a thread a side, {given.rounds} rounds in turn, processor ms; load {os.getloadavg()[0]:.1f}"
    )
    print(pl.DataFrame(rows))


def write_for_times(corpus: Corpus, vectors: np.ndarray, folder: Path) -> None:
    """Write both as the official code reads them, cut to what a round takes: a whole epoch would take minutes."""
    data = folder / "data" / FOLDER
    llm2rec_files.write(corpus, data, name="corpus")
    np.save(folder / "vectors.npy", vectors)
    for name, most in (("train", 256 * STEPS), ("val", RANKED), ("test", RANKED)):
        file = data / "downstream" / f"{name}_data.txt"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:most]))


def rounds(given: argparse.Namespace, recommender: str, sides: dict[str, Kit], folder: Path) -> dict[str, np.ndarray]:
    """{side: seconds (rounds, training or ranking, wall or processor)}, the official side and the kit's `sides` in turn."""
    asked = {
        "model": recommender,
        "dataset": DATASET,
        "exp_type": "srec",
        "embedding": "vectors.npy",
        "lr": float(RATES[recommender]),
        "epochs": given.rounds + 1,
        "eval_interval": 1,
        "patience": 1000,
    }
    theirs = started(given, TIMES, asked, folder)
    found = {way: [] for way in ("official", *sides)}
    for _ in range(given.rounds + 1):
        theirs.stdin.write("go\n")
        theirs.stdin.flush()
        found["official"].append(json.loads(theirs.stdout.readline()))
        for way, side in sides.items():
            found[way].append(side.round())
    theirs.communicate()
    return {way: np.array(each[1:]) for way, each in found.items()}


def row_of_times(recommender: str, way: str, own: np.ndarray, theirs: np.ndarray) -> dict[str, object]:
    """Medians over rounds, and how many times the official side's processor time each is, with the range over rounds."""
    step, ranked = np.median(own, axis=0) / [[STEPS], [RANKED / 32]] * 1e3
    row = {"recommender": recommender, "way": way}
    row |= {
        "a step": f"{step[1]:.1f}",
        "(wall)": f"{step[0]:.1f}",
        "32 ranked": f"{ranked[1]:.2f}",
        "( wall)": f"{ranked[0]:.2f}",
    }
    for at, what in enumerate(("training", "ranking")):
        factors = theirs[:, at] / own[:, at]
        row[what] = f"{np.median(factors[:, 1]):.1f}x ({factors[:, 1].min():.1f} to {factors[:, 1].max():.1f})"
        row[f"{what}, wall"] = f"{np.median(factors[:, 0]):.1f}x"
    return row


# -- all ----------------------------------------------------------------------------------------------------------------


def corpus_of(given: argparse.Namespace) -> Path:
    """The corpus's folder."""
    return given.run / "corpus" if (given.run / "corpus").is_dir() else given.run


def results_of(given: argparse.Namespace) -> dict[str, dict]:
    """The results' file of this corpus, these vectors and this limit of epochs, as it is, or a new one."""
    corpus = {file.name: hash_file(file) for file in sorted(corpus_of(given).glob("*.parquet"))}
    vectors = hash_file(given.vectors) if given.vectors else minilm.NAME
    return read_results(given.work / "results.json", {"corpus": corpus, "vectors": vectors, "epochs": given.epochs})


def prepare(given: argparse.Namespace) -> tuple[Corpus, np.ndarray]:
    """The corpus and its items' unit-length vectors, both written into the working folder as the official code reads them."""
    write_json(given.work / "results.json", results_of(given))  # ends the script where what was made is of other data
    folder = corpus_of(given)
    corpus = Corpus.load(folder)
    if corpus.max_history != 10:
        raise SystemExit(f"The official code reads histories of 10 items; {folder} has {corpus.max_history}.")
    (given.work / "ranks").mkdir(exist_ok=True)
    llm2rec_files.write(corpus, given.work / "data" / FOLDER, name="corpus")
    file = given.work / "vectors-unit.npy"
    if not file.is_file():
        rows = np.load(given.vectors) if given.vectors else minilm.encode_titles(corpus.titles)
        np.save(file, item_table.prepare_embeddings(rows, corpus.n_items, "unit"))
    vectors = np.load(file)
    for length, scale in LENGTHS.items():
        if length != "unit":
            np.save(
                given.work / f"vectors-{length}.npy", item_table.prepare_embeddings(vectors, corpus.n_items, "unit", scale)
            )
    return corpus, vectors


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--python", required=True, help="of an environment for the official code")
    parser.add_argument("--run", type=Path, help="folder of a run, or of a corpus")
    parser.add_argument("--work", type=lambda p: Path(p).resolve(), help="folder for what is made")
    parser.add_argument("--vectors", type=Path, help="items' vectors, .npy")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="default: all")
    parser.add_argument("--epochs", type=int, default=1000, help="most epochs, a multiple of 5 (validation is every fifth)")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dropout", type=int, metavar="DRAWS", help="compare losses under dropout instead")
    parser.add_argument("--record", type=lambda p: Path(p).resolve(), help="file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not (given.checkout / "seqrec" / "recdata.py").is_file():
        raise SystemExit(
            f"--checkout expects a clone of the official repository; {given.checkout} has no seqrec/recdata.py."
        )
    if given.record:
        record(given)
        return
    if not given.work or not (given.times or given.run):
        parser.error("--work is needed, and --run or --times")
    given.work.mkdir(parents=True, exist_ok=True)
    pl.Config(
        tbl_cols=-1,
        tbl_rows=60,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_width_chars=240,
        fmt_str_lengths=80,
    )
    if given.times:
        times(given)
        return
    corpus, vectors = prepare(given)
    if given.dropout:
        dropout(given, corpus, vectors)
        return
    tables(given, corpus, train_all(given, corpus, vectors))


if __name__ == "__main__":
    main()
