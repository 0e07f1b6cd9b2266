"""Export: take an encoder or an embedding table away, in the form that another tool reads.

Nothing here is kept in a run: an export is a copy, written whole or not at all, with what made it beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.encoding.table_encoder import load_encoder
from llm2rec_kit.export import projector, recommender_files
from llm2rec_kit.runs import ArtefactError, Run, collect_provenance, freshness
from llm2rec_kit.storage import expand_home, is_free, tab_separated, write_json, write_text, write_whole_folder


def export(
    run: Run,
    kind: str,
    to: str | Path,
    stage: str = "contrastive",
    *,
    recommender: str = "",
    domain: str = "",
    trust_remote_code: bool = False,
) -> Path:
    """Write embedding `stage` of `run`, or what was trained over it, to the folder `to` in format `kind`, and return `to`.

    `recommender` and `domain` say which of those trained over the embedding (`recommend.pick_recommender`), for the formats
    OF_A_RECOMMENDER. `trust_remote_code`: whether the backbone's own code may run; what the run says of it is not believed.

    Raises ValueError for an unknown format, a recommender that the format has no use for or the run has not, or a folder
    that holds something, ArtefactError where the run has no such embedding, or what it was made from was made anew since.
    """
    check_choice(kind, recommender, domain)
    to = _folder(to)
    if kind not in OF_A_RECOMMENDER or (kind == "faiss" and not recommender):
        _require_embedding(run, stage)
    asked: dict[str, Any] = {"recommender": recommender, "domain": domain} if kind in OF_A_RECOMMENDER else {}
    asked |= {"trust_remote_code": trust_remote_code} if FORMATS[kind] is export_sentence_transformers else {}
    with write_whole_folder(to) as part:
        if told := FORMATS[kind](run, stage, part, to.name, **asked):
            print(f"{to}: {told}", flush=True)
    return to


def check_choice(kind: str, recommender: str, domain: str) -> None:
    """Raise ValueError for an unknown format, and for a recommender or a domain that it has no use for."""
    if kind not in FORMATS:
        raise ValueError(f"There is no format {kind!r}; there are {', '.join(FORMATS)}.")
    if kind not in OF_A_RECOMMENDER and (recommender or domain):
        raise ValueError(
            f"The format {kind} has no recommender or domain to choose; those of {', '.join(OF_A_RECOMMENDER)} have."
        )
    if kind == "faiss" and domain and not recommender:
        raise ValueError(
            "An index of embeddings is of all domains; a domain is of the recommender whose item vectors are indexed: name it too."
        )


def _require_embedding(run: Run, stage: str) -> None:
    if not run.has(f"embeddings/{stage}"):
        there = [name.split("/")[1] for name in run.names("embeddings")]
        raise ArtefactError(
            f"Run {run.name!r} has no embedding {stage!r}; it has {there or 'none'}. notebooks/03_item_embedding.ipynb makes "
            "them, further ones by its parameters encoding_variants and encoding_baselines."
        )
    run.require(f"embeddings/{stage}")
    freshness.refuse_outdated(run, [f"embeddings/{stage}"])  # its rows would stand beside other items, or another training


def _folder(to: str | Path) -> Path:
    """The folder that an export becomes, without links and `..`; ValueError where it holds something, or is none."""
    try:
        to = expand_home(to).resolve()
        free = is_free(to)
    except (OSError, RuntimeError) as error:  # a loop of links, a closed folder, a home that nobody has
        raise ValueError(f"Nothing can be written to {to}: {error}") from None
    if not free:
        raise ValueError(f"{to} exists and is not an empty folder. An export goes to a folder of its own.")
    return to


def export_sentence_transformers(run: Run, stage: str, to: Path, name: str, *, trust_remote_code: bool) -> None:
    """Write the encoder itself, with its model card: a folder for transformers and sentence-transformers."""
    load_encoder(run, stage, trust_remote_code=trust_remote_code).save(to, write_card(run, stage))


def export_npy(run: Run, stage: str, to: Path, name: str) -> str:
    """Write embeddings.npy, float32 (items + 1, dim), row 0 padding; items.csv, what a row is; embeddings.json, how made."""
    shutil.copyfile(run.path_of(f"embeddings/{stage}").with_suffix(".npy"), to / "embeddings.npy")
    about = {"run": run.name, **run.record(f"embeddings/{stage}"), "versions": collect_provenance()["versions"]}
    write_json(to / "embeddings.json", about)
    return recommender_files.write_items(Corpus.load(run.require("corpus")).items, to)


def export_recbole(run: Run, stage: str, to: Path, name: str) -> str:
    """Write RecBole's atomic files: .inter, .item, and .itememb with the embeddings, and a .yaml that, with RecBole's
    `data_path`, loads all three.

    Tokens are the kit's own ids, so that rows of an embedding table are found again. A source without times gets each
    interaction's place in its user's sequence as its time: RecBole orders by it. What it would misread is changed, which the
    .yaml says: a space in front of a title is none of its tokens.
    """
    corpus, table = Corpus.load(run.require("corpus")), _table(run, stage)
    users = np.repeat(np.arange(corpus.n_users), np.diff(corpus.offsets))
    times = corpus.times if corpus.times is not None else np.arange(len(users)) - corpus.offsets[users] + 1  # 0 is no time
    inter = {"user_id:token": users, "item_id:token": corpus.sequence, "timestamp:float": times}
    tab_separated.write(pl.DataFrame(inter), to / f"{name}.inter")
    texts = {"title": "title:token_seq", "domain": "domain:token", "source_id": "original_id:token"}
    items = corpus.items.select(pl.col("item").alias("item_id:token"), *(pl.col(c).alias(to_) for c, to_ in texts.items()))
    told = tab_separated.write(items, to / f"{name}.item")
    with (to / f"{name}.itememb").open("w") as file:
        file.write("iid:token\tiemb:float_seq\n")
        for item, row in enumerate(table[1:], 1):
            file.write(f"{item}\t{' '.join(f'{x:.9g}' for x in row)}\n")
    write_text(to / f"{name}.yaml", _recbole_settings(corpus, name, told))
    return told


def export_tensorboard(run: Run, stage: str, to: Path, name: str) -> str:
    """Write what TensorBoard's projector reads: tensors.tsv, metadata.tsv, projector_config.pbtxt; without a padding row."""
    corpus, table = Corpus.load(run.require("corpus")), _table(run, stage)
    columns = [pl.col(c).cast(pl.String) for c in ("category", "domain") if c in corpus.items.columns]
    popularity = np.bincount(corpus.sequence, minlength=corpus.n_items + 1)[1:]
    metadata = corpus.items.select("title", *columns, pl.Series("interactions", popularity), "item")
    return projector.write(to, {"tensors": (f"{run.name} {stage}", table[1:])}, metadata, digits=9)


