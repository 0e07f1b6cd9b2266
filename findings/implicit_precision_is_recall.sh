#!/usr/bin/env bash
# implicit 0.7.3: what ranking_metrics_at_k and precision_at_k call precision is no precision.
# Guess: precision at 10 is the hits among ten over ten, averaged over users: at most 0.1 where each has one test item.
# Fact: it is the hits of all users over the sum of min(10, test items) of all users. With one test item a user that is the
#   hit rate, which the field calls Recall@10; with more it is averaged over test items, not users, so that who has many counts
#   most. map and ndcg of the same call are means over users.
# So: beside leave-one-out numbers read it as Recall@K, and beside others compute both anew from the lists.
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
from implicit.evaluation import precision_at_k, ranking_metrics_at_k


class FirstItems:
    """Recommends the items 0 to N - 1 to everyone."""

    def recommend(self, userid, user_items, N=10, **rest):
        return np.tile(np.arange(N, dtype=np.int32), (len(userid), 1)), np.ones((len(userid), N), dtype=np.float32)


def measure(*test_items):
    """(precision, map, precision_at_k) at 10 of users with these test items."""
    test = scipy.sparse.lil_matrix((len(test_items), 40), dtype=np.float32)
    for user, items in enumerate(test_items):
        test[user, items] = 1
    given = FirstItems(), scipy.sparse.csr_matrix(test.shape, dtype=np.float32), test.tocsr()
    of_all = ranking_metrics_at_k(*given, K=10, show_progress=False, num_threads=1)
    alone = precision_at_k(*given, K=10, show_progress=False, num_threads=1)
    return [round(float(value), 4) for value in (of_all["precision"], of_all["map"], alone)]


# One test item each, hit at ranks 1 and 2: precision 0.1, recall 1. Then one user hit, and one with 20 items, none of them hit:
# precision 0.05, recall 0.5, and 1 of 11 hits where each could have ten at most.
seen = {"one item each": measure([0], [1]), "one and twenty": measure([0], list(range(20, 40)))}
print(seen)
if seen != {"one item each": [1.0, 0.75, 1.0], "one and twenty": [0.0909, 0.5, 0.0909]}:
    sys.exit("changed: expected 1.0 and 1/11 as precision, 0.75 and 0.5 as map")
PY
