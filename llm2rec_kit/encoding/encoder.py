"""Encoder: titles to embeddings. An item is the mean of its title's last hidden states (paper sec. 3.3).

An embedding depends on its text alone, not on the batch it was computed in. Titles are read in windows; those of a window
are sorted by length and batched by a token budget, batches of one length carry no mask, and the rest are right-padded
under one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import reprlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from llm2rec_kit import settings as S
from llm2rec_kit.encoding.tokenisation import copy_as_read, cut_by_length, find_first_rows, pad, pool, tokenise_titles
from llm2rec_kit.models import backbone, checkpoint, gguf, kernels
from llm2rec_kit.settings.encoding import AS_SAVED as AS_SAVED
from llm2rec_kit.settings.encoding import parse_variant as parse_variant
from llm2rec_kit.storage import read_json, write_json, write_text
from llm2rec_kit.storage.npy_writer import RowArray, RowFile

WINDOW = 8192  # titles that are tokenised, sorted and kept at a time: what memory depends on, and what a crash loses
PADDING = 1 / 32  # most of a batch that may be padding, before a batch of its own is the cheaper way
MARK = "llm2rec.json"  # the file that tells a folder of `save` from any other
SURROGATE = re.compile("[\ud800-\udfff]")
POOLING_FLAGS = {"mean": "mean_tokens", "last": "lasttoken", "cls": "cls_token"}  # as sentence-transformers writes them


class Encoder:
    """A model, its tokenizer, and how hidden states become one vector."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.Encoding | None = None):
        """Set the model's mask, in place, as `settings.attention` says; BackboneError where the model does not go by it."""
        self.settings = resolve_settings(settings or S.Encoding(), {})
        if self.settings.pooling == "pooler":
            raise S.SettingsError(
                "encoding_pooling pooler is the layer that a BERT has over its first state, for baselines; this is a decoder, "
                "which has none. Take mean, last or cls."
            )
        most, table = backbone.count_positions(model)
        if table and most < self.settings.max_tokens:
            self.settings = dataclasses.replace(self.settings, max_tokens=most)  # it cannot read further
        self.model, self.tokenizer = model, tokenizer
        as_trained = self.settings.attention == "as_trained" and backbone.is_bidirectional(model)
        if self.settings.attention == "bidirectional" or as_trained:
            backbone.lift_causal_mask(model)
        elif self.settings.attention == "causal":
            backbone.restore_causal_mask(model)

    @classmethod
    def load(cls, path: str | Path, settings: S.Encoding | None = None, place: S.Backbone | None = None) -> Encoder:
        """Load the encoder in a folder (a stage's, or one that `save` wrote), or a model by folder, GGUF file or hub name.

        Without `settings` it is as it was saved. What is neither the kit's nor a bare causal language model is loaded by
        sentence-transformers (BERT, BGE, GTE, ...). Raises BackboneError where there is no such model.
        """
        settings, path, place = settings or AS_SAVED, checkpoint.locate(path), place or S.Backbone()
        if checkpoint.is_path(path):
            checkpoint.check(Path(path), binary=True)
        saved = _hub_json(path, MARK, dict)
        if saved is None and not _is_bare_decoder(path, place):
            from llm2rec_kit.encoding.sentence_transformer import LibraryEncoder

            return LibraryEncoder(path, settings, place)
        try:
            how = resolve_settings(settings, saved or {})
        except S.SettingsError as error:
            raise backbone.BackboneError(f"{MARK} of {path} is damaged: {error} Save the encoder again.") from None
        return Encoder(*backbone.load(path, place, head=False), how)

    @cached_property
    def dim(self) -> int:
        """Width of an embedding: of the last states, which in some families (OPT-350m) is not the layers' width."""
        token = torch.zeros((1, 1), dtype=torch.long, device=self.model.device)
        with torch.inference_mode():
            return backbone.last_states(self.model, token, None).shape[-1]

    def encode(
        self,
        titles: Sequence[str],
        *,
        out: str | Path | None = None,
        progress: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> np.ndarray:
        """Compute the embeddings of `titles`, float32 (len(titles), dim), in their order; equal titles are computed once.

        With `out` they go to that .npy file in constant memory, and what is returned is memory-mapped; an encoding that
        was interrupted goes on where it stopped. With `shard` (rank, number of processes) only this process's slice is
        computed and returned, and `out` is complete when the last process is (see `find_rank`).
        Raises ValueError for a title that has no token (an encoder of another library gives each its special tokens), and
        for embeddings that are not finite.
        """
        return self._encode(_texts(titles), out, progress, shard, lead=0)

    def table(self, titles: Sequence[str], *, out: str | Path | None = None, progress: bool = False) -> np.ndarray:
        """Compute the embeddings of items 1..N behind a zero row: float32 (N + 1, dim). `out` as in `encode`."""
        return self._encode(_texts(titles), out, progress, (0, 1), lead=1)

    @torch.inference_mode()
    def _encode(
        self, titles: list[str], out: str | Path | None, progress: bool, shard: tuple[int, int], lead: int
    ) -> np.ndarray:
        """`lead` zero rows, then a row a title of this process's share."""
        # Titles that may have no token are refused before the work.
        self._prepare([title for title in titles if not re.search(r"\w", title)])
        size = (len(titles), self.dim)
        sink = RowFile(Path(out), *size, self._key(titles), shard, lead) if out else RowArray(*size, shard, lead)
        first = sink.start + find_first_rows(titles[sink.start : sink.stop])
        todo = range(sink.start + sink.done, sink.stop, WINDOW)
        began, was_training = time.perf_counter(), self.model.training
        quiet = not progress or not sys.stderr.isatty()
        bar = tqdm(total=sink.stop - sink.start, initial=sink.done, unit="title", unit_scale=True, disable=quiet)
        self.model.eval()
        try:
            with kernels.use_fast_linears(self.model), bar:
                for start, new, vectors in self._windows(titles, first, todo):
                    _check_finite(vectors, [titles[row] for row in new])
                    # The row that each row of the window repeats, mostly itself.
                    refers = first[start - sink.start :][:WINDOW]
                    block = np.empty((len(refers), self.dim), dtype=np.float32)
                    block[new - start] = vectors
                    early = refers < start
                    block = block[np.where(early, 0, refers - start)]
                    if early.any():
                        block[early] = sink.read(refers[early])
                    sink.write(start, block)
                    bar.update(len(block))
        except ValueError:  # of these titles nothing can ever be finished
            sink.discard()
            raise
        self.model.train(was_training)
        if progress and quiet and todo:
            print(f"  {todo.stop - todo.start:,} titles encoded in {time.perf_counter() - began:.1f} s", flush=True)
        return sink.finish()

    def _windows(self, titles: list[str], first: np.ndarray, todo: range) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each window (its first row, its rows whose title stands there first, their vectors). The next window's titles
        are tokenised while this one's are computed."""
        offset = todo.stop - len(first)

        def prepared(start: int) -> tuple[int, np.ndarray, Any]:
            stop = min(start + WINDOW, todo.stop)
            new = start + np.flatnonzero(first[start - offset : stop - offset] == np.arange(start, stop))
            return start, new, self._prepare([titles[row] for row in new])

        with ThreadPoolExecutor(1) as beside:
            ahead = beside.submit(prepared, todo[0]) if todo else None
            while ahead:
                start, new, ready = ahead.result()
                ahead = beside.submit(prepared, start + WINDOW) if start + WINDOW < todo.stop else None
                yield start, new, self._vectors(ready)

    def _prepare(self, titles: list[str]) -> list[Any]:
        """What `_vectors` takes: here the token ids of each title."""
        return tokenise_titles(self.tokenizer, titles, self.settings.max_tokens)

    def _vectors(self, ids: list[Any]) -> np.ndarray:
        """Embeddings of tokenised titles: float32 (len(ids), dim)."""
        out = torch.empty(len(ids), self.dim, device=self.model.device)
        budget = self.settings.batch_tokens or (2048 if self.model.device.type == "cpu" else 65536)
        for rows in cut_by_length(np.array([len(i) for i in ids]), budget, PADDING):
            input_ids, mask = pad([ids[r] for r in rows], self.tokenizer.pad_token_id, self.model.device)
            states = backbone.last_states(self.model, input_ids, mask)
            out[torch.from_numpy(rows)] = pool(states, mask, self.settings.pooling).float()
        return (F.normalize(out, dim=-1) if self.settings.normalise == "unit" else out).cpu().numpy()

    def _key(self, titles: list[str]) -> dict[str, Any]:
        """All that the embeddings of `titles` depend on, so that an interrupted encoding goes on with nothing else."""
        text = hashlib.sha256()
        for title in titles:
            text.update(title.encode() + b"\0")
        made = {"model": hash_model(self.model), "tokenizer": hash_tokenizer(self.tokenizer)}
        return {"settings": _counted(self.settings), "titles": text.hexdigest(), **made}

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write a folder that transformers and sentence-transformers both load, with `card` as its README.md.

        Raises BackboneError where the tokenizer, read back, would not give the ids that the encoder uses.
        """
        folder, how = Path(folder), self.settings
        backbone.save(self.model, copy_as_read(self.tokenizer), folder)
        _check_read_back(folder, self.tokenizer)
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        modules += [("2_Normalize", "Normalize")] * (how.normalise == "unit")
        files = {
            "modules.json": [
                {"idx": k, "name": str(k), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for k, (path, kind) in enumerate(modules)
            ],
            "1_Pooling/config.json": {"word_embedding_dimension": self.dim}
            | {f"pooling_mode_{theirs}": ours == how.pooling for ours, theirs in POOLING_FLAGS.items()},
            "sentence_bert_config.json": {"max_seq_length": how.max_tokens, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "prompts": {},
                "default_prompt_name": None,
                "similarity_fn_name": "cosine",
            },
            MARK: {
                "attention": "bidirectional" if backbone.is_bidirectional(self.model) else "causal",
                **{name: getattr(how, name) for name in ("pooling", "normalise", "max_tokens")},
            },
        }
        for path, _ in modules[1:]:
            (folder / path).mkdir(exist_ok=True)
        if card:
            write_text(folder / "README.md", card)
        for name, content in files.items():
            write_json(folder / name, content)


def check(path: str | Path, place: S.Backbone) -> None:
    """Raise BackboneError where `Encoder.load` would, for a folder; no weights are read."""
    path = checkpoint.locate(path)
    checkpoint.check(Path(path), binary=True)
    if _hub_json(path, MARK, dict) is not None or _is_bare_decoder(path, place):
        backbone.check(path, place, {}, head=False)
        return
    from llm2rec_kit.encoding import sentence_transformer

    sentence_transformer.check(path, place)


def list_settings(settings: S.Encoding, place: S.Backbone, encoder: str, **other: Any) -> dict[str, Any]:
    """Collect the settings of a table, as `Run.make` takes them: how, where and by which encoder items are encoded.

    `encoder` is a stage's name (`raw`: the backbone's), hub name or folder. `other` counts, too: the text, a folder's hash.
    """
    return _counted(settings) | place.where | {"encoder": encoder} | other


def _counted(settings: S.Encoding) -> dict[str, Any]:
    """The settings that an embedding depends on: not which further tables there are, nor how large a forward pass is."""
    return {k: v for k, v in settings.as_dict().items() if k not in ("batch_tokens", "variants", "baselines", "own")}


def resolve_settings(settings: S.Encoding, saved: dict[str, Any]) -> S.Encoding:
    """Replace `as_saved` (of max_tokens: 0) by what the folder says, or by the kit's own way where it says nothing."""
    plain = {"pooling": "mean", "normalise": "none", "max_tokens": 512}
    found = {k: saved.get(k, v) for k, v in plain.items() if getattr(settings, k) in ("as_saved", 0)}
    return dataclasses.replace(settings, **found)


