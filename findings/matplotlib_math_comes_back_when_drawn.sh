#!/usr/bin/env bash
# matplotlib 3.11.2: a chart made wholly inside rc_context({"text.parse_math": False}) can still fail on a `$` when drawn.
# Guess: the setting goes with the chart that was made under it, or, if it is read late, counts for all of its texts alike.
# Fact: each Text object reads it when it is made. Title and first tick exist by then and stay plain; the other ticks are
#   made while drawing, under the settings in force at that time. So one category is safe and the next one raises.
# So: draw and save inside the context too, or call set_parse_math(False) on the tick labels just before saving.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile matplotlib==3.11.2 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

text, seen = r"$\nosuch$", {}
for case, labels in {"in the title": ["a", "b"], "first label": [text, "b"], "second label": ["a", text]}.items():
    for late in (False, True):
        with matplotlib.rc_context({"text.parse_math": False}):
            figure, axes = plt.subplots()
            axes.barh(labels, [1, 2])
            axes.set_title(text)
            if not late:
                figure.canvas.draw()
        try:
            figure.canvas.draw()
            seen[case, late] = "drawn"
        except ValueError:
            seen[case, late] = "ValueError"
        plt.close(figure)
        print(case, "- first drawn after the context" if late else "- drawn inside", "-", seen[case, late])
if {case for case, end in seen.items() if end != "drawn"} != {("second label", True)}:
    sys.exit("changed: expected an error for the second label alone, drawn after the context")
PY
