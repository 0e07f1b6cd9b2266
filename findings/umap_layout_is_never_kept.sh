#!/usr/bin/env bash
# umap-learn 0.5.12: with NUMBA_CACHE_DIR set, every new process compiles the layout anew all the same.
# Guess: numba keeps what it compiled in that folder, as the many files there say, so only the first process waits.
# Fact: the files are of pynndescent's functions. umap-learn marks none of those that a small map calls (the neighbours' weights, the
#   layout's epoch) with cache=True, and the variable adds no function. The second process reads none of them: some ten seconds before
#   a map that takes a tenth of one.
# So: give those that are called a cache before their first call, function.enable_caching(), in a folder named by the versions of
#   umap-learn, pynndescent and numba: numba does not see that a function called from another file has changed. Leave the unseeded, parallel
#   epoch without one, which is made of the same def (numba_cache_mixes_parallel.sh).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile umap-learn==0.5.12 pynndescent==0.7.0 numba==0.68.1 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import os
import subprocess
import sys
from pathlib import Path

MAP = """
import sys
import numpy as np
import umap
from umap import layouts, umap_

of_a_map = [umap_.smooth_knn_dist, umap_.compute_membership_strengths, layouts._nb_optimize_layout_euclidean_single_epoch]
if sys.argv[1] == "kept":
    for function in of_a_map:
        function.enable_caching()
rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
umap.UMAP(random_state=1, n_epochs=5).fit(rows)
print([(f.stats.cache_hits.total(), f.stats.cache_misses.total()) for f in of_a_map])
"""


def ask(way):
    """(read, compiled) of three functions in a new process."""
    words = [sys.executable, "-I", "-W", "ignore", "-c", MAP, way]
    where = os.environ | {"NUMBA_CACHE_DIR": str(Path("cache").resolve())}
    return subprocess.run(words, env=where, capture_output=True, text=True, check=True).stdout.strip()


_, second = ask("as it is"), ask("as it is")
files = len([*Path("cache").rglob("*.nbc")])
_, kept = ask("kept"), ask("kept")
print(f"{files} files in NUMBA_CACHE_DIR; read and compiled of three functions in the second process: {second}; with enable_caching: {kept}")
if files <= 20 or second != str([(0, 1)] * 3) or kept != str([(1, 0)] * 3):
    sys.exit("changed: expected all three compiled in the second process, and none with enable_caching")
PY
