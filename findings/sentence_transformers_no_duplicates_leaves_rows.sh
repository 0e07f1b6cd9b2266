#!/usr/bin/env bash
# sentence-transformers 6.2.0: with BatchSamplers.NO_DUPLICATES an epoch leaves rows out and ends in batches of one pair.
# Guess: the sampler for in-batch negatives spreads equal items over an epoch's batches; with drop_last=False every pair is
#   trained on once an epoch, and the number of steps is pairs / batch size.
# Fact: it fills batches in order and puts an item's further pairs off. Those of a best seller end up last, a batch each,
#   where nothing else is left: here 160 pairs, 60 of them of one item, make 60 batches of which 53 hold one pair, while
#   its length says 10. The trainer stops every epoch at the tenth: 50 pairs are not trained on, untold, and three of the
#   ten steps have one pair, which has no negatives and a loss of 0.
# So: count the pairs an epoch reads; cap the pairs an item has, or leave equal items in the batch and mask them.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 datasets==5.2.0 accelerate==1.15.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import sys
from collections import Counter
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers import losses
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
from transformers import BertConfig, BertModel, BertTokenizerFast

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{k}" for k in range(200))]
Path("vocab.txt").write_text("\n".join(words))
BertTokenizerFast("vocab.txt").save_pretrained("bert")
torch.manual_seed(0)
small = dict(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
BertModel(BertConfig(**small)).save_pretrained("bert")
# What a user had, and what came next: 100 items once each, and a best seller 60 times.
pairs = [(f"w{k} w{k // 2}", f"w{100 + k}" if k < 100 else "w0") for k in range(160)]
data = Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [p for _, p in pairs]})

drawn = NoDuplicatesBatchSampler(data, batch_size=16, drop_last=False, generator=torch.Generator(), seed=0)
batches = [len(batch) for batch in drawn]
print("length", len(drawn), "batches", len(batches), "by size", dict(Counter(batches)), "pairs", sum(batches))
seen = []


class Watched(losses.MultipleNegativesRankingLoss):
    def forward(self, features, labels):
        value = super().forward(features, labels)
        seen.append((len(next(iter(features))["input_ids"]), round(float(value.detach()), 3)))
        return value


model = SentenceTransformer("bert")
how = SentenceTransformerTrainingArguments(
    "out", num_train_epochs=1, per_device_train_batch_size=16, batch_sampler="no_duplicates", report_to="none",
    logging_strategy="no", save_strategy="no", disable_tqdm=True, use_cpu=True,
)
trainer = SentenceTransformerTrainer(model=model, args=how, train_dataset=data, loss=Watched(model))
trainer.train()
trained = sum(size for size, _ in seen)
print("an epoch of the trainer: steps", trainer.state.global_step, "epoch", trainer.state.epoch, "pairs", trained, "of", len(data))
print("size and loss of its batches:", seen)
alone = [value for size, value in seen if size == 1]
if (len(drawn), len(batches), batches.count(1), sum(batches)) != (10, 60, 53, 160):
    sys.exit("changed: expected 60 batches, 53 of one pair, where the length says 10")
if (trainer.state.global_step, trainer.state.epoch, trained) != (10, 1, 110) or [abs(v) for v in alone] != [0.0] * 3:
    sys.exit("changed: expected an epoch of 10 steps over 110 of 160 pairs, three of one pair and a loss of 0")
PY
