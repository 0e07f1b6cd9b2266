"""The explorer: an atlas under the pointer, in a notebook or as one page that needs no kernel.

What is shown is in `static/`; what it cannot know, `explorer_answers` knows. `Explorer` ties the two together through
anywidget, `explorer_page` through answers written into a page beforehand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import anywidget
import numpy as np
import polars as pl
import traitlets

from llm2rec_kit.data import new_titles
from llm2rec_kit.encoding import table_encoder
from llm2rec_kit.figures import map_figures
from llm2rec_kit.maps import projection
from llm2rec_kit.maps.atlas import ADAPTED, Atlas
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.widgets import explorer_answers as answers
from llm2rec_kit.widgets import explorer_page
from llm2rec_kit.widgets.explorer_answers import Recommend

if TYPE_CHECKING:
    from llm2rec_kit.encoding.encoder import Encoder

Encode = Callable[[str], dict[str, np.ndarray | str]]  # a text to {stage: float32 (dim,), or why it has no place there}


class Explorer(anywidget.AnyWidget):
    """The widget. Python can set `item`, `text`, `user`, `who`, `shown`, `colour`, `compared`, `selected` as controls do."""

    _esm = explorer_page.read_program()
    _css = explorer_page.STATIC / "explorer.css"

    data = traitlets.Dict().tag(sync=True)
    shown = traitlets.List(traitlets.Unicode(), help="stages side by side").tag(sync=True)
    colour = traitlets.Unicode(help="the column that colours the items").tag(sync=True)
    count = traitlets.Int(8, min=1, max=explorer_page.MOST, help="neighbours to list").tag(sync=True)
    item = traitlets.Int(0, min=0, help="the chosen item's id, 0 for none").tag(sync=True)
    selected = traitlets.List(traitlets.Int(), help="ids of the selected items").tag(sync=True)
    text = traitlets.Unicode("", help="a text to place").tag(sync=True)
    user = traitlets.Int(-1, min=-1, help="the number of the user whose history is shown, -1 for none").tag(sync=True)
    who = traitlets.Unicode("", help="the same user by the source's own id").tag(sync=True)
    compared = traitlets.List(traitlets.Unicode(), maxlen=2, help="two stages to compare item by item").tag(sync=True)
    neighbours = traitlets.Dict(help="answer to `item`").tag(sync=True)
    placed = traitlets.Dict(help="answer to `text`").tag(sync=True)
    path = traitlets.Dict(help="answer to `user`").tag(sync=True)
    difference = traitlets.Dict(help="answer to `compared`").tag(sync=True)
    message = traitlets.Unicode("", help="what the kernel is doing").tag(sync=True)

    def __init__(self, atlas: Atlas, *, encode: Encode | None = None, recommend: Recommend | None = None) -> None:
        """`encode` gives a text's embedding at each stage, `recommend` replaces the nearest to the last item as stars."""
        self.atlas, self.encode, self.recommend = atlas, encode, recommend
        self._near: dict[str, np.ndarray] = {}  # of each stage that was compared, every item's nearest
        self._usual: dict[str, float] | None = None
        data, shown = explorer_page.make_contents(atlas, encodes=encode is not None), explorer_page.choose_first_view(atlas)
        super().__init__(data=data, shown=shown, colour=data["columns"][0]["name"])
        self.observe(self._tell_neighbours, names=["item", "count"])
        self.observe(self._tell_place, names="text")
        self.observe(self._find_user, names="who")
        self.observe(self._tell_path, names="user")
        self.observe(self._tell_difference, names="compared")

    @property
    def selection(self) -> pl.DataFrame:
        """The selected items, a row each, with all columns of the atlas."""
        return self.atlas.items.filter(pl.col("item").is_in(self.selected))

    @property
    def changed(self) -> pl.DataFrame:
        """The two compared stages by item: item, title, changed (share of its nearest that are others), most first."""
        if not self.difference:
            return pl.DataFrame(schema={"item": pl.Int32, "title": pl.String, "changed": pl.Float64})
        lost = np.frombuffer(self.difference["changed"], np.uint8) / self._nearest_of(self.compared[0]).shape[1]
        table = self.atlas.items.select("item", "title").with_columns(changed=pl.Series(lost))
        return table.sort("changed", descending=True, maintain_order=True)

    @property
    def nearest(self) -> pl.DataFrame:
        """The chosen item's neighbours: stage, rank, item, title, cosine, before. Empty without a choice."""
        found = self.atlas.nearest(self.item or 1, self.count)
        return found if self.item else found.clear()

    def figure(self) -> Any:
        """Draw what is shown as a static figure: the chosen item's neighbours at every stage, or the coloured maps."""
        if self.item:
            return map_figures.draw_neighbourhood(self.atlas, self.item, k=self.count)
        colour = self.colour if self.colour in self.atlas.items.columns else self.atlas.kind
        return map_figures.draw_stage_maps(self.atlas, colour=colour)

    @traitlets.validate("item", "user")
    def _in_corpus(self, proposal: dict[str, Any]) -> int:
        corpus, value = self.atlas.corpus, int(proposal["value"])
        of = {"item": ("Items", 1, corpus.n_items), "user": ("Users", 0, corpus.n_users - 1)}
        kind, first, last = of[proposal["trait"].name]
        if value > last:
            raise traitlets.TraitError(f"{kind} run from {first} to {last}; found {value}.")
        return value

    @traitlets.validate("shown", "compared")
    def _known_stages(self, proposal: dict[str, Any]) -> list[str]:
        stages: list[str] = proposal["value"]
        if unknown := [s for s in stages if s not in self.atlas.stages]:
            raise traitlets.TraitError(f"No stage {unknown}; there are {self.atlas.stages}.")
        return stages

    def _tell_neighbours(self, _: Any = None) -> None:
        self.neighbours = answers.find_neighbours(self.atlas, self.item, self.count)

    def _tell_place(self, _: Any = None) -> None:
        if not self.text.strip() or self.encode is None:
            self.placed = {}
            return
        with self._saying("encoding at every stage …", "could not place the text"):
            vectors = self.encode(self.text)
            self._usual = self._usual or answers.compute_usual_cosines(self.atlas)
            self.placed = answers.place(self.atlas, self.text, vectors, usual=self._usual)

    def _find_user(self, _: Any = None) -> None:
        found = answers.find_user(self.atlas.corpus, self.who) if self.who else -1
        unknown = self.who and found < 0
        self.message = f"There is no user “{self.who}” among {self.atlas.corpus.n_users:,}." if unknown else ""
        self.user = found

    def _tell_path(self, _: Any = None) -> None:
        self.path = {}
        if self.user >= 0:
            with self._saying("reading the history …", "could not recommend"):
                self.path = answers.find_path(self.atlas, self.user, self.recommend)

    def _tell_difference(self, _: Any = None) -> None:
        if len(self.compared) != 2:
            self.difference = {}
            return
        with self._saying("comparing neighbours …", "could not compare"):
            first, second = (self._nearest_of(stage) for stage in self.compared)
            self.difference = {"between": list(self.compared), "changed": answers.count_lost(first, second).tobytes()}

    def _nearest_of(self, stage: str) -> np.ndarray:
        if stage not in self._near:
            self._near[stage] = projection.find_neighbours(np.asarray(self.atlas.tables[stage][1:]), answers.COMPARED)
        return self._near[stage]

    @contextlib.contextmanager
    def _saying(self, meanwhile: str, failed: str) -> Iterator[None]:
        """Tell what the kernel is doing; an error becomes a message, since in a callback nobody would see it."""
        self.message = meanwhile
        try:
            yield
            self.message = ""
        except Exception as error:
            self.message = f"{failed}: {error}"


