#!/usr/bin/env bash
# cornac 3.0.1: items that a user has rated below rating_threshold in training are ranked again in the evaluation.
# Guess: rating_threshold says which test items are hits; what a user has seen is left out of the ranking, as the
#   description of ranking_eval says of train_set ("to exclude observations already appeared during training").
# Fact: only seen items at or above the threshold are left out. The others are candidates and can be nothing but wrong, so
#   they push the targets down: a model can have Recall@10 of 0 where each of its lists by recommend(remove_seen=True)
#   has the target first. At the default threshold, 1, all seen items of a scale from 1 to 5 are left out.
# So: beside numbers of other programs drop the low ratings from the test set yourself and leave rating_threshold at 1.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile cornac==3.0.1 numpy==2.4.6 scipy==1.17.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
from cornac.eval_methods import BaseMethod
from cornac.metrics import NDCG, Recall
from cornac.models import MostPop

# All users gave two stars to ten items everyone knows and five to one of two others; each wants the other of the two, at
# five stars, so that no threshold changes the targets. One more user knows the rest of the catalogue.
users, liked = [f"u{n}" for n in range(40)], ["a", "b"]
train = [(user, f"known{n}", 2.0) for user in users for n in range(10)]
train += [(user, liked[n % 2], 5.0) for n, user in enumerate(users)]
train += [("collector", f"rare{n}", 5.0) for n in range(50)]
wanted = {user: liked[1 - n % 2] for n, user in enumerate(users)}
test = [(user, item, 5.0) for user, item in wanted.items()]
seen = {}
for threshold in (1.0, 4.0):
    method = BaseMethod.from_splits(train_data=train, test_data=test, rating_threshold=threshold, seed=0)
    model = MostPop().fit(method.train_set)
    values = method.evaluate(model, [Recall(k=10), NDCG(k=10)], user_based=True)[0].metric_avg_results
    lists = {user: model.recommend(user, k=10, remove_seen=True, train_set=method.train_set) for user in users}
    first = sum(lists[user][0] == wanted[user] for user in users)
    seen[threshold] = [float(values["Recall@10"]), float(values["NDCG@10"]), first]
    print("rating_threshold", threshold, "- Recall@10, NDCG@10:", *seen[threshold][:2])
    print("  lists by recommend(remove_seen=True) with the target first:", first, "of", len(users))
if seen != {1.0: [1.0, 1.0, 40], 4.0: [0.0, 0.0, 40]}:
    sys.exit("changed: expected 1 at a threshold of 1, 0 at 4, and the target first in all lists")
PY
