#!/usr/bin/env bash
# implicit 0.7.3: recommend(filter_already_liked_items=True) returns items that the user has already liked.
# Guess: filtered items are left out, so a user with few items left gets a shorter list.
# Fact: the list always has N entries; where too few are left it is filled up with the filtered items, at a score of -3.4e38,
#   with ids that look like all others. filter_items behaves alike.
# So: cut the list where the score is the lowest float32 before counting, showing or evaluating it.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile implicit==0.7.3 numpy==2.4.6 scipy==1.17.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import numpy as np
import scipy.sparse
from implicit.als import AlternatingLeastSquares

likes = scipy.sparse.csr_matrix((np.random.default_rng(0).random((20, 12)) < 0.4).astype("float32"))
model = AlternatingLeastSquares(factors=4, iterations=3, random_state=0, num_threads=1, use_gpu=False)
model.fit(likes, show_progress=False)
liked = set(likes[0].indices.tolist())
items, scores = model.recommend(0, likes[0], N=12, filter_already_liked_items=True)
print("liked", sorted(liked))
print("recommended", items.tolist())
print("scores", np.round(scores, 2).tolist())
tail = {int(item) for item, score in zip(items, scores) if score <= np.finfo("float32").min}
if len(items) != 12 or tail != liked:
    sys.exit("changed: expected all 12 items, the liked ones at the end with the lowest float32 as score")
PY
