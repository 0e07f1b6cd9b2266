#!/usr/bin/env bash
# transformers 5.24.0: report_to="none" is not none where a cluster has set a variable.
# Guess: TrainingArguments(report_to="none") leaves the Trainer without a reporting callback, whatever the environment.
# Fact: after "none" has become an empty list, "kubeflow" is added where KUBEFLOW_TRAINER_SERVER_URL is set, and the
#   Trainer gets the callback that sends progress there. No argument takes it back; an empty list afterwards does, and
#   so does the variable DISABLE_KUBEFLOW_INTEGRATION.
# So: empty `report_to` on the finished arguments where nothing may be sent, and compare the callbacks, not the setting.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import os
import sys
import torch
from transformers import Trainer, TrainingArguments


def callbacks(emptied=False, **variables):
    os.environ.update(variables)
    arguments = TrainingArguments("out", report_to="none", use_cpu=True)
    if emptied:
        arguments.report_to = []
    trainer = Trainer(torch.nn.Linear(1, 1), arguments)
    for name in variables:
        del os.environ[name]
    return arguments.report_to, [type(c).__name__ for c in trainer.callback_handler.callbacks if "Kubeflow" in type(c).__name__]


address = {"KUBEFLOW_TRAINER_SERVER_URL": "https://example.invalid/status"}
seen = {
    "plain": callbacks(),
    "in a cluster": callbacks(**address),
    "in a cluster, emptied after": callbacks(emptied=True, **address),
    "in a cluster, switched off": callbacks(**address, DISABLE_KUBEFLOW_INTEGRATION="TRUE"),
}
for case, (asked, there) in seen.items():
    print(case, "- report_to:", asked, "- callbacks:", there)
nothing = ([], [])
if list(seen.values()) != [nothing, (["kubeflow"], ["KubeflowCallback"]), nothing, nothing]:
    sys.exit('changed: report_to="none" means something else')
PY
