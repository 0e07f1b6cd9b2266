#!/usr/bin/env bash
# polars 2.1.0: under an Int64 schema, read_ndjson(ignore_errors=True) turns 5.0 into null.
# Guess: 5.0 is a whole number; it fits, as a cast of a float column (5.0 to 5) does.
# Fact: any number with a decimal point is a mismatch, hence null, and nothing is counted; without ignore_errors it is an
#   error. The same column read as Float64 and then cast keeps every value.
# So: a rating that some lines write as 5 and others as 5.0 loses the latter. Read such columns as Float64 and cast with
#   strict=True afterwards.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile polars==2.1.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import polars as pl

lines = b'{"rating": 4}\n{"rating": 5.0}\n'
direct = pl.read_ndjson(lines, schema={"rating": pl.Int64}, ignore_errors=True)["rating"].to_list()
cast = pl.read_ndjson(lines, schema={"rating": pl.Float64})["rating"].cast(pl.Int64).to_list()
try:
    strict = pl.read_ndjson(lines, schema={"rating": pl.Int64})["rating"].to_list()
except pl.exceptions.ComputeError as error:
    strict = f"ComputeError: {error}"
print("Int64, ignore_errors", direct)
print("Int64               ", strict)
print("Float64, then cast  ", cast)
if direct != [4, None] or not isinstance(strict, str) or cast != [4, 5]:
    sys.exit("changed: expected [4, None], an error, [4, 5]")
PY
