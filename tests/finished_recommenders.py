"""A run that is ready to recommend: a corpus, an encoder with its table, SASRec and GRU4Rec over text and over ids."""

from __future__ import annotations

import numpy as np
from conftest import make_corpus

from llm2rec_kit.downstream import evaluation
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding, Evaluation

CPU = {"device": "cpu", "dtype": "float32"}
SETTINGS = Evaluation(hidden=8, inner=12, epochs=2, evaluate_every=1, seeds=[3], cutoffs=[3], device="cpu")


def make_run(
    outputs, model_and_tokenizer, *, normalise: str = "none", recommenders=("SASRec",), embeddings=("mntp", "id")
) -> Run:
    """The run "toy" under `outputs`, its item tables normalised as asked."""
    corpus, run = make_corpus(users=20), Run("toy", outputs)

    def make_corpus_(folder):
        corpus.save(folder)
        rows = [{"domain": "toy", "users": corpus.n_users, "items": corpus.n_items}]
        about = {"source": "synthetic", "split": "leave_one_out", "train_domains": ["toy"]}
        return about | {"statistics": rows, "cleaning": []}

    def make_table(folder):
        encoder = Encoder.load(run.require("mntp"), Encoding(), Backbone(**CPU))
        encoder.table(corpus.titles, out=folder / "mntp.npy")
        how = {k: getattr(encoder.settings, k) for k in ("pooling", "normalise", "max_tokens")}
        return {"stage": "mntp", "encoder": "mntp", "dim": encoder.dim, "attention": "bidirectional", **how}

    run.make("corpus", make_corpus_, settings={"titles": "gentle", "text": "{title}", "text_words": 0}, quiet=True)
    for name in ("csft", "mntp"):
        run.make(
            name, lambda folder: backbone.save(*model_and_tokenizer, folder), settings={}, inputs=["corpus"], quiet=True
        )
    run.make("embeddings/mntp", make_table, settings=CPU, inputs=["corpus", "mntp"], quiet=True)
    tables = {"mntp": np.load(run.path_of("embeddings/mntp.npy"))}
    settings = Evaluation(**SETTINGS.as_dict() | {"normalise": normalise, "workers": 1})
    jobs = [evaluation.Job("toy", recommender, name, 3) for recommender in recommenders for name in embeddings]
    for job, result in evaluation.train_many(jobs, {"toy": corpus.select(["toy"])}, tables, settings):
        evaluation.keep_result(run, job, result, settings, np.ones(corpus.n_items))
    return run
