#!/usr/bin/env bash
# ranx 0.3.21: compare(stat_test="tukey") tests the systems as if each had been given users of its own.
# Guess: like the other two tests of compare, and like Tukey's HSD where retrieval is compared, it takes the users into account
#   (two-way), and adds a correction for the number of systems to what the paired t test says.
# Fact: it is scipy's tukey_hsd over the bare values, for independent groups: with two systems the p value of the unpaired t
#   test. A system that is better for 140 users of 200 and worse for none has p = 0.55, and the same p if one system's values
#   are dealt out to other users; the paired t test says 3e-33.
# So: take stat_test="student" and correct its p values yourself (Holm); compare does not.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile ranx==0.3.21 numba==0.68.1 numpy==2.4.6 scipy==1.17.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import numpy as np
from ranx import Qrels, Run, compare
from scipy.stats import ttest_ind, ttest_rel


def rank_target(name, ranks):
    """A run whose lists of 20 have the target of each user at its rank."""
    others = [f"i{n}" for n in range(19)]
    lists = [others[: rank - 1] + ["target"] + others[rank - 1 :] for rank in ranks]
    return Run({f"u{user:03d}": {item: float(-n) for n, item in enumerate(made)} for user, made in enumerate(lists)}, name=name)


better = np.arange(200) % 10 + 1
worse = better + (better >= 4)  # one place lower, but for those in the first three places
dealt = np.random.default_rng(0).permutation(worse)
targets = Qrels({f"u{user:03d}": {"target": 1} for user in range(200)})
seen = {}
for case, ranks in {"same users": worse, "dealt out": dealt}.items():
    for test in ("student", "tukey"):
        runs = [rank_target("better", better), rank_target("worse", ranks)]
        report = compare(targets, runs, metrics=["mrr"], stat_test=test, threads=1).to_dict()["better"]
        seen[case, test] = float(report["comparisons"]["worse"]["mrr"])
        print(case, report["win_tie_loss"]["worse"]["mrr"], test, f"p = {seen[case, test]:.3g}")
paired, unpaired = (float(test(1 / better, 1 / worse).pvalue) for test in (ttest_rel, ttest_ind))
print(f"by hand: paired t test p = {paired:.3g}, unpaired p = {unpaired:.3g}")
expected = {
    ("same users", "student"): paired,
    ("same users", "tukey"): unpaired,
    ("dealt out", "student"): float(ttest_rel(1 / better, 1 / dealt).pvalue),
    ("dealt out", "tukey"): unpaired,
}
as_expected = all(np.isclose(seen[key], value, rtol=1e-4, atol=0) for key, value in expected.items())
if not (paired < 1e-30 and unpaired > 0.5 and as_expected):
    sys.exit(f"changed: expected {expected}")
PY
