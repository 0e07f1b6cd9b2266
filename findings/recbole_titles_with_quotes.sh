#!/usr/bin/env bash
# RecBole 1.2.1 (recbole/data/dataset/dataset.py, line 486) with pandas 3.1.1: atomic files are read with CSV quoting.
# Guess: an .item file is tab-separated fields as they stand; its format knows no quoting, a quote is part of a title.
# Fact: the reader leaves pandas' default on. A title that begins with a quote loses its quotes, raises ParserError, or
#   takes the rows up to the next closing quote into itself, without a word. A quote inside a title stays.
# So: write no field that begins with a quote; count the items after loading.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile pandas==3.1.1 numpy==2.4.6 || exit 2
"$dir/venv/bin/pip" install -qq --no-compile --no-deps recbole==1.2.1 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import ast
import importlib.metadata
import io
import sys
import pandas as pd

(file,) = [f for f in importlib.metadata.files("recbole") if str(f).endswith("data/dataset/dataset.py")]
calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
(call,) = [call for call in calls if ast.unparse(call.func) == "pd.read_csv"]
options = {k.arg: ast.unparse(k.value) for k in call.keywords}
print("line", call.lineno, options)
if set(options) != {"delimiter", "usecols", "dtype", "encoding", "engine"} or options["engine"] != "'python'":
    sys.exit("changed: RecBole reads with other arguments")
columns, seen = ["item_id:token", "title:token_seq"], {}
for case, titles in {
    "quote inside": ["12\" vinyl", "b"],
    "quoted": ['"Heroes"', "b"],
    "quoted word": ['"Heroes" live', "b"],
    "two quotes": ['"Heroes', "b", 'vinyl 12"', "d"],
}.items():
    text = "\t".join(columns) + "\n" + "".join(f"{n}\t{title}\n" for n, title in enumerate(titles))
    reader = dict(delimiter="\t", usecols=columns, dtype=dict.fromkeys(columns, str), encoding="utf-8", engine="python")
    try:
        seen[case] = pd.read_csv(io.StringIO(text), **reader)[columns[1]].tolist()
    except pd.errors.ParserError as error:
        seen[case] = ["ParserError"]
    print(case, titles, "->", seen[case])
if list(seen.values()) != [["12\" vinyl", "b"], ["Heroes", "b"], ["ParserError"], ["Heroes\n1\tb\n2\tvinyl 12", "d"]]:
    sys.exit("changed: titles with quotes come out otherwise")
PY
