"""Whether settings can work: with those of other stages, and with the corpus that they are asked of.

What a field may be, beside others of its stage too, stands in `settings`. Here is what needs more than one stage (known
before the first notebook) or the corpus (known after it): found then, and not hours later by the notebook that breaks.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import preconditions
from llm2rec_kit.encoding import minilm, own_tables
from llm2rec_kit.pipeline import TABLES
from llm2rec_kit.reproduction.studies.study import choose_backbone_settings
from llm2rec_kit.runs import Run, find_outputs, manifest
from llm2rec_kit.settings import item_tables, own_parts
from llm2rec_kit.settings.ranges import show_value

# What a notebook goes on from, and what a run has once that one has ended: an artefact, or a folder of them.
COMES_AFTER = {"02": "01", "03": "02", "04": "03", "05": "03", "06": "04", "07": "04"}
LEAVES = {"01": "corpus", "02": "csft", "03": "embeddings/contrastive", "04": "evaluation"}


def check_across_stages(values: Mapping[str, Any], numbers: Collection[str], there: Iterable[str] = ()) -> None:
    """Raise SettingsError where settings of several stages do not go together in the notebooks of these `numbers`.

    `there` are the tables that the run has already. A stage whose notebook is not to run may be another than `values` say.
    """
    of = {stage.prefix: stage.from_parameters(values) for stage in S.STAGES}
    data, encoding, evaluation = S.Data.among(of), S.Encoding.among(of), S.Evaluation.among(of)
    tables, questions = S.Tables.among(of), S.Questions.among(of)
    if "04" in numbers and (empty := [k for k in ("recommenders", "embeddings") if not getattr(evaluation, k)]):
        raise S.SettingsError(f"evaluation_{empty[0]} is empty: notebook 04 compares what is trained. Name one at least.")
    for number, asked in (("04", evaluation.recommenders), ("06", tables.recommenders), ("07", questions.recommenders)):
        if number in numbers:
            _own_recommenders(asked, evaluation, data.max_history)
    if "03" in numbers:
        mntp, contrast = S.MNTP.among(of), S.Contrastive.among(of)
        if contrast.hides_tokens and contrast.mask_token == "new" and mntp.mask_token != "new":
            raise S.SettingsError(
                f"contrastive_mask_token 'new' is the token that MNTP makes, and mntp_mask_token is {mntp.mask_token!r}: set both to "
                "'new', or the first to another."
            )
        made = [*TABLES, *encoding.variants, *encoding.tables.values(), *encoding.own_files, *there]
        if "04" in numbers:
            texts = [text for name in evaluation.embeddings if (text := item_tables.parse_name(name)[0])]
            _known_tables("evaluation_embeddings", texts, [*made, minilm.NAME], "id")
            made += [minilm.NAME] if minilm.NAME in texts else []
        if "07" in numbers and "users" in questions.asked:
            _known_tables("questions_user_tables", item_tables.list_stages(questions.user_tables), made)
        if "05" in numbers:
            _known_tables("maps_stages", S.Maps.among(of).stages, [*made, "adapted"])
    if "07" in numbers:
        from llm2rec_kit.reproduction.studies.questions import find_unanswerable

        reasons = find_unanswerable(None, data, questions, share=evaluation.user_share)
        if questions.asked and not set(questions.asked) - set(reasons):
            told = "; ".join(f"{name}: {reasons[name]}" for name in questions.asked)
            raise S.SettingsError(f"None of the questions_asked can be answered with these settings ({told}).")
    if {"02", "06"} <= set(numbers):
        check_backbones(tables, S.Backbone.among(of))


def check_backbones(asked: S.Tables, backbone: S.Backbone) -> None:
    """Raise SettingsError for a `tiny-<width>` of `tables_backbones` that the heads of the run's backbone do not divide."""
    for name in asked.backbones:
        width = choose_backbone_settings(name).get("backbone_hidden")
        if width is not None and (not width or width % (2 * backbone.heads)):
            raise S.SettingsError(
                f"tables_backbones names {show_value(name)}, and the run's backbone has {backbone.heads} heads (backbone_heads): the "
                f"width must be a multiple of {2 * backbone.heads}."
            )


