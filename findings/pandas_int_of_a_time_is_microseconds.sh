#!/usr/bin/env bash
# pandas 3.1.1: the integer behind a datetime is no longer always a count of nanoseconds.
# Guess: times.astype("int64") // 10**9 are Unix seconds, as in a decade of published scripts.
# Fact: parsed text and seconds become datetime64[us], Python datetimes too, so the quotient is a thousandth of the
#   seconds: 2021 lands in January 1970, in order, hence no error and no odd ranking. A column cast to [ns] does as before.
# So: name the unit: times.astype("datetime64[s]").astype("int64").
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile pandas==3.1.1 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import datetime
import sys
import pandas as pd

times = {
    "parsed text": pd.Series(pd.to_datetime(["2021-03-11"])),
    "from seconds": pd.Series(pd.to_datetime([1615420800], unit="s")),
    "Python datetime": pd.Series([datetime.datetime(2021, 3, 11)]),
    "cast to [ns]": pd.Series(pd.to_datetime(["2021-03-11"])).astype("datetime64[ns]"),
}
seen = {}
for case, column in times.items():
    quotient = int(column.astype("int64")[0] // 10**9)
    named = int(column.astype("datetime64[s]").astype("int64")[0])
    seen[case] = quotient
    print(case, column.dtype, "int64 // 10**9:", quotient, " with the unit named:", named)
    if named != 1615420800:
        sys.exit("changed: the cast to seconds is no longer right")
if list(seen.values()) != [1615420, 1615420, 1615420, 1615420800]:
    sys.exit("changed: the unit behind a time is another")
PY