FORMATS: dict[str, Callable[..., str | None]] = {
    "sentence-transformers": export_sentence_transformers,
    "npy": export_npy,
    "recbole": export_recbole,
    "projector": export_tensorboard,
    "adapted": recommender_files.export_adapted,
    "recommender": recommender_files.export_recommender,
    "faiss": recommender_files.export_index,
}
OF_A_RECOMMENDER = ("adapted", "recommender", "faiss")


def read_back(folder: Path, titles: Sequence[str], vectors: np.ndarray, place: S.Backbone) -> dict[str, float]:
    """Encode titles with an encoder's folder, as the kit loads it and as sentence-transformers does, and compare with `vectors`.

    {library: largest difference from `vectors` (n, d)}. Without sentence-transformers a line says so, and the kit's is returned.
    """
    from llm2rec_kit.encoding.encoder import Encoder
    from llm2rec_kit.models import backbone

    found = {"the kit": Encoder.load(folder, place=place).encode(titles)}
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        print("sentence-transformers is not installed (pip install sentence-transformers); the folder is", folder)
    else:
        device = str(backbone.choose_placement(place)[0])
        found["sentence-transformers"] = SentenceTransformer(str(folder), device=device).encode(list(titles))
    return {library: float(np.abs(again - vectors).max()) for library, again in found.items()}


