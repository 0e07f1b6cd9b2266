#!/usr/bin/env bash
# pytrec-eval-terrier 0.5.11: an item with the strictly higher score can be ranked below another.
# Guess: Python floats are compared as the doubles they are.
# Fact: scores are stored in float32. Two that differ only beyond its 24 bits count as equal, and equal scores go by
#   name, last name first: 0.99999999 for "a" loses to 0.99999998 for "b". Probabilities near 1 and large sums do that.
# So: hand over ranks (for instance n - position) instead of scores.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile pytrec-eval-terrier==0.5.11 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import pytrec_eval

wanted_first = pytrec_eval.RelevanceEvaluator({"user": {"a": 1}}, {"recip_rank"})
seen = {}
for case, scores in {
    "probabilities": {"a": 0.99999999, "b": 0.99999998},
    "large numbers": {"a": 16777217.0, "b": 16777216.0},
    "ranks": {"a": 2.0, "b": 1.0},
}.items():
    seen[case] = wanted_first.evaluate({"user": scores})["user"]["recip_rank"]
    print(case, scores, "reciprocal rank of a:", seen[case])
if list(seen.values()) != [0.5, 0.5, 1.0]:
    sys.exit("changed: expected 0.5, 0.5, 1.0")
PY
