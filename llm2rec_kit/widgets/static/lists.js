// What is told in words: an item's neighbours at each stage, where a text belongs, what a user did and what came next.

import { h, link, small, told } from "./basics.js";

const KEY = "rings: its nearest at each stage; dashed: its way through the stages; ▲ ▼ = new: against the stage before";
const HINT = "Click an item, or search for one, to see its nearest neighbours at each stage.";

export class Lists {
  constructor(app) {
    this.app = app;
    this.chosen = h("p", { className: "lx-chosen", tabIndex: -1, hidden: true }); // stays, so that focus can rest on it
    this.near = h("div", { className: "lx-near" });
    this.placed = h("div", { className: "lx-placed" });
    this.path = h("div", { className: "lx-path" });
    this.el = h("div", {}, this.chosen, this.near, this.placed, this.path);
  }

  title(id) { return this.app.data.titles[id - 1]; }
  take(id) { return () => { this.app.choose(id); this.chosen.focus({ preventScroll: true }); }; }

  columns(make) {
    return h("div", { className: "lx-columns" }, ...this.app.data.stages.map(({ name }, k) => {
      const before = k ? this.app.data.stages[k - 1].name : null, column = h("div", {}, h("h4", {}, name), ...make(name, before));
      column.dataset.stage = name;
      return column;
    }));
  }

  // -- neighbours

  showNear() {
    const { app } = this, { item } = app, lost = this.el.contains(document.activeElement) && document.activeElement.tagName === "SPAN";
    this.chosen.hidden = !item;
    if (!item) { this.near.replaceChildren(h("p", { className: "lx-hint" }, HINT)); return; }
    const clear = h("button", { type: "button", className: "lx-small lx-clear", onclick: () => { app.choose(0); app.search.field.focus(); } }, "clear");
    this.chosen.replaceChildren("★ ", h("b", {}, this.title(item)), " ", clear, " ", small("find on the maps", () => app.bring(item - 1, true)), " ", h("small", {}, KEY));
    const waiting = h("p", { className: "lx-hint" }, app.data.kernel ? "asking the kernel for neighbours …" : "reading the neighbours …");
    this.near.replaceChildren(app.model.get("neighbours")?.item === item ? this.columns((stage, before) => this.nearest(stage, before)) : waiting);
    if (lost) this.chosen.focus({ preventScroll: true });
  }

  nearest(stage, before) {
    const entries = this.app.nearAt(stage).map(([id, cosine, was], k) => {
      const rise = was ? was - (k + 1) : null;
      const mark = !before ? "" : rise === null ? "new" : rise > 0 ? `▲${rise}` : rise < 0 ? `▼${-rise}` : "=";
      const why = !before ? "" : was ? `rank ${was} at ${before}` : `not among the nearest at ${before}`;
      const step = h("span", { className: rise === 0 ? "" : rise === null || rise > 0 ? "lx-up" : "lx-down", title: why }, mark);
      return h("li", {}, link(this.title(id), this.take(id)), " ", h("small", {}, `${cosine.toFixed(2)} `, step));
    });
    const now = new Set(this.app.nearAt(stage).map(([id]) => id)), fell = before ? this.app.nearAt(before).filter(([id]) => !now.has(id)) : [];
    const gone = fell.length ? h("p", { className: "lx-fell" }, h("b", {}, "fell out: "), fell.map(([id]) => this.title(id)).join("; ")) : null;
    return [h("ol", {}, ...entries), gone];
  }

  // -- a text

  showPlaced() {
    const placed = this.app.placed;
    if (!placed?.nearest) { this.placed.replaceChildren(); return; }
    const clear = small("clear", () => this.app.put({ text: "" }));
    this.placed.replaceChildren(h("p", { className: "lx-chosen" }, "✚ ", h("b", {}, placed.text), " ", clear), this.columns((stage) => this.around(placed, stage)));
  }

  around({ nearest, far, without }, stage) {
    if (!nearest[stage]) return [h("p", { className: "lx-hint" }, `no encoder: ${without[stage]}`)];
    const entries = nearest[stage].map(([id, cosine]) => h("li", {}, link(this.title(id), this.take(id)), " ", h("small", {}, cosine.toFixed(2))));
    const lonely = far[stage] === undefined ? null
      : h("p", { className: "lx-far" }, h("b", {}, "far from everything"), `: 19 of 20 items have another at ${far[stage].toFixed(2)} or nearer, so the place on the map says little`);
    return [lonely, h("ol", {}, ...entries)];
  }

  // -- a user

  showPath() {
    const path = this.app.path;
    if (!path?.history) { this.path.replaceChildren(); return; }
    const entry = (id) => h("li", {}, link(this.title(id), this.take(id)));
    const head = h("p", { className: "lx-chosen" }, "User ", h("b", {}, path.id), ` (number ${path.user}) `, small("clear", () => this.app.put({ who: "", user: -1 })));
    const next = h("p", {}, h("b", {}, "□ came next: "), link(this.title(path.target), this.take(path.target)));
    const by = h("p", { className: "lx-hint" }, "Its rank by nearness to the last item, and the nearest:");
    const rank = (stage) => (path.ranks[stage] ? `rank ${told(path.ranks[stage])}` : "in the history already");
    const ranks = this.columns((stage) => [
      h("p", {}, rank(stage)),
      path.starred === undefined ? h("ol", {}, ...(path.recommended[stage] ?? []).map(entry)) : null,
    ]);
    const starred = path.starred === undefined ? [] : [
      h("p", {}, h("b", {}, "☆ recommended: "), path.starred ? `what came next is at rank ${path.starred}` : `what came next is not among the first ${path.first}`),
      h("ol", { className: "lx-titles" }, ...(Object.values(path.recommended)[0] ?? []).map(entry)),
    ];
    this.path.replaceChildren(head, h("ol", { className: "lx-titles" }, ...path.history.map(entry)), next, ...starred, by, ranks);
  }
}
