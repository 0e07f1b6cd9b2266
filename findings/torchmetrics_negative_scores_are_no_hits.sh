#!/usr/bin/env bash
# torchmetrics 1.9.0: in four of its retrieval metrics an item with a score of zero or below is no hit, wherever it ranks.
# Guess: RetrievalRecall and RetrievalMRR look at the order alone, so logits, probabilities and their logarithms give one
#   value.
# Fact: recall, precision, MRR and MAP first strike out every relevant item whose score is not above zero; hit rate and
#   nDCG do not. Log-probabilities get 0 in the four whatever the model; logits, cosines and dot products lose some hits.
#   With one target a user, recall and hit rate at 10 should be one number, and are not.
# So: hand over ranks (n - position, all above zero) instead of scores; where there is one target, compare recall with the
#   hit rate.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import torch
from torchmetrics import retrieval

names = ["Recall", "Precision", "MRR", "MAP", "HitRate", "NormalizedDCG"]
# Two users rank 100 items alike and want the third of them; the logits of the second all lie below zero.
logits = torch.arange(100, 0, -1) / 10 + torch.tensor([[0.0], [-20.0]])
target = torch.zeros(2, 100, dtype=torch.bool)
target[:, 2] = True
users = torch.arange(2)[:, None].expand(2, 100)
seen = {}
print("at 10:", *names)
for case, scores in {"softmax": logits.softmax(1), "logits": logits, "log_softmax": logits.log_softmax(1)}.items():
    metrics = [getattr(retrieval, "Retrieval" + name)(top_k=10) for name in names]
    seen[case] = [round(float(metric(scores, target, indexes=users)), 4) for metric in metrics]
    print(case, *seen[case])
expected = {
    "softmax": [1.0, 0.1, 0.3333, 0.3333, 1.0, 0.5],
    "logits": [0.5, 0.05, 0.1667, 0.1667, 1.0, 0.5],
    "log_softmax": [0.0, 0.0, 0.0, 0.0, 1.0, 0.5],
}
if seen != expected:
    sys.exit(f"changed: expected {expected}")
PY
