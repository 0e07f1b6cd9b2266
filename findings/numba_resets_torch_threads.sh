#!/usr/bin/env bash
# numba 0.68.1 with torch 2.13.0 on Linux: the first parallel function of numba undoes torch.set_num_threads.
# Guess: torch's number of threads is torch's own; a library beside it, UMAP say, has a pool and a setting of its own.
# Fact: both load the same OpenMP runtime. When numba starts its threads, at the first call of a function with parallel=True, it
#   sets OpenMP's number to NUMBA_NUM_THREADS (all cores), and torch computes with as many from then on (if it had
#   computed, or been asked for its threads, in that thread before; else it sets its own when it first does). Only the
#   first call does. UMAP's fit makes such a call, with n_jobs=1 and random_state too.
# So: after a UMAP fit a process that was held to one thread trains on all cores, with other last bits, and on a busy machine
#   many times slower. Set torch's threads again after the first fit.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 numba==0.68.1 umap-learn==0.5.12 numpy==2.4.6 || exit 2
cd "$dir"
NUMBA_NUM_THREADS=2 "$dir/venv/bin/python" -I -W ignore - <<'PY'
import os
import sys
import torch
import numba
import numpy as np


@numba.njit(parallel=True)
def add_up(values):
    total = 0.0
    for i in numba.prange(len(values)):
        total += values[i]
    return total


def fit_umap():
    import umap

    umap.UMAP(n_jobs=1, random_state=0, n_neighbors=5).fit(np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32))


CALLS = {"numba": lambda: add_up(np.ones(10)), "UMAP": fit_umap}


def count_threads(names):
    """Torch's threads after each call, set to 1 before it, in a process of its own: the two counts as one number."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = []
    for name in names:
        torch.set_num_threads(1)
        assert torch.get_num_threads() == 1
        CALLS[name]()
        found.append(torch.get_num_threads())
    os._exit(10 * found[0] + found[1])


seen = [count_threads(names) for names in (["numba", "numba"], ["UMAP", "UMAP"], ["UMAP", "numba"])]
print("torch's threads after a first and a second call, set to 1 before each:", *(divmod(n, 10) for n in seen))
if seen != [21, 21, 21]:
    sys.exit("changed: expected 2, then 1, three times")
PY
