#!/usr/bin/env bash
# RecTools 0.19.0: an item that a user has several times in the test set is several hits, and NDCG can be 1.4.
# Guess: a recommended item is right or wrong, once; NDCG is at most 1, as its page says ("lie in [0, 1]").
# Fact: recommendations are joined to the rows of the test set, one hit a row, all at the item's rank, and precision, recall,
#   F1, MAP and NDCG count those; hit rate, MRR and the AUC metrics do not. The splitters leave such rows in, with
#   filter_already_seen=True too, which looks at the training part. So a model that finds the one thing that a user bought three
#   times beats one that finds two of three: 1.41 to 0.77 in NDCG@3, where over items it is 0.47 to 0.77.
# So: drop_duplicates([Columns.User, Columns.Item]) on the test set before calc_metrics, unless purchases are to be counted.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile rectools==0.19.0 numpy==1.26.4 pandas==2.3.3 scipy==1.17.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import pandas as pd
from rectools import Columns
from rectools.dataset import Interactions
from rectools.metrics import MAP, MRR, NDCG, HitRate, PartialAUC, Precision, Recall, calc_metrics
from rectools.model_selection import LastNSplitter

# Of the last five purchases of each user three are of one item, which the user had not bought before.
bought = {1: [1, 2, 4, 9, 10, 5, 5, 7, 5, 8], 2: [5, 7, 8, 9, 10, 1, 1, 2, 1, 4]}
rows = [(user, item, 1.0, day) for user, items in bought.items() for day, item in enumerate(items)]
frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime])
frame[Columns.Datetime] = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame[Columns.Datetime], unit="D")
(_, kept, _), = LastNSplitter(n=5).split(Interactions(frame))
test = frame.iloc[kept]
lists = {
    "finds the item bought three times": {1: [5, 11, 12], 2: [1, 11, 12]},
    "finds the two others": {1: [7, 8, 11], 2: [2, 4, 11]},
}
metrics = {metric.__name__: metric(k=3) for metric in (Precision, Recall, MAP, NDCG, HitRate, MRR, PartialAUC)}
seen = {}
for model, found in lists.items():
    made = [(user, item, rank) for user, items in found.items() for rank, item in enumerate(items, 1)]
    recommended = pd.DataFrame(made, columns=[Columns.User, Columns.Item, Columns.Rank])
    for case, targets in {"rows": test, "items": test.drop_duplicates([Columns.User, Columns.Item])}.items():
        values = calc_metrics(metrics, recommended, targets)
        seen[model, case] = {name: round(float(values[name]), 4) for name in metrics}
        print(f"{model}, over {case}:", seen[model, case])
first, second = lists
expected = {
    (first, "rows"): dict(Precision=1.0, Recall=0.6, NDCG=1.4078),
    (first, "items"): dict(Precision=0.3333, Recall=0.3333, NDCG=0.4693),
    (second, "rows"): dict(Precision=0.6667, Recall=0.4, NDCG=0.7654),
    (second, "items"): dict(Precision=0.6667, Recall=0.6667, NDCG=0.7654),
}
if len(test) != 10 or {case: {name: seen[case][name] for name in values} for case, values in expected.items()} != expected:
    sys.exit(f"changed: expected {expected}")
if any(seen[model, "rows"][name] != seen[model, "items"][name] for model in lists for name in ("HitRate", "MRR", "PartialAUC")):
    sys.exit("changed: expected hit rate, MRR and PartialAUC to be the same over rows and over items")
PY