def write_card(run: Run, stage: str) -> str:
    """Return a model card in Markdown, of the run's records: the encoder, its training, data and results, how to load it."""
    return _card(run, stage, f"Item encoder of run {run.name}, embedding {stage}", _results(run, stage))


def write_kept_card(run: Run, stage: str) -> str:
    """Return the card of an encoder that is kept in a run, and so made before there are results and shared with other runs:
    `write_card` without results and the run's name."""
    told = "`llm2rec export` and `llm2rec push` write this card with the results of a run that trained recommenders over it."
    return _card(run, stage, f"Item encoder, embedding {stage}", told)


def _card(run: Run, stage: str, title: str, results: str) -> str:
    how, corpus = run.record(f"embeddings/{stage}"), run.record("corpus")
    trained = _training(run, how["encoder"])
    data = "What it was trained on" if trained else "The run's data"
    if "synthetic" in corpus["source"].split(" + "):  # a mix names the sources of its parts
        data += " (synthetic: made from a seed, no real shop)"
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [sentence-transformers, recommendation{", llm2rec" * bool(trained)}]
---
# {title}

{_texts(run)} to vectors of {how["dim"]} numbers: {_reading(how)}. {_origin(run, how)}

```python
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer("this/folder").encode(["a title", "another title"])
```

## {data}

Source {corpus["source"]}, split {corpus["split"]}. {_seen(run, how, corpus["train_domains"])} All domains:

{_markdown(corpus["statistics"])}

## How it was trained

{_markdown(trained) or "Not by this run."}

## Results

{results}

## Written with

{", ".join(f"{k} {v}" for k, v in collect_provenance()["versions"].items())}
"""


def _table(run: Run, stage: str) -> NDArray[np.float32]:
    table: NDArray[np.float32] = np.load(run.path_of(f"embeddings/{stage}").with_suffix(".npy"), mmap_mode="r")
    return table


def _recbole_settings(corpus: Corpus, name: str, told: str = "") -> str:
    """How RecBole loads the files: the embeddings as weights of the item id, and the kit's own split."""
    rules = set(corpus.split_rules.values())
    rule = {"LS": "valid_and_test"} if rules == {"leave_one_out"} else {"RS": [0.8, 0.1, 0.1]}
    settings = {
        "dataset": name,
        "field_separator": "\t",
        "seq_separator": " ",
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id", "title", "domain"],
            "itememb": ["iid", "iemb"],
        },
        "additional_feat_suffix": ["itememb"],
        "alias_of_item_id": ["iid"],
        "preload_weight": {"iid": "iemb"},
        "MAX_ITEM_LIST_LENGTH": corpus.max_history,
        "eval_args": {"split": rule, "group_by": "user" if "LS" in rule else "none", "order": "TO", "mode": "full"},
    }
    call = "run_recbole(config_file_list=[this file], config_dict={'data_path': the folder that this file's folder is in})"
    head = f"# llm2rec_kit's export for RecBole: {call}\n"
    if told:
        head += f"# {name}.item: {told}\n"
    if "RS" in rule:
        head += "".join(f"# {note}\n" for note in _list_other_samples(corpus, rules))
    return head + yaml.safe_dump(settings, sort_keys=False)


def _list_other_samples(corpus: Corpus, rules: set[str]) -> list[str]:
    """Why RecBole's split by time gives other samples than the kit's, a line each."""
    notes = []
    if len(corpus.domains) > 1:
        notes.append(
            "The kit splits each domain by itself, RecBole all together here: for the kit's samples export a run of one domain."
        )
    if "given" in rules:
        notes.append(
            "The kit's samples are those that the source gave; RecBole splits anew, by time: its test set is another one."
        )
    if corpus.times is None:
        notes.append("The source has no times: a timestamp is the place in the user's sequence, and RecBole splits by that.")
    return notes


def _texts(run: Run) -> str:
    """What the run's items are read as: titles, or texts made of more."""
    made = run.manifest("corpus")["settings"]
    if "plain_title" not in pl.read_parquet_schema(run.require("corpus") / "items.parquet"):
        return "Item titles"
    if made["source"] == "mix":  # each part has its own template
        return "Item texts, titles with further fields or cut,"
    cut = f" ({made['text_words']} words at most)" if made["text_words"] > 0 else ""
    return f"Item texts of the form `{made['text']}`{cut}"


