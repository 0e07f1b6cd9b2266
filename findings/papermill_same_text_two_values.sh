#!/usr/bin/env bash
# papermill 2.7.0 with PyYAML 6.0.4: the same text is another value with -p than in a parameters file.
# Guess: `-p rate 1e-4` and a line `rate: 1e-4` given with -f set the same parameter to the same value.
# Fact: -p tries int() and float(), the file follows YAML 1.1: 1e-4 is a float on the command line and text in the file, 010
#   is 10 and 8, 1:30 is text and 90 (sixty-base), true is text and a boolean, nan a float and text.
# So: write 1.0e-4 in YAML, no leading zeros, quotes around times and codes, and check types at the top of the notebook.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile papermill==2.7.0 PyYAML==6.0.4 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import unittest.mock
from click.testing import CliRunner
from papermill import cli

texts = ["1e-4", "010", "1:30", "true", "nan", "1.0e-4"]
seen = {}
for text in texts:
    open("given.yaml", "w").write(f"x: {text}\n")
    for way, arguments in (("-p", ["-p", "x", text]), ("-f", ["-f", "given.yaml"])):
        with unittest.mock.patch.object(cli, "execute_notebook") as run:
            CliRunner().invoke(cli.papermill, ["in.ipynb", "out.ipynb", *arguments], catch_exceptions=False)
        seen[text, way] = repr(run.call_args.kwargs["parameters"]["x"])
    print(text, " -p:", seen[text, "-p"], " -f:", seen[text, "-f"])
expected = ["0.0001", "'1e-4'", "10", "8", "'1:30'", "90", "'true'", "True", "nan", "'nan'", "0.0001", "0.0001"]
if list(seen.values()) != expected:
    sys.exit(f"changed: expected {expected}")
PY
