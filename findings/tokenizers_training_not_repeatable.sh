#!/usr/bin/env bash
# tokenizers 0.23.3: training WordPiece or Unigram twice on the same text gives two tokenizers, on one thread too.
# Guess: training has no random part and no seed to set, so the same text and settings give the same file.
# Fact: BPE repeats to the byte. In fresh processes WordPiece finds the same pieces and numbers them differently, so the
#   same text gets other ids; Unigram's file differs as well.
# So: ids, and any model trained on them, hold only with the very file: keep it, never rebuild it from the text.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile tokenizers==0.23.3 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import os
import subprocess
import sys

TRAIN = '''
import hashlib, random
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
random.seed(0)
words = ["".join(random.choices("ba be do fi gu ka lo mi nu ra so ti".split(), k=random.randint(1, 4))) for _ in range(500)]
lines = [" ".join(random.choices(words, k=6)) for _ in range(1000)]
for kind, trainer in (("BPE", "Bpe"), ("WordPiece", "WordPiece"), ("Unigram", "Unigram")):
    tokenizer = Tokenizer(getattr(models, kind)())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    options = dict(vocab_size=200, show_progress=False, special_tokens=["[UNK]"])
    tokenizer.train_from_iterator(lines, getattr(trainers, trainer + "Trainer")(**options))
    print(kind, hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:8])
'''
one_thread = dict(os.environ, RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
seen = {}
for _ in range(5):
    out = subprocess.run([sys.executable, "-I", "-c", TRAIN], env=one_thread, check=True, capture_output=True, text=True)
    for line in out.stdout.splitlines():
        seen.setdefault(line.split()[0], []).append(line.split()[1])
for kind, files in seen.items():
    print(kind, "files of five runs:", *files)
if len(set(seen["BPE"])) > 1 or 1 in {len(set(seen[kind])) for kind in ("WordPiece", "Unigram")}:
    sys.exit("changed: expected one file from BPE and several from WordPiece and Unigram")
PY
