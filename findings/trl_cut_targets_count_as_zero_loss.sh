#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.24.0: targets that max_length cuts off vanish, or with packing count as a loss of 0.
# Guess: with prompt and completion, max_length (1024 unless told otherwise) shortens the prompt, so that each row keeps
#   its target; and one model on one set of evaluation rows has one eval_loss.
# Fact: the end is cut, so the completion goes first. A row that loses part of it teaches the rest, a title without its
#   end. A row that loses all of it is dropped, in the evaluation set too, which only the name of a progress bar says.
#   With packing it stays, and a batch with no other rows adds 0 to the mean: here a model that knows nothing gets half
#   its true loss.
# So: shorten the histories before the trainer does, set max_length=None, and compare len(trainer.eval_dataset) with the
#   rows given.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.13.0 transformers==5.24.0 || exit 2
"$dir/venv/bin/pip" install -qq --no-compile trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 || exit 2
cd "$dir"
"$dir/venv/bin/python" -I -W ignore - <<'PY'
import math
import sys
import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

datasets.disable_progress_bars()
words = ["<pad>", "<eos>", "<unk>", "seen", "red", "lip", "balm"]
core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
# Histories of 8 to 30 items, each with the target "red lip balm": with the end four tokens, in a limit of 16.
lengths = [8, 12, 14, 15, 16, 17, 20, 30]
rows = [{"prompt": " ".join(["seen"] * n), "completion": " red lip balm"} for n in lengths]
size = dict(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
told = dict(max_length=16, completion_only_loss=True, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True)
told.update(per_device_train_batch_size=1, per_device_eval_batch_size=1, logging_strategy="no", save_strategy="no")
seen = {}
for packing in (False, True):
    model = LlamaForCausalLM(LlamaConfig(**size, pad_token_id=0, eos_token_id=1))
    torch.nn.init.zeros_(model.lm_head.weight)  # all words equally likely: each has a loss of log(7)
    data = datasets.Dataset.from_list(rows)
    args = SFTConfig(output_dir="run", packing=packing, **told)
    trainer = SFTTrainer(model, args, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    if len(trainer.train_dataset) != len(trainer.eval_dataset):
        sys.exit("changed: expected the training rows to be treated like those of the evaluation")
    left = sorted(tokenizer.decode([n for n in row["labels"] if n >= 0]) for row in trainer.eval_dataset)
    seen[packing] = left, round(trainer.evaluate()["eval_loss"], 4)
    print(f"packing={packing}: {len(left)} of {len(rows)} rows, targets {left}, eval_loss {seen[packing][1]}")
print("loss of a model that knows nothing:", round(math.log(len(words)), 4))
kept, loss = ["red", "red lip", "red lip balm <eos>", "red lip balm <eos>"], math.log(len(words))
if seen != {False: (kept, round(loss, 4)), True: ([""] * 4 + kept, round(loss / 2, 4))}:
    sys.exit("changed: expected four rows at the true loss, and with packing eight at half of it")
PY
