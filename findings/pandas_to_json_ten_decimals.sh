#!/usr/bin/env bash
# pandas 3.1.1: to_json keeps ten places behind the point, not ten digits, so small numbers become 0.0.
# Guess: floats survive to_json and read_json, as they survive to_csv and Python's json.
# Fact: everything is rounded to ten decimals: a p value of 1e-11 is 0.0, a float64 vector differs nearly everywhere,
#   in silence. double_precision goes up to 15 places, which is too few as well.
# So: write vectors, scores and p values with Python's json, CSV or parquet.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile pandas==3.1.1 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import io
import json
import sys
import numpy as np
import pandas as pd

table = pd.DataFrame({"x": np.random.default_rng(0).normal(size=1000)})
table.loc[0, "x"] = 1e-11
seen = {
    "to_json": pd.read_json(io.StringIO(table.to_json()), precise_float=True).x,
    "to_json, 15 places": pd.read_json(io.StringIO(table.to_json(double_precision=15)), precise_float=True).x,
    "to_csv": pd.read_csv(io.StringIO(table.to_csv())).x,
    "Python json": pd.Series(json.loads(json.dumps(table.x.tolist()))),
}
changed = {}
for writer, back in seen.items():
    changed[writer] = int((back.to_numpy() != table.x.to_numpy()).sum())
    print(writer, "changed", changed[writer], "of 1000; 1e-11 came back as", back[0])
if seen["to_json"][0] != 0.0 or changed["to_json"] < 900 or changed["to_json, 15 places"] < 500:
    sys.exit("changed: to_json keeps more than it did")
if changed["to_csv"] or changed["Python json"]:
    sys.exit("changed: to_csv or json no longer keeps every bit")
PY
