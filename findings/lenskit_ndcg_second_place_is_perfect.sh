#!/usr/bin/env bash
# lenskit 2025.8.1: NDCG takes nothing off the second place, and less off the others than most programs.
# Guess: NDCG@10 of a list with its one target at rank r is 1 / log2(r + 1): 1, 0.63, 0.5, 0.43 ...
# Fact: it is 1 / log2(max(r, 2)), as in the paper of 2002: 1, 1, 0.63, 0.5 ... The page of NDCG speaks of a base-2 logarithm;
#   the rest stands with LogRankWeight. A model with all targets in second place is perfect, and beats one with half of them
#   first and half third, which is the better by the usual formula.
# So: pass NDCG(10, weight=LogRankWeight(offset=1)) where the values stand beside others.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile lenskit==2025.8.1 torch==2.13.0 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import math
import sys
from lenskit.data import ItemList, ItemListCollection
from lenskit.metrics import NDCG, RunAnalysis
from lenskit.metrics.ranking import LogRankWeight

items = [f"i{n}" for n in range(10)]


def measure(metric, ranks):
    """The mean of a metric over users who get the same list and want the item at one of these ranks each."""
    lists, targets = ItemListCollection(["user_id"]), ItemListCollection(["user_id"])
    for user, rank in enumerate(ranks):
        lists.add(ItemList(item_ids=items, ordered=True), user_id=user)
        targets.add(ItemList(item_ids=[items[rank - 1]]), user_id=user)
    return round(float(RunAnalysis(metric).measure(lists, targets).list_summary()["mean"].item()), 4)


seen, expected = {}, {}
for name, ranks in {"all second": [2, 2, 2, 2], "first or third": [1, 1, 3, 3], "all tenth": [10] * 4}.items():
    seen[name] = [measure(NDCG(10), ranks), measure(NDCG(10, weight=LogRankWeight(offset=1)), ranks)]
    discounts = [[math.log2(max(rank, 2)) for rank in ranks], [math.log2(rank + 1) for rank in ranks]]
    expected[name] = [round(sum(1 / discount for discount in way) / len(ranks), 4) for way in discounts]
    print(name, "- NDCG@10:", seen[name][0], " with offset=1:", seen[name][1])
if seen != expected:
    sys.exit(f"changed: expected {expected}")
PY
