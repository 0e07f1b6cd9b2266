#!/usr/bin/env bash
# numba 0.68.1: of two functions made of one by njit, the one with parallel=True and the other without, cache=True keeps one: the next
#   process takes the parallel code for the other, too.
# Guess: options that change the code, as parallel and fastmath do, are part of what the cache asks for.
# Fact: files are named by source file, name and line, entries by signature, processor and byte code. Whichever was compiled last is
#   read for both: a sum that was to be made in one order comes out in another, with as many last bits as there are threads.
# So: give each its own def, or keep code under a name that holds the dispatcher's targetoptions. umap-learn makes its layout so (seeded
#   on one core, unseeded on all), which matters as soon as somebody gives the two a cache.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile numba==0.68.1 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import os
import subprocess
import sys
from pathlib import Path

Path("sums.py").write_text('''
import sys
import numba
import numpy as np


def add(values):
    total = np.float32(0)
    for k in numba.prange(len(values)):
        total += values[k]
    return total


in_order = numba.njit(cache=True)(add)
in_any = numba.njit(cache=True, parallel=True)(add)
values = np.random.default_rng(0).normal(size=100_003).astype(np.float32)
which = in_order if sys.argv[1] == "in order" else in_any
print(float(which(values)).hex(), which.stats.cache_hits.total())
''')


def ask(which, cache):
    where = os.environ | {"NUMBA_CACHE_DIR": str(Path(cache).resolve()), "NUMBA_NUM_THREADS": "2"}
    return subprocess.run([sys.executable, "-W", "ignore", "sums.py", which], env=where, capture_output=True, text=True, check=True).stdout.split()


alone, _ = ask("in order", "one")
parallel, _ = ask("in any", "other")
after, read = ask("in order", "other")
print(f"in order {alone}, parallel {parallel}; in order after it, with its cache: {after}, read from the cache {read} times")
if alone == parallel or after != parallel or read != "1":
    sys.exit("changed: expected the parallel sum, read from the cache, where the one in order was asked for")
PY