def open(
    run: str | Run, outputs: str = "", *, recommend: Recommend | None = None, trust_remote_code: bool = False
) -> Explorer:
    """Open the explorer over a finished run: `explorer.open("demo")`; ArtefactError where notebook 05 has not run.

    `trust_remote_code`: whether code that came with the run's models may run, to place a text.
    """
    run = run if isinstance(run, Run) else Run(run, outputs)
    atlas = Atlas.load(run)
    return Explorer(atlas, encode=make_encoders(run, atlas.stages, trust_remote_code=trust_remote_code), recommend=recommend)


def recommend_with(run: Run, atlas: Atlas, recommender: str = "SASRec") -> tuple[Recommend | None, str]:
    """Make what `open` takes as `recommend`, and say in words what the explorer's stars then are.

    It is the recommender over the last stage whose weights the run kept in every domain. None where no weights were kept:
    the stars are then the items nearest to the last of a history.
    """
    from llm2rec_kit.downstream import saved_recommender

    for stage in reversed(atlas.stages):
        if saved_recommender.has_weights(run, atlas.corpus, recommender, stage):
            recommend = cast(Recommend, saved_recommender.recommend_across_domains(run, atlas.corpus, recommender, stage))
            return recommend, f"what {recommender} over {stage} puts first"
    return None, f"the nearest to the last item (notebook 04 kept no {recommender})"


def make_encoders(run: Run, stages: list[str], *, trust_remote_code: bool = False) -> Encode:
    """Make a function from a text to its embedding at each stage, or to a phrase where a stage has no encoder. An encoder is
    loaded when first asked, and kept; so is the code that reads models, seconds of work. A text is prepared as the titles of
    the run's items were."""
    loaded: dict[str, Encoder | str] = {}
    find_settings = cache(partial(new_titles.find_settings, run))

    def encode(text: str) -> dict[str, np.ndarray | str]:
        texts = new_titles.as_in_corpus([text], find_settings())
        for stage in stages:
            if stage not in loaded:
                loaded[stage] = _encoder(run, stage, trust_remote_code)
        return {stage: e if isinstance(e, str) else e.encode(texts)[0] for stage, e in loaded.items()}

    return encode


def _encoder(run: Run, stage: str, trust_remote_code: bool) -> Encoder | str:
    """What made a stage's table, as it was used then, or a phrase that says why there is none."""
    from llm2rec_kit.models.checkpoint import BackboneError

    if stage == ADAPTED:
        return "a recommender's adapter, which knows the items of its domain alone"
    try:
        return table_encoder.load_encoder(run, stage, trust_remote_code=trust_remote_code)
    except (ArtefactError, BackboneError) as error:
        return str(error).split(". ")[0]
