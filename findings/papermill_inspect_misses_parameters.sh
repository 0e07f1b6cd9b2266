#!/usr/bin/env bash
# papermill 2.7.0: inspect_notebook leaves out parameters that execute_notebook takes.
# Guess: every assignment in the cell tagged `parameters` is listed.
# Fact: an annotation with a bar (`int | None`) and a trailing comment with an equals sign make a line vanish, the first
#   without a message. A run with that parameter warns that it is unknown, and sets it all the same; a name with a slip gets
#   the same warning and changes nothing.
# So: neither the list nor the warning tells whether a parameter counts. Write Optional[int] and no "=" in the comments.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile papermill==2.7.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import logging
import sys
import nbformat
import papermill

lines = "a: int = 1\nb: int | None = 1\nc = 1  # try c=2\nd: Optional[int] = 1  # steps"
cell = nbformat.v4.new_code_cell(lines, metadata={"tags": ["parameters"]})
kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), "book.ipynb")
listed = list(papermill.inspect_notebook("book.ipynb"))
messages, logger = [], logging.getLogger("papermill")
logger.addFilter(lambda record: messages.append(record.getMessage()))
book = papermill.execute_notebook("book.ipynb", "out.ipynb", {"b": 5, "d": 5}, prepare_only=True)
made = book.cells[1].source
unknown = [text for text in messages if "unknown" in text]
print("in the cell: a b c d - listed:", *listed)
print("warned:", unknown, "- injected:", made.splitlines())
if listed != ["a", "d"] or "b = 5" not in made or len(unknown) != 1 or not unknown[0].endswith(" b"):
    sys.exit("changed: expected a and d to be listed, and b to be called unknown and set nevertheless")
PY
