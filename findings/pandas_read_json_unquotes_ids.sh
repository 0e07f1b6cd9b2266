#!/usr/bin/env bash
# pandas 3.1.1: read_json turns quoted ids into numbers and a key named `timestamp` into dates.
# Guess: JSON says what is text, so "0000031852" stays text; only CSV readers have to guess.
# Fact: a column of quoted digits becomes int64 (0000031852 is then 31852) unless one value has a letter, so the same id
#   differs between a small file and a large one. `timestamp`, `date`, `*_at`, `*_time` become datetimes by their name.
# So: read ids with dtype=False (or a dtype for each column) and convert_dates=False, or with json.loads.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile pandas==3.1.1 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import io
import sys
import pandas as pd

line = '{"item": "%s", "timestamp": 1615420800}\n'
books, mixed = line % "0000031852", line % "0000031852" + line % "B00005N7P0"


def first(text, **options):
    row = pd.read_json(io.StringIO(text), lines=True, **options).iloc[0]
    return str(row["item"]), str(row["timestamp"])


seen = {
    "books alone": first(books),
    "books among others": first(mixed),
    "dtype=False": first(books, dtype=False, convert_dates=False),
}
for case, values in seen.items():
    print(case, *values)
kept, date = "0000031852", "2021-03-11 00:00:00"
if list(seen.values()) != [("31852", date), (kept, date), (kept, "1615420800")]:
    sys.exit("changed: ids or times come out otherwise")
PY
