#!/usr/bin/env bash
# polars 2.1.0: of two equal keys in one JSON object, read_ndjson and read_json keep the first.
# Guess: the last one counts, as in Python's json, in pandas, in JavaScript.
# Fact: {"price": 1, "price": 2} is 1 in polars and 2 in the others; none of them says that there were two.
# So: moving a loader from `for line in file: json.loads(line)` to polars can change values; where a file may hold a key
#   twice, look for it with json.loads(line, object_pairs_hook=...) first.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile polars==2.1.0 pandas==3.1.1 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import io
import json
import sys
import pandas as pd
import polars as pl

line = '{"price": 1, "price": 2}'
seen = {
    "polars read_ndjson": pl.read_ndjson(line.encode()).item(),
    "polars read_json": pl.read_json(f"[{line}]".encode()).item(),
    "Python json": json.loads(line)["price"],
    "pandas": int(pd.read_json(io.StringIO(line), lines=True).price[0]),
}
for reader, value in seen.items():
    print(reader, value)
if list(seen.values()) != [1, 1, 2, 2]:
    sys.exit("changed: expected 1, 1, 2, 2")
PY