def find_rank() -> tuple[int, int]:
    """Return (rank, number of processes) under torchrun, (0, 1) elsewhere: what `encode` takes as `shard`. Call it before
    `load`: `cuda` then means this process's own GPU."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def hash_model(model: torch.nn.Module) -> str:
    """Compute the sha256 over names, shapes, dtypes and values of the weights and over the configs, attention flag included."""
    # A model and its parts share one config; of a SentenceTransformer's modules each may have its own.
    configs = {id(c): c for m in model.modules() if isinstance(c := getattr(m, "config", None), PreTrainedConfig)}
    seen = hashlib.sha256()
    for config in configs.values():
        told = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
        seen.update(json.dumps(told, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        seen.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return seen.hexdigest()


def hash_tokenizer(tokenizer: Any) -> str:
    """Compute the sha256 over what a tokenizer, also one that is not transformers', makes ids by: its rules, or its words and
    options where it has no rules to show, and its side and token of padding."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        rules = json.loads(backend.to_str())
        rules |= {"padding": None, "truncation": None}  # those of the last call
    else:
        rules = [getattr(tokenizer, "get_vocab", dict)(), getattr(tokenizer, "init_kwargs", {})]
    sides = [getattr(tokenizer, name, None) for name in ("pad_token_id", "padding_side", "truncation_side")]
    told = json.dumps([type(tokenizer).__name__, rules, sides], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def _texts(titles: Sequence[str]) -> list[str]:
    """`titles` as a list; ValueError where they are one text, or not all texts that UTF-8 can hold."""
    if isinstance(titles, str):
        raise ValueError(f"Titles are a list of texts, a row each; found one text, {reprlib.repr(titles)}.")
    titles = list(titles)
    for row, title in enumerate(titles):
        if not isinstance(title, str):
            raise ValueError(f"Titles are texts; title {row} (from 0) is a {type(title).__name__}: {reprlib.repr(title)}.")
        if not title.isascii() and SURROGATE.search(title):
            raise ValueError(
                f"Titles are Unicode text; title {row} (from 0) holds half of a character: {reprlib.repr(title)}."
            )
    return titles


def _check_finite(vectors: np.ndarray, titles: list[str]) -> None:
    """Raise ValueError where an embedding holds NaN or an infinity, naming the first such title."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(vectors)} embeddings are not finite (NaN or an infinity), first that of "
            f"{reprlib.repr(titles[bad[0]])}: the model's weights are damaged, or too large for its dtype. Try float32."
        )


def _hub_json(path: str | Path, name: str, kind: type) -> Any:
    """A JSON file, a `kind`, of a folder or a hub model; None where there is none, or the hub is out of reach."""
    if gguf.is_gguf_name(path):  # one file holds all of it
        return None
    file: str | Path | None = Path(path) / name
    with contextlib.suppress(FileNotFoundError):
        if not checkpoint.is_path(path):
            try:
                file = cached_file(str(path), name, _raise_exceptions_for_missing_entries=False)
            except OSError:
                return None
        return read_json(Path(file), kind) if file else None
    return None


def _is_bare_decoder(path: str | Path, place: S.Backbone) -> bool:
    """Whether this is a causal language model with no sentence-transformers modules beside it (a stage of a run, Qwen2)."""
    if gguf.is_gguf_name(path):
        return True
    if _hub_json(path, "modules.json", list) is not None:
        return False
    with backbone.explain_errors(path, "config.json"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=place.trust_remote_code)
    own = place.trust_remote_code and "AutoModelForCausalLM" in getattr(config, "auto_map", {})  # by the model's own code
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "ForCausalLM" if own else "")
    named = str((getattr(config, "architectures", None) or [known])[0])
    return bool(known) and (named.endswith("ForCausalLM") or named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def _check_read_back(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    probe = "Star Harbor: Racing, Deluxe (2004) é"
    wanted = tokenizer(probe, add_special_tokens=False)["input_ids"]
    found = AutoTokenizer.from_pretrained(folder)(probe)["input_ids"]
    if found != wanted:
        raise backbone.BackboneError(
            f"The tokenizer saved to {folder} reads {probe!r} as {found}, this encoder reads it as {wanted}: other libraries "
            "would make other embeddings of it. Use a tokenizer of the model's own class."
        )