def check_order(
    values: Mapping[str, Any], numbers: Sequence[str], begun: Run | None, there: Collection[str] = tuple(LEAVES)
) -> None:
    """Raise SettingsError where a notebook after the first of `numbers` needs one that is neither among them nor was run.

    The first stops by itself, at once; another would after those before it have trained. `begun` is the run so far, `there`
    are the notebooks that the series has.
    """
    missing: list[str] = []
    for number in numbers[1:]:
        at = number
        while (at := _before(at, values)) in there and at not in (*numbers, *missing) and not _has_run(at, begun):
            missing.append(at)
    if missing:
        first = next(n for n in numbers[1:] if _before(n, values) in missing)
        raise S.SettingsError(
            f"Notebook {first} needs what notebook {_before(first, values)} makes. That is not asked for, and the run has nothing of "
            f"it: take --only {','.join(sorted({*numbers, *missing}))}."
        )


def _before(number: str, values: Mapping[str, Any]) -> str:
    """The notebook that one goes on from, or "": 04 needs no tables of 03 where it has none to read."""
    texts = {*item_tables.list_stages(S.Evaluation.from_parameters(values).embeddings)} - {minilm.NAME}
    return "01" if number == "04" and not texts else COMES_AFTER.get(number, "")


def _has_run(number: str, begun: Run | None) -> bool:
    left = LEAVES[number]
    return begun is not None and any(name == left or name.startswith(f"{left}/") for name in begun.artefacts())


def check_machine(values: Mapping[str, Any], numbers: Collection[str], there: Iterable[str] = ()) -> None:
    """Raise SettingsError for a device, a precision or a package that notebooks of these `numbers` ask for and is missing here.
    `there` are the tables that the run has already."""
    backbone, recommenders = S.Backbone.from_parameters(values), S.Evaluation.from_parameters(values)
    asked = {"backbone_device": backbone.device} if {"02", "03"} & set(numbers) else {}
    asked |= {"evaluation_device": recommenders.device} if {"04", "06", "07"} & set(numbers) else {}
    low = "04" in numbers and recommenders.recommenders and recommenders.precision == "bfloat16"
    texts = {item_tables.parse_name(name)[0] for name in recommenders.embeddings}
    if "04" in numbers and minilm.NAME in texts - {*there} and not minilm.is_available():
        raise S.SettingsError(minilm.LACKING)
    trained: list[type[S.Training]] = [S.CSFT] * ("02" in numbers) + [S.MNTP, S.Contrastive] * ("03" in numbers)
    stages = [stage.from_parameters(values) for stage in trained]
    _trackers(*stages)
    mixed = [stage.prefix for stage in _left_to_train(stages, values) if stage.precision == "mixed"]
    if not low and not mixed and set(asked.values()) <= {"auto", "cpu"}:
        return
    from llm2rec_kit.downstream import evaluation, fast_ops
    from llm2rec_kit.models.backbone import has_device

    for name, device in asked.items():
        if not has_device(device):
            raise S.SettingsError(f"{name} is {device!r}, and torch finds no such device here: take cpu or auto.")
    if low and evaluation.choose_device(recommenders)[0] == "cpu" and not fast_ops.has_fast_bfloat16():
        raise S.SettingsError("evaluation_precision bfloat16 needs a CPU with AVX512-BF16, or a GPU; take float32 here.")
    _mixed(mixed, backbone)


def _left_to_train(stages: list[S.Training], values: Mapping[str, Any]) -> list[S.Training]:
    """Those of `stages` that will be trained: all from the first on that the run has not finished, or that is forced."""
    folder = find_outputs(values.get("outputs", "")) / values.get("run", "")
    done = itertools.takewhile(lambda stage: (folder / stage.prefix / manifest.FOLDER_NOTE).is_file(), stages)
    return stages[0 if values.get("force") else len([*done]) :]


