"""Titles as a model reads them: token ids, batches of like length, padding, and the states of a title as one vector."""

from __future__ import annotations

import copy

import numpy as np
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerBase


def tokenise_titles(tokenizer: PreTrainedTokenizerBase, titles: list[str], max_tokens: int) -> list[np.ndarray]:
    """Tokenise each title (int64 ids), at most `max_tokens`; raises ValueError naming a title without tokens."""
    if not titles:
        return []
    if getattr(tokenizer, "is_fast", False):
        # The tokenizer's own call makes offsets, masks and lists of them, which takes as long again.
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        found = [e.ids[:max_tokens] for e in backend.encode_batch_fast(titles, add_special_tokens=False)]
    else:
        # Cut here, too: by itself it cuts at the side that its config names.
        found = [ids[:max_tokens] for ids in tokenizer(titles, add_special_tokens=False)["input_ids"]]
    for title, ids in zip(titles, found, strict=True):
        if not ids:
            raise ValueError(
                f"Title {title!r} has no token and so no embedding. Drop empty titles in data prep "
                "(notebooks/01_data_prep.ipynb)."
            )
    return [np.asarray(ids, dtype=np.int64) for ids in found]


def copy_as_read(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Copy a tokenizer so that, called by another library, it reads titles as `tokenise_titles` and `pad` do: no begin- or
    end-of-text token around a title, cut and padded on the right whatever its config says."""
    bare = copy.deepcopy(tokenizer)
    bare.padding_side = bare.truncation_side = "right"
    if bare("a")["input_ids"] == bare("a", add_special_tokens=False)["input_ids"]:
        return bare
    for flag in ("add_bos_token", "add_eos_token"):
        if getattr(bare, flag, False):
            setattr(bare, flag, False)
    if getattr(bare, "is_fast", False):
        bare.backend_tokenizer.post_processor = processors.Sequence([])
    return bare


def find_first_rows(titles: list[str]) -> np.ndarray:
    """Find for each title the row at which it stands first: int64 (n,).

    By hashes in flat arrays, because a dictionary of a million titles takes more memory than their embeddings' window.

    >>> find_first_rows(["a", "b", "a"]).tolist()
    [0, 1, 0]
    """
    hashes = np.fromiter(map(hash, titles), np.int64, len(titles))
    _, at, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    first = at[inverse].astype(np.int64)
    for row in np.flatnonzero(first != np.arange(len(titles))):
        if titles[first[row]] != titles[row]:  # two texts of one hash
            first[row] = row
    return first


def cut_by_length(lengths: np.ndarray, batch_tokens: int, padding: float = 1.0) -> list[np.ndarray]:
    """Cut the rows, sorted by length, so that rows x longest <= batch_tokens (one row at least) and at most a share
    `padding` of a batch is padding: [indices, ...].

    >>> [b.tolist() for b in cut_by_length(np.array([5, 2, 2, 9]), 10)]
    [[1, 2], [0], [3]]
    """
    order = np.argsort(lengths, kind="stable")
    batches, start, real = [], 0, 0
    for stop, length in enumerate(lengths[order].tolist()):
        padded = (stop - start + 1) * length
        if stop > start and (padded > batch_tokens or padded - real - length > padding * padded):
            batches.append(order[start:stop])
            start, real = stop, 0
        real += length
    return [*batches, order[start:]] if len(order) else []


def pad(ids: list[np.ndarray], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pad ids on the right: int64 (rows, longest), and their mask, or None where nothing is padded.

    No mask is more than thrift: without one the attention kernels take their fast path.
    """
    lengths = np.array([len(i) for i in ids])
    padded = np.full((len(ids), lengths.max()), pad_id, dtype=np.int64)
    filled = np.arange(lengths.max()) < lengths[:, None]
    padded[filled] = np.concatenate(ids)
    mask = None if filled.all() else torch.from_numpy(filled.astype(np.int64)).to(device)
    return torch.from_numpy(padded).to(device), mask


def pool(states: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Pool states (rows, tokens, dim) to (rows, dim): the mean over real tokens, the last real state, or the first."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        if mask is None:
            return states[:, -1]
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    if mask is None:
        return states.mean(1)
    weight = mask.to(states.dtype).unsqueeze(-1)
    return (states * weight).sum(1) / weight.sum(1)
