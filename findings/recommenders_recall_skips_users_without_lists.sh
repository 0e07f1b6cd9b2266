#!/usr/bin/env bash
# recommenders 1.2.1: recall and precision leave out the test users that have no list; NDCG of the same frames does not.
# Guess: who has no recommendations counts 0 in all of them, so that with one target a user Recall@K is never below NDCG@K, and
#   equal to it where all hits are in first place.
# Fact: recall_at_k, precision_at_k and map_at_k divide by the users that both frames know, ndcg_at_k by all of the test
#   frame. A model that answers for 2 users of 10 and is right has Recall@10 of 1 with NDCG@10 of 0.2; by recall it beats
#   one that answers for all and is right for 6, by NDCG it loses.
# So: give every test user a list (popular items, or one row with an item that nobody wants) before you evaluate, or
#   multiply by the share of test users with lists.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile pandas==2.3.3 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 || exit 2
"$dir/venv/bin/pip" install -qq --no-compile --no-deps recommenders==1.2.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import pandas as pd
from recommenders.evaluation.python_evaluation import map_at_k, ndcg_at_k, precision_at_k, recall_at_k

wanted = pd.DataFrame({"userID": range(10), "itemID": range(100, 110), "rating": 1.0})


def recommend(users, right):
    """Lists of ten, best first, for the first `users` users; those of the first `right` begin with the wanted item."""
    lists = [([100 + user] if user < right else [0]) + list(range(1, 10)) for user in range(users)]
    rows = [(user, item, 1 / (n + 1)) for user, made in enumerate(lists) for n, item in enumerate(made)]
    return pd.DataFrame(rows, columns=["userID", "itemID", "prediction"])


seen = {}
for case, lists in {"10 lists, 6 right": recommend(10, 6), "2 lists, 2 right": recommend(2, 2)}.items():
    metrics = recall_at_k, precision_at_k, map_at_k, ndcg_at_k
    seen[case] = [round(float(metric(wanted, lists, k=10)), 4) for metric in metrics]
    print(case, "- recall, precision, MAP, NDCG at 10:", *seen[case])
# Over all ten users the second model has 0.2, 0.02, 0.2 and 0.2.
if seen != {"10 lists, 6 right": [0.6, 0.06, 0.6, 0.6], "2 lists, 2 right": [1.0, 0.1, 1.0, 0.2]}:
    sys.exit("changed: expected 0.6, 0.06, 0.6, 0.6 with all lists and 1, 0.1, 1, 0.2 with two")
PY