def _mixed(stages: list[str], backbone: S.Backbone) -> None:
    """Raise SettingsError where trainings in mixed precision, by name, would run on a CPU that emulates it."""
    from llm2rec_kit.models import kernels
    from llm2rec_kit.models.backbone import choose_placement

    if not stages or choose_placement(backbone)[0].type != "cpu":
        return
    if kernels.is_available() and not kernels.has_fast_bfloat16():
        names = ", ".join(f"{name}_precision" for name in stages)
        pure = " ".join(f"--set {name}.precision=pure" for name in stages)
        raise S.SettingsError(f"{names}: mixed {kernels.EMULATED} For pure: {pure}")


def _trackers(*stages: S.Stage) -> None:
    for stage in stages:
        if isinstance(stage, S.Training) and stage.report_to != "none":
            from llm2rec_kit.fitting import tracking  # with transformers

            tracking.check(stage)


def check_corpus(corpus: Corpus, *stages: S.Stage) -> list[str]:
    """Raise SettingsError where settings cannot work, or would mislead, on this corpus; returns notes for their reader.

    Cut-offs and metrics are held against the smallest catalogue that is ranked, batches and what is held out against what
    the training domains have, a domain against those there are, your own vectors against the items. Nothing else is read.
    """
    notes: list[str] = []
    _trackers(*stages)
    for stage in stages:
        match stage:
            case S.CSFT():
                notes += preconditions.check(corpus, to_train=True)
                _horizon(stage, len(corpus.select(corpus.train_domains)[0].samples("train")), "samples")
            case S.MNTP():
                notes += _held_out(corpus, stage)
            case S.Contrastive():
                notes += _contrasted(corpus, stage)
            case S.Encoding():
                for name, file in stage.own_files.items():
                    own_tables.read(name, file, corpus)
            case S.Evaluation():
                _ranked(corpus, stage)
                _left_warm(corpus, stage)
                notes += _learn_from(corpus, stage)
                _own_recommenders(stage.recommenders, stage, corpus.max_history)
                _own_baselines(stage, corpus)
            case S.Maps():
                notes += _mapped(corpus, stage)
            case S.Questions() if stage.domain and stage.domain not in corpus.domains:
                raise S.SettingsError(
                    f"questions_domain is {show_value(stage.domain)}; the corpus has {show_value(corpus.domains)}."
                )
    return notes


def _known_tables(setting: str, names: list[str], tables: list[str], *more: str) -> None:
    for name in names:
        if name not in tables:
            raise S.SettingsError(
                f"{setting} names {show_value(name)}, and there are no embeddings {show_value(name)} to be had. "
                f"{S.describe_unknown(name, [*dict.fromkeys(tables), *more], 'table')} encoding_variants, encoding_baselines and encoding_own make more."
            )


def _ranked(corpus: Corpus, asked: S.Evaluation) -> None:
    sizes = {domain: corpus.select([domain])[0].n_items for domain in corpus.domains}
    domain = min(sizes, key=sizes.__getitem__)
    where = f"the {sizes[domain]} items of {domain!r}"
    for k in asked.cutoffs:
        if k > sizes[domain]:
            raise S.SettingsError(f"evaluation_cutoffs holds {k}, beyond {where}: take a smaller k.")
    for name in ("metric", "tested"):
        metric = getattr(asked, name)
        kind, _, k = metric.partition("@")
        if kind == "recall" and int(k) >= sizes[domain]:
            raise S.SettingsError(f"evaluation_{name} {metric} is 1 for every model over {where}: take a smaller k.")
        if int(k or 0) > sizes[domain]:
            raise S.SettingsError(f"evaluation_{name} {metric} cuts beyond {where}: take a smaller k, or mrr.")


def _left_warm(corpus: Corpus, asked: S.Evaluation) -> None:
    """Raise SettingsError where holding items out leaves a domain without what a training needs: samples, and a metric that
    tells its epochs apart."""
    if not asked.cold:
        return
    from llm2rec_kit.downstream import cold  # with torch

    kind, _, k = asked.metric.partition("@")
    for domain, held in cold.hold_out_each({d: corpus.select([d]) for d in corpus.domains}, asked).items():
        warm = held.warm.draw_users(asked.user_share, asked.seeds[0])
        few = f" of evaluation_user_share {asked.user_share:g} of the users" if asked.user_share < 1 else ""
        for split in ("train", "valid", "test"):
            count = len(held.corpus.samples(split))
            if count and not len(warm.samples(split)):
                raise S.SettingsError(
                    f"evaluation_cold {asked.cold}{few} leaves none of the {count} {split} samples of {domain!r} ({held.counted}), and "
                    "recommenders are trained without the held items: take a smaller share, or 0."
                )
        if kind == "recall" and int(k) >= held.warm.n_items:
            raise S.SettingsError(
                f"evaluation_metric {asked.metric} is 1 for every model over the {held.warm.n_items} items of {domain!r} that "
                f"evaluation_cold {asked.cold} leaves to train on ({held.counted}): take a smaller k, or a smaller share."
            )


