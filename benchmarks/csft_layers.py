"""Where does CSFT put what it learned? Closeness of items consumed together, by layer and by which tokens are taken.

    python benchmarks/csft_layers.py --run FOLDER [--domain games] [--every 4] [--out layers.json]

FOLDER is a run with a finished CSFT of a pretrained model. The titles of one domain are read by the model before and after, under the
causal mask, and every few layers' states are pooled four ways: mean over the tokens; mean without the first token, whose state is
much larger than all others in many decoders (an attention sink); the mean where the tokenizer's end token stands before the title and
takes that part; the last token's state. A number is how far pairs that at least five users consumed lie above pairs that nobody
did, in standard deviations of those pairs' cosines (`cooccurrence.measure_closeness`), of vectors as they come and less their mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from starts import table

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.encoding.tokenisation import pad, pool, tokenise_titles
from llm2rec_kit.maps import cooccurrence
from llm2rec_kit.models import backbone

POOLINGS = ("mean", "without the first", "behind a sink", "last")
BATCH = 64  # titles, of like length


@torch.inference_mode()
def read(folder: Path, titles: list[str], layers: list[int]) -> dict[tuple[int, str], np.ndarray]:
    """{(layer, pooling): (N + 1, hidden), row 0 padding} of the titles, by the model in `folder`."""
    model, tokenizer = backbone.load(folder, S.Backbone(device="cpu"), head=False)
    model.eval()
    ids = tokenise_titles(tokenizer, titles, 512)
    order = np.argsort([len(tokens) for tokens in ids], kind="stable")
    shape = (len(titles) + 1, model.config.hidden_size)
    found = {(layer, pooling): np.zeros(shape, dtype=np.float32) for layer in layers for pooling in POOLINGS}
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        for sink in ([], [tokenizer.eos_token_id]):
            tokens, padding = pad([np.concatenate([sink, ids[row]]) for row in rows], 0, model.device)
            mask = torch.ones_like(tokens) if padding is None else padding
            states = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
            for layer in layers:
                for pooling, vectors in pool_each_way(states[layer], mask, sink=bool(sink)).items():
                    found[layer, pooling][rows + 1] = vectors.float().numpy()
    return found


def pool_each_way(states: torch.Tensor, mask: torch.Tensor, *, sink: bool) -> dict[str, torch.Tensor]:
    """{pooling: (B, hidden)} of states (B, T, hidden); a title of one token keeps it."""
    rest = mask.clone()
    rest[:, 0] &= mask.sum(1) == 1
    if sink:
        return {"behind a sink": pool(states, rest, "mean")}
    return {
        "mean": pool(states, mask, "mean"),
        "without the first": pool(states, rest, "mean"),
        "last": pool(states, mask, "last"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with a finished CSFT")
    parser.add_argument("--domain", default="games", help="domain whose titles are read")
    parser.add_argument("--every", type=int, default=4, help="layers between two that are looked at, back from the last")
    parser.add_argument("--out", type=Path, default=Path("layers.json"), help="results' file")
    args = parser.parse_args()
    corpus, _ = Corpus.load(args.run / "corpus").select([args.domain])
    pairs = cooccurrence.list_pairs(corpus)
    top = pairs["level"][-1]
    depth = backbone.load(args.run / "csft", S.Backbone(device="cpu"), head=False)[0].config.num_hidden_layers
    layers = sorted(range(depth, 0, -args.every))
    rows = []
    for name, folder in (("raw", args.run / "backbone"), ("csft", args.run / "csft")):
        for (layer, pooling), vectors in read(folder, list(corpus.titles), layers).items():
            centred = np.concatenate([vectors[:1], vectors[1:] - vectors[1:].mean(0)])
            found = cooccurrence.measure_closeness(pairs, {"as it comes": vectors, "centred": centred})
            above = {row["stage"]: row["above"] for row in found.filter(level=top).to_dicts()}
            rows.append({"model": name, "layer": layer, "pooling": pooling, "pairs": found["pairs"][-1], **above})
    storage.write_json(args.out, {"run": args.run.resolve().name, "domain": args.domain, "level": top, "rows": rows})
    head = ["layer", *(f"{name}, {pooling}" for name in ("raw", "csft") for pooling in POOLINGS)]
    for form in ("as it comes", "centred"):
        by_cell = {(r["model"], r["layer"], r["pooling"]): f"{r[form]:.2f}" for r in rows}
        print(f"\n{form}, pairs consumed by {top} users ({rows[0]['pairs']})")
        cells = [[by_cell[m, layer, p] for m in ("raw", "csft") for p in POOLINGS] for layer in layers]
        table(head, [[str(layer), *row] for layer, row in zip(layers, cells, strict=True)])


if __name__ == "__main__":
    main()
