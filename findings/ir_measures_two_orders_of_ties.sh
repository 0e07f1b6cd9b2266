#!/usr/bin/env bash
# ir-measures 0.4.3 (with pytrec-eval-terrier 0.5.11): one call breaks equal scores in two opposite orders.
# Guess: all measures of one call look at one ranking, so RR@10 = 1 puts the relevant item first and nDCG@10 sees it.
# Fact: RR@10 comes from a provider that puts the smallest name first, RR and nDCG@10 from one that puts the largest first. A
#   model that gives 100 items the same score gets RR@10 of 1 with nDCG@10 of 0, or the reverse, by the item's name.
# So: break ties before evaluating (against the model, or at random); a perfect value may be an item's name.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile ir-measures==0.4.3 pytrec-eval-terrier==0.5.11 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import ir_measures
from ir_measures import RR, nDCG

items = [f"i{n:02d}" for n in range(100)]
run = {"user": dict.fromkeys(items, 0.0)}
seen = {}
for wanted in ("i00", "i99"):
    values = ir_measures.calc_aggregate([RR @ 10, RR, nDCG @ 10], {"user": {wanted: 1}}, run)
    seen[wanted] = [round(values[measure], 4) for measure in (RR @ 10, RR, nDCG @ 10)]
    print("all scores equal, wanted", wanted, "- RR@10, RR, nDCG@10:", *seen[wanted])
if seen != {"i00": [1.0, 0.01, 0.0], "i99": [0.0, 1.0, 1.0]}:
    sys.exit("changed: expected 1, 0.01, 0 for the first name and 0, 1, 1 for the last")
PY