def _learn_from(corpus: Corpus, asked: S.Evaluation) -> list[str]:
    """Raise SettingsError where a seed draws users of a domain without a training or a validation sample."""
    if asked.user_share == 1:
        return []
    for domain in corpus.domains:
        part = corpus.select([domain])[0]
        for share, seed, split in part.list_empty_draws([asked.user_share], asked.seeds):
            if there := len(part.samples(split)):
                raise S.SettingsError(
                    f"evaluation_user_share: {share:g} of the {part.n_users:,} users of {domain!r}, drawn by seed {seed}, "
                    f"leaves none of its {there:,} {split} samples: take a larger share."
                )
    return [
        f"evaluation_user_share: recommenders, and baselines that learn from users, learn from {asked.user_share:g} of them; what is "
        "told below of how often training has an item counts all users"
    ]


def _own_recommenders(names: list[str], asked: S.Evaluation, max_history: int) -> None:
    """Make each recommender of one's own among `names` and look at its states; raises SettingsError as in a training."""
    for name in own_parts.hash_parts(names):
        from llm2rec_kit.downstream import recommenders

        recommenders.make(name, asked, max_history)


def _own_baselines(asked: S.Evaluation, corpus: Corpus) -> None:
    for name in own_parts.hash_parts(asked.baselines):
        from llm2rec_kit.downstream import baselines

        baselines.probe(name, corpus.select(corpus.domains[:1])[0])


def _titles(corpus: Corpus) -> int:
    return corpus.select(corpus.train_domains)[0].items["title"].n_unique()


def _horizon(stage: S.Training, count: int, what: str = "titles") -> None:
    if stage.schedule_epochs and stage.warmup_steps > (planned := stage.schedule_epochs * -(-count // stage.batch_size)):
        p = stage.prefix
        raise S.SettingsError(
            f"{p}_warmup_steps ({stage.warmup_steps}) must not be more than the {planned} steps that {p}_schedule_epochs "
            f"({stage.schedule_epochs}) makes of {count} {what} at {stage.batch_size} a step: the learning rate would never reach "
            "its peak."
        )


def _held_out(corpus: Corpus, asked: S.MNTP) -> list[str]:
    titles = _titles(corpus)
    held = round(titles * asked.held_out)
    if held >= titles:
        raise S.SettingsError(
            f"mntp_held_out {asked.held_out} leaves none of the {titles} titles of {show_value(corpus.train_domains)} to learn from."
        )
    if not held and (asked.patience or asked.keep == "best"):
        raise S.SettingsError(
            f"mntp_held_out {asked.held_out} of {titles} titles is none, and mntp_patience and mntp_keep watch the loss on those."
        )
    _horizon(asked, titles - held)
    if held or not asked.held_out:
        return []
    return [f"mntp_held_out: no title of {titles} is held out, so none is validated on"]


def _contrasted(corpus: Corpus, asked: S.Contrastive) -> list[str]:
    titles = _titles(corpus)
    _horizon(asked, titles)
    if asked.batch_size <= titles:
        return []
    return [
        f"contrastive_batch_size is {asked.batch_size}, and there are {titles} distinct titles: every step reads them all"
    ]


def _mapped(corpus: Corpus, asked: S.Maps) -> list[str]:
    items = min(corpus.n_items, asked.max_items)
    if items < 4:
        raise S.SettingsError(f"A map needs four items at least; the corpus has {corpus.n_items}.")
    if asked.neighbours < items:
        return []
    return [f"maps_neighbours is {asked.neighbours}, and there are {items} items: all others are everyone's neighbours"]