def _reading(how: dict[str, Any]) -> str:
    """How the states of a text become one vector, a phrase."""
    length = f"length {'one' if how['normalise'] == 'unit' else 'as it comes'}"
    if how["stage"] == "baseline":
        if how.get("pooling", "as_saved") != "as_saved":
            return f"{how['pooling']} pooling, attention as the model came with it, {length}"
        return f"pooling and attention as the model came with them, {length}"
    return f"{how['pooling']} pooling over the last hidden states, {how['attention']} attention, {length}"


def _origin(run: Run, how: dict[str, Any]) -> str:
    """Whose weights these are, a sentence: a baseline's, the backbone's, or those of the run's trainings."""
    if how["stage"] == "baseline":
        return f"A baseline: {_public(how['encoder'])} with the weights it came with."
    about = run.record("backbone") if run.has("backbone") else {"name": "a backbone"}
    start = "random weights" if about.get("from_nothing") else f"{_public(about['name'])} as it came"
    if not (stages := _stages(how["encoder"])):
        return f"The backbone of the run, {start}: nothing was trained."
    return (
        f"Made by llm2rec_kit after [LLM2Rec](https://arxiv.org/abs/2506.21579) (KDD 2025): {', then '.join(stages.values())}, "
        f"from {start}."
    )


def _seen(run: Run, how: dict[str, Any], domains: list[str]) -> str:
    """What of the run's data these weights were trained on, a sentence."""
    named = ", ".join(domains)
    if stages := _stages(how["encoder"]):
        later = ", and then the texts of all their items" * (len(stages) > 1)
        return f"Training read the training samples of the domains {named}{later}; nothing of others."
    if how["stage"] != "baseline" and run.has("backbone") and run.record("backbone").get("from_nothing"):
        return f"Its tokenizer alone was learned, from the texts of the domains {named}."
    return "The model has learned nothing of it."


def _public(name: str) -> str:
    """A model's hub name, or the last part of its folder's: the rest is of the machine it was on."""
    return Path(name).name if Path(name).is_absolute() else name


def _stages(encoder: str) -> dict[str, str]:
    """The trainings up to artefact `encoder`, in order, with their names for a reader; none for a backbone or a baseline."""
    names = {"csft": "CSFT", "mntp": "MNTP", "contrastive": "item contrast"}
    order = list(names)
    return {name: names[name] for name in (order[: order.index(encoder) + 1] if encoder in order else [])}


def _training(run: Run, encoder: str) -> list[dict[str, Any]]:
    """A row a training stage up to `encoder`: whose step's weights it kept, batch, learning rate, its last numbers."""
    rows = []
    for name in _stages(encoder):
        made = run.manifest(name)
        numbers = {k: v for k, v in made["record"].items() if isinstance(v, float)}
        rows.append(
            {
                "stage": name,
                # Patience ends a training before its last step, and what is kept may be the best of it.
                "weights of step": made["record"].get("kept_step", made["settings"].get("steps")),
                **{k.replace("_", " "): made["settings"].get(k) for k in ("batch_size", "learning_rate")},
                "at the end": ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in numbers.items()),
            }
        )
    return rows


def _results(run: Run, stage: str) -> str:
    """The downstream results of this embedding, a row a (domain, recommender)."""
    from llm2rec_kit.reproduction.report import document

    try:
        found = document.collect(run)["results"]
    except (ValueError, ArtefactError):
        found = {}
    rows = [
        {"domain": domain, "recommender": r["recommender"], "seeds": r["seeds"]}
        | {k: f"{v:.4f}" + f" ± {r['std'][k]:.4f}" * (r["seeds"] > 1) for k, v in list(r["mean"].items())[:4]}
        for domain, results in found.items()
        for r in results
        if r["embedding"] == stage
    ]
    return _markdown(rows) or (
        "No recommender had been trained over it when this was written: notebooks/04_downstream_eval.ipynb does, and "
        "`llm2rec export` then writes the card anew."
    )


def _markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; empty without any."""
    if not rows:
        return ""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([r[c] for c in head] for r in rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
