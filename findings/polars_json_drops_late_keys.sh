#!/usr/bin/env bash
# polars 2.1.0: read_ndjson leaves out, without a word, every key that first appears after line 100.
# Guess: a value that the sampled schema cannot hold is an error (a float among ints is one), so a key that it does not
#   know is one too, or becomes a column with nulls.
# Fact: the columns come from the first 100 lines (infer_schema_length) and keys beyond them vanish, 1 of 2 columns here.
#   pandas and infer_schema_length=None have both.
# So: for metadata with optional fields give the schema, or infer_schema_length=None; a missing column is no proof that
#   the file has none.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile polars==2.1.0 pandas==3.1.1 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import io
import sys
import pandas as pd
import polars as pl

lines = '{"item": 1}\n' * 150 + '{"item": 2, "title": "Late"}\n'
seen = {
    "polars": pl.read_ndjson(lines.encode()).columns,
    "polars, all lines": pl.read_ndjson(lines.encode(), infer_schema_length=None).columns,
    "pandas": pd.read_json(io.StringIO(lines), lines=True).columns.tolist(),
}
for reader, columns in seen.items():
    print(reader, columns)
if list(seen.values()) != [["item"], ["item", "title"], ["item", "title"]]:
    sys.exit("changed: expected one column from polars' default and two from the others")
PY
