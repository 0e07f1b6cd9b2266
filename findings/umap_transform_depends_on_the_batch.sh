#!/usr/bin/env bash
# umap-learn 0.5.12: where transform() puts a point depends on which points are transformed beside it.
# Guess: once fitted, with a random_state, transform is a function of the point; new items can be placed one by one.
# Fact: repeating a call repeats its result, but a point alone lands elsewhere than in its batch. The training data as a
#   whole come back exactly as fitted (they are recognised), a part of them is placed anew, off by more than the spread.
# So: place all new points in one call and keep the result; never transform a part to look a fitted point up.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile umap-learn==0.5.12 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import numpy as np
import umap

numbers = np.random.default_rng(0)
fitted, new = (numbers.normal(size=(n, 16)).astype("float32") for n in (300, 40))
model = umap.UMAP(random_state=0, n_jobs=1, n_neighbors=10).fit(fitted)
together = model.transform(new)
seen = {
    "same call again": together - model.transform(new),
    "one alone": together[:1] - model.transform(new[:1]),
    "all fitted points": model.embedding_ - model.transform(fitted),
    "50 of them": model.embedding_[:50] - model.transform(fitted[:50]),
}
print("spread of the map", model.embedding_.std())
for case, difference in seen.items():
    seen[case] = float(np.abs(difference).max())
    print(case, "off by up to", seen[case])
if [value > 1e-3 for value in seen.values()] != [False, True, False, True]:
    sys.exit("changed: expected no difference, a difference, none, a difference")
PY
