"""Writing: what a model writes as the next title after a history, and whether the catalogue has such an item."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.encoding.tokenisation import cut_by_length
from llm2rec_kit.models import backbone
from llm2rec_kit.training.samples import Samples

MOST_TOKENS = 64  # of a written title; fewer where no title of the catalogue is that long
BATCH_TOKENS = 4096  # tokens of histories times beams in one call


def generate_titles(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    samples: Samples,
    chosen: np.ndarray,
    settings: S.CSFT,
    *,
    beams: int = 5,
) -> pl.DataFrame:
    """Generate titles after the histories of samples `chosen`, by beam search, `beams` titles each.

    Of a history too long for a model's table of positions the oldest tokens are left out. A row a title: sample, rank (1 the
    likeliest), written, item (Int32: the first of that title in the catalogue, 0 where there is none), next (whether it is
    the title that really came next), score (log-probability a token).
    """
    items: dict[str, int] = {}
    for item, title in enumerate(corpus.titles, 1):
        items.setdefault(title.strip(), item)
    longest = min(MOST_TOKENS, int(samples.answers.lengths.max()))
    most, table = backbone.count_positions(model)
    room = max(1, most - longest) if table else 0  # 0: all of a history
    histories = [samples.alone(s)[0][-room:] for s in chosen]
    rows: list[tuple[Any, ...]] = []
    for part in cut_by_length(np.array([len(h) for h in histories]), max(1, BATCH_TOKENS // beams)):
        written = _beams(model, tokenizer, [histories[k] for k in part], beams, longest)
        for k, found in zip(part, written, strict=True):
            sample = int(chosen[k])
            came = corpus.titles[samples.item[sample] - 1].strip()
            for rank, (text, score) in enumerate(found, 1):
                title = text.split(settings.ending)[0].strip() if settings.ending else text.strip()
                rows.append((sample, rank, title, items.get(title, 0), title == came, score))
    kinds = {"sample": pl.Int64, "rank": pl.Int64, "written": pl.String, "item": pl.Int32, "next": pl.Boolean}
    frame = pl.DataFrame(rows, schema=kinds | {"score": pl.Float64}, orient="row")
    return frame.sort(pl.col("sample").replace_strict(chosen, np.arange(len(chosen))), "rank")


def measure_shares(written: pl.DataFrame) -> dict[str, float]:
    """Measure the shares of histories whose likeliest title is an item of the catalogue (first_real) or the one that came
    next (next_first), and those where any of the titles written is (any_real, next_any)."""
    one = written.group_by("sample").agg(
        first_real=(pl.col("item") > 0).filter(pl.col("rank") == 1).any(),
        any_real=(pl.col("item") > 0).any(),
        next_first=pl.col("next").filter(pl.col("rank") == 1).any(),
        next_any=pl.col("next").any(),
    )
    return one.drop("sample").mean().fill_null(0.0).row(0, named=True)


def ask(
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    samples: Samples,
    settings: S.CSFT,
    *,
    beams: int = 5,
) -> dict[str, pl.DataFrame]:
    """Generate the titles of all samples (`generate_titles`) by each of several models: {model's name: table}."""
    given = (corpus, samples, np.arange(len(samples)), settings)
    return {name: generate_titles(model, tokenizer, *given, beams=beams) for name, model in models.items()}


def as_text(written: Mapping[str, pl.DataFrame], corpus: Corpus, samples: Samples, *, most: int = 5) -> str:
    """Format for a reader what the models of `ask` write after the first `most` histories:
    a history's end, what came next, what each model wrote.

    Of the last model the three likeliest are told, of those before it the likeliest.
    """
    known, lines = np.array(["", *corpus.titles], dtype=object), []
    for sample, target in enumerate(samples.target[:most].tolist()):
        lines += ["", " | ".join(known[corpus.history(target)][-3:]), f"   came next: {known[corpus.sequence[target]]}"]
        for name, found in written.items():
            for row in found.filter(sample=sample).head(3 if name == [*written][-1] else 1).iter_rows(named=True):
                kind = "what came" if row["next"] else "in the catalogue" if row["item"] else "no such item"
                lines.append(f"   {name:>9}: {row['written'][:100]!r} ({kind})")
    return "\n".join(lines)


@torch.no_grad()
def _beams(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, histories: list[np.ndarray], beams: int, tokens: int
) -> list[list[tuple[str, float]]]:
    """`beams` continuations of each history, likeliest first, as (text without special tokens, score)."""
    length = max(map(len, histories))
    ids, seen = (np.full((len(histories), length), fill, dtype=np.int64) for fill in (tokenizer.pad_token_id, 0))
    for k, history in enumerate(histories):  # on the left: generation goes on at the right
        ids[k, length - len(history) :], seen[k, length - len(history) :] = history, 1
    known = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    known |= {"do_sample": False, "use_cache": True, "return_dict_in_generate": True}
    way = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=tokens, output_scores=beams > 1, **known
    )
    given, mask = (torch.from_numpy(values).to(model.device) for values in (ids, seen))
    with _plain(model) as generate:
        read = _read_once(generate, given[:, :-1], mask[:, :-1], beams, GenerationConfig(max_new_tokens=1, **known))
        out = generate(given, attention_mask=mask, generation_config=way, **read)
    texts = tokenizer.batch_decode(out.sequences[:, length:], skip_special_tokens=True)
    scores = out.sequences_scores.tolist() if beams > 1 else [float("nan")] * len(texts)
    pairs = list(zip(texts, scores, strict=True))
    return [pairs[k : k + beams] for k in range(0, len(pairs), beams)]


@contextlib.contextmanager
def _plain(model: PreTrainedModel) -> Iterator[Callable[..., Any]]:
    """The model's `generate`, within without dropout and without what its own generation config asks for, such as a penalty
    on repeated tokens, which would be one on the words that a title shares with the history: `generate` takes from that
    config what is not given."""
    was_training, own = model.training, model.generation_config
    model.eval().generation_config = GenerationConfig()
    try:
        generate: Any = model.generate
        yield generate
    finally:
        model.train(was_training).generation_config = own


def _read_once(
    generate: Callable[..., Any], ids: torch.Tensor, seen: torch.Tensor, beams: int, way: GenerationConfig
) -> dict[str, Any]:
    """Read what the beams of a history have in common, and return its cache, a copy a beam, as `generate` takes it.

    `generate` alone would read it once a beam. {} where there is nothing to read, or where the cache holds more than keys and
    values, such as the states of linear attention, of which copies were not seen to be right.
    """
    if beams == 1 or not seen.any(dim=1).all():
        return {}
    out = generate(ids, attention_mask=seen, generation_config=way)
    name = "cache" if "cache" in out else "past_key_values"  # before transformers 5.24
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in getattr(out[name], "layers", [None])):
        return {}
    out[name].batch_repeat_interleave(beams)
    return {name: out[name]}
