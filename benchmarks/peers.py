"""ItemKNN by implicit beside the kit's: the same corpus, one thread each, seconds to learn and to rank, and Recall@10.

    benchmarks/peers.sh FOLDER implicit
    python benchmarks/peers.py --run RUN --implicit FOLDER/implicit/bin/python        RUN: folder of a run, or of a corpus

Both learn cosines between items as sets of training users and keep 100 neighbours an item; a sample's history alone is what it
knows. implicit leaves out the history and gives its 20 best; the kit leaves out all that the user had, ranks the target among all
items, and lists the 20 best.
The other peers stand where their work is: RecBole in downstream.py, llm2vec in encode.py, the official code in official_code.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
from downstream import timed
from scipy import sparse

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import baselines
from llm2rec_kit.results import metrics

LISTED = 20
IMPLICIT = """
import json, sys, time
import numpy as np, scipy.sparse
from implicit.nearest_neighbours import CosineRecommender
folder, rounds, neighbours, listed = sys.argv[1], *map(int, sys.argv[2:])
had, histories = (scipy.sparse.load_npz(f"{folder}/{name}.npz").tocsr() for name in ("had", "histories"))
targets, found = np.load(f"{folder}/targets.npy"), []
for _ in range(rounds + 1):
    times = [time.process_time()]
    model = CosineRecommender(K=neighbours, num_threads=1)
    model.fit(had, show_progress=False)
    times.append(time.process_time())
    items, scores = model.recommend(np.arange(histories.shape[0]), histories, N=listed, filter_already_liked_items=True)
    times.append(time.process_time())
    found.append(np.diff(times).tolist())
there = (items[:, :10] == targets[:, None]) & (scores[:, :10] > 0)
print("RESULT", json.dumps({"seconds": found[1:], "recall@10": float(there.any(1).mean())}))
"""


def written(corpus: Corpus, folder: Path) -> None:
    """Write what implicit reads: who had what in training, the test samples' histories, their targets."""
    where = np.flatnonzero(baselines.mark_training(corpus))
    targets = corpus.samples("test")
    starts = corpus.starts(targets)
    lengths = targets - starts
    rows = np.repeat(np.arange(len(targets)), lengths)
    places = np.concatenate([np.arange(a, b) for a, b in zip(starts, targets, strict=True)])
    for name, owners, items, count in (
        ("had", corpus.owners(where), corpus.sequence[where], corpus.n_users),
        ("histories", rows, corpus.sequence[places], len(targets)),
    ):
        matrix = sparse.csr_matrix((np.ones(len(items), np.float32), (owners, items - 1)), shape=(count, corpus.n_items))
        matrix.data[:] = 1
        sparse.save_npz(folder / f"{name}.npz", matrix)
    np.save(folder / "targets.npy", corpus.sequence[targets] - 1)


def by_implicit(python: str, corpus: Corpus, rounds: int) -> dict:
    """Seconds (rounds, to learn and to rank) and Recall@10 of implicit, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        written(corpus, Path(folder))
        words = [python, "-c", IMPLICIT, folder, str(rounds), str(baselines.NEIGHBOURS), str(LISTED)]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ""}
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **threads})
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        raise SystemExit(f"implicit did not run: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(found[-1].removeprefix("RESULT "))


def by_kit(corpus: Corpus, rounds: int) -> dict:
    """The same of the kit; what the ranking takes is the whole but for the learning."""
    seconds = []
    for _ in range(rounds + 1):
        learned = timed(lambda: baselines.itemknn(corpus))[1] / 1e3
        found = []
        whole = timed(lambda f=found: f.append(baselines.rank("itemknn", corpus, exclude="seen", cutoffs=[10, LISTED])))[1]
        seconds.append([learned, whole / 1e3 - learned])
    return {"seconds": seconds[1:], "recall@10": metrics.summarise(found[0].ranks, [10])["recall@10"]}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, or of a corpus")
    parser.add_argument("--implicit", required=True, metavar="PYTHON", help="of the environment that peers.sh makes")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.load(given.run / "corpus" if (given.run / "corpus").is_dir() else given.run)
    rows = []
    for way, found in (
        ("kit", by_kit(corpus, given.rounds)),
        ("implicit", by_implicit(given.implicit, corpus, given.rounds)),
    ):
        learned, ranked = np.median(found["seconds"], axis=0)
        rows.append({"way": way, "learn, s": learned, "rank, s": ranked, "Recall@10": found["recall@10"]})
    print(
        f"\nItemKNN, {corpus.n_items:,} items, {len(corpus.samples('test')):,} test samples; load {os.getloadavg()[0]:.1f}"
    )
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=4):
        print(pl.DataFrame(rows))


if __name__ == "__main__":
    main()
