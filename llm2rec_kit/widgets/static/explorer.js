// The explorer's face: one program, two hosts. In a notebook anywidget calls `render` with a model tied to the kernel; in the
// page that `llm2rec explore` writes, the model is a plain object there. The other modules are joined before this one
// (widgets/explorer_page.py), so that both hosts get one file.

import { SHAPES, CHOSEN, CHOSEN_DARK, GREY, GREY_DARK, button, clamp, ease, group, h, labelled, packed, paint, rgb, selectOf, told, viridis } from "./basics.js";
import { number, shownOf, unpack } from "./catalogue.js";
import { Comparison } from "./compare.js";
import { Filters } from "./filters.js";
import { Lists } from "./lists.js";
import { stampsOf } from "./marks.js";
import { Panel } from "./panel.js";
import { savePicture } from "./picture.js";
import { Search } from "./search.js";
import { Selection } from "./selection.js";

const COARSE_ABOVE = 20_000; // points on screen: while these move, screens of fine pixels are drawn coarsely
const SETTLE_MS = 200, SLICE_MS = 12, MOVE_MS = 14; // until it rests; of drawing in a frame at rest, and while it moves
const LEAST = 5_000; // points drawn while moving, however slow the machine
// CSS pixels: the least of a panel, of a list, of a window that has what is told beside one map, beside several, and its width.
const NARROWEST = 240, LIST = 190, BESIDE_ONE = 1100, BESIDE = 1500, TOLD = 440;
const LEG_MS = 900, REST_MS = 350; // of the animation: between two stages, and at each
const CLOSEST = 200, FURTHEST = 0.5; // zoom
const MODES = {
  pan: ["pan", "drag to move, wheel to zoom, click an item"], lasso: ["lasso", "draw around items to select them (or hold Shift)"],
  add: ["+", "draw around items to select them, too (or hold Shift and Ctrl)"],
  remove: ["−", "draw around items to take them out of the selection (or hold Shift and Alt)"],
};

class App {
  constructor(model, el, data) {
    Object.assign(this, { model, data, mode: "pan", hover: -1, panels: [], jobs: [], frameAsked: 0, playing: 0, stampsFor: {} });
    Object.assign(this, { found: [], searching: false, size: 1, opacity: 1, named: true, most: data.n, cost: 0 });
    this.faint = new Uint8Array(data.n); // these three in the order of drawing
    this.tint = new Uint32Array(data.n);
    this.shape = new Uint8Array(data.n);
    this.lists = new Lists(this);
    this.search = new Search(this);
    this.selection = new Selection(this);
    this.filters = new Filters(this);
    this.compare = new Comparison(this);
    this.resetView(false);
    this.root = h("div", { className: "lx" });
    this.root.spotOf = (id) => this.spotOf(id);
    this.build();
    el.append(this.root);
    this.watch();
    this.theme();
    this.showStages();
    this.setNamed(true);
    this.selection.show();
    this.compare.answered();
    this.showUser();
    this.showTold();
  }

  get item() { return this.model.get("item"); }
  get path() { return this.model.get("path"); }
  get placed() { return this.model.get("placed"); }
  get shown() { return this.data.stages.filter((s) => this.model.get("shown").includes(s.name)); }
  get columns() { return this.compare.column ? [...this.data.columns, this.compare.column] : this.data.columns; }
  get column() { return this.columns.find((c) => c.name === this.model.get("colour")) ?? this.columns[0]; }
  put(values) { for (const [key, value] of Object.entries(values)) this.model.set(key, value); this.model.save_changes(); }

  // -- the controls

  build() {
    this.stageButtons = this.data.stages.map((s) => button(s.name, { onclick: () => this.toggleStage(s.name) }));
    this.colour = h("select", { className: "lx-colour", onchange: () => this.put({ colour: this.colour.value }) });
    const most = this.data.most;
    this.count = h("input", { type: "number", className: "lx-count", min: 1, max: most, title: `1 to ${most}`, onchange: () => this.askCount() });
    this.modes = Object.entries(MODES).map(([mode, [text, title]]) => Object.assign(button(text, { className: `lx-${mode}`, title, ariaLabel: mode === "pan" || mode === "lasso" ? mode : `lasso, ${mode}`, onclick: () => this.setMode(mode) }), { mode }));
    this.play = button("▶ play stages", { className: "lx-play", onclick: () => this.animate() });
    const slider = (text, name, low, high) => labelled(text, h("input", { type: "range", className: `lx-${name}`, min: low, max: high, step: "any", value: "1", oninput: (e) => { this[name] = Number(e.target.value); this.refresh({ points: true }); } }));
    this.names = button("names", { className: "lx-names", title: "names of the groups on the maps", onclick: () => this.setNamed(!this.named) });
    this.bar = h("div", { className: "lx-bar" }, group("Stages", ...this.stageButtons), labelled("Colour by", this.colour), group("Pointer", ...this.modes),
      group("View", button("reset", { className: "lx-reset", onclick: () => this.resetView() }), this.play, this.names, button("PNG", { className: "lx-png", title: "the maps as they are seen, as a picture", onclick: () => savePicture(this) })),
      slider("Point size", "size", 0.4, 3), slider("Opacity", "opacity", 0.1, 1.15), labelled(`Nearest, to ${most}`, this.count));
    this.buildAsking();
    this.grid = h("div", { className: "lx-grid" });
    this.legend = h("div", { className: "lx-legend" });
    this.tip = h("div", { className: "lx-tip", hidden: true });
    this.status = h("div", { className: "lx-status", role: "status" });
    this.body = h("div", { className: "lx-body" }, this.grid, h("div", { className: "lx-told" }, this.legend, this.selection.el, this.compare.el, this.lists.el));
    this.root.append(this.bar, this.asking, this.filters.el, this.status, this.body, this.tip);
    // JupyterLab has shortcuts on plain keys, Enter among them; what is typed here is no command.
    for (const type of ["keydown", "keyup", "keypress"]) this.root.addEventListener(type, (e) => e.stopPropagation());
  }

  buildAsking() {
    this.asking = h("div", { className: "lx-bar" }, this.search.el);
    if (this.data.encodes) {
      this.text = h("input", { type: "text", className: "lx-text", placeholder: "any text, Enter to place it", onkeydown: (e) => e.key === "Enter" && this.put({ text: this.text.value }) });
      this.asking.append(labelled("Place a text", this.text));
    }
    if (this.data.users) this.asking.append(...this.userField());
    this.asking.append(this.filters.field);
    if (this.data.stages.length > 1) this.asking.append(this.compare.field);
  }

  // A user by the source's own id, or by number; where the host carries some of the users alone, these are offered.
  userField() {
    const { users, carried } = this.data, few = carried && carried.length < users, listed = `lx-users-${this.search.id}`;
    this.user = h("input", { type: "text", className: "lx-user", placeholder: "an id, Enter", autocomplete: "off", onchange: () => this.put({ who: this.user.value.trim() }) });
    if (!carried) return [labelled("User, the source's id", this.user)];
    this.user.setAttribute("list", listed);
    const offered = h("datalist", { id: listed }, ...carried.map(([number, id]) => h("option", { value: id }, `number ${number}`)));
    return [labelled(few ? `User, ${told(carried.length)} of ${told(users)} are in this page` : "User, the source's id", this.user), offered];
  }

  askCount() {
    const asked = Math.round(this.count.valueAsNumber || 1), count = clamp(asked, 1, this.data.most);
    if (asked > count) this.say(this.data.kernel ? `${count} neighbours at most.` : `This page holds ${count} neighbours of each item.`);
    this.count.value = count;
    this.put({ count });
  }

  watch() {
    const turn = (told) => () => { this.told = told; this.refresh(); this.showTold(); };
    this.calls = [
      [["shown"], () => this.showStages()], [["colour"], () => { this.recolour(); this.compare.list(); }],
      [["item"], () => { if (this.item) this.bring(this.item - 1); }], [["item", "neighbours", "count"], () => this.showNear()],
      [["selected"], () => { this.selection.show(); this.dim(); }], [["difference"], () => this.compare.answered()],
      [["placed"], turn("placed")], [["path"], () => { this.showUser(); turn("path")(); }], [["message"], () => this.showTold()],
    ];
    for (const [names, what] of this.calls) names.forEach((name) => this.model.on(`change:${name}`, what));
    this.resized = new ResizeObserver(() => { this.panels.forEach((p) => p.resize()); this.stale = true; this.draw(); }); // at once: a resized canvas is blank
    this.widened = new ResizeObserver(() => this.arrange());
    this.widened.observe(this.root);
    this.heightened = () => this.arrange();
    window.addEventListener("resize", this.heightened);
    this.themes = new MutationObserver(() => this.theme());
    this.themes.observe(document.body, { attributes: true });
    this.scheme = window.matchMedia("(prefers-color-scheme: dark)");
    this.schemed = () => this.theme();
    this.scheme.addEventListener("change", this.schemed);
  }

  close() {
    for (const [names, what] of this.calls) names.forEach((name) => this.model.off(`change:${name}`, what));
    for (const observer of [this.resized, this.widened, this.themes]) observer.disconnect();
    this.scheme.removeEventListener("change", this.schemed);
    window.removeEventListener("resize", this.heightened);
    cancelAnimationFrame(this.frameAsked); cancelAnimationFrame(this.playing); clearTimeout(this.settling);
  }

  // -- drawing

  // What changed is drawn in the browser's next frame, however many events asked for it. Points at rest are drawn in slices over
  // as many frames as they need, so that no event waits for them; while they move, as many of them as a frame has time for.
  refresh({ points = false, move = false } = {}) {
    if (points) this.panels.forEach((p) => (p.names = null));
    this.stale ||= points || move;
    if (move && this.data.n * this.panels.length > COARSE_ABOVE) {
      if (!this.moving) this.most = clamp(this.cost ? MOVE_MS / this.cost / this.panels.length : this.most, LEAST, this.data.n);
      this.moving = true;
      clearTimeout(this.settling);
      this.settling = setTimeout(() => { this.moving = false; this.refresh({ points: true }); }, SETTLE_MS);
    } else if (move) this.panels.forEach((p) => (p.names = null));
    this.frameAsked ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frameAsked);
    this.frameAsked = 0;
    const began = performance.now();
    if (this.stale) this.jobs = this.panels.map((p) => (this.moving ? p.paint(1, Math.round(this.most)) : p.paint(p.ratio || 1, this.data.n)));
    if (this.stale) this.spent = 0;
    this.stale = false;
    const worked = this.jobs.length > 0;
    while (this.jobs.length && (this.moving || performance.now() - began < SLICE_MS)) if (this.jobs[0].next().done) this.jobs.shift();
    const took = performance.now() - began;
    this.spent += took;
    if (worked && this.moving) this.most = clamp(this.most * Math.min(1.3, MOVE_MS / Math.max(took, 0.1)), LEAST, this.data.n);
    else if (worked && !this.jobs.length) this.cost = this.spent / this.data.n / this.panels.length;
    this.panels.forEach((p) => p.drawOver());
    if (this.jobs.length) this.frameAsked = requestAnimationFrame(() => this.draw());
    else if (this.panels.every((p) => p.el.dataset.drawn)) this.root.dataset.drawn ??= performance.now().toFixed(0); // the first whole picture
  }

  stamps(ratio) {
    const radius = this.size * ratio * clamp(110 / Math.sqrt(this.data.n), 1.15, 3.2) * clamp(this.view.zoom, 1, 30) ** 0.3, key = radius.toFixed(1);
    return (this.stampsFor[key] ??= stampsOf(radius));
  }

  theme() {
    const style = getComputedStyle(this.root), numbers = style.backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
    this.paper = numbers.length > 3 && numbers[3] === 0 ? [255, 255, 255] : numbers.slice(0, 3);
    this.paperCss = `rgb(${this.paper})`;
    this.dark = this.paper[0] * 0.3 + this.paper[1] * 0.59 + this.paper[2] * 0.11 < 128;
    this.ink = this.dark ? "#f2f2f2" : "#1c1c1e";
    this.accent = this.dark ? CHOSEN_DARK : CHOSEN;
    this.recolour();
  }

  colourOf(k) { return paint(k, this.dark); }

  // -- what is shown

  toggleStage(name) {
    const now = this.model.get("shown"), next = now.includes(name) ? now.filter((s) => s !== name) : [...now, name];
    if (next.length) this.put({ shown: this.data.stages.map((s) => s.name).filter((s) => next.includes(s)) });
  }

  showStages() {
    this.resized.disconnect();
    this.panels = this.shown.map((stage) => new Panel(this, stage));
    this.grid.replaceChildren(...this.panels.map((p) => p.el));
    this.arrange();
    this.stageButtons.forEach((b, k) => b.setAttribute("aria-pressed", String(this.shown.includes(this.data.stages[k]))));
    this.panels.forEach((p) => this.resized.observe(p.box));
    this.setMode(this.mode);
    this.showNear();
  }

  // Panels as large as the window lets them be, in even rows; on a wide screen what is told stands beside them.
  arrange() {
    const { w, h: tall } = this.data.bounds, n = this.panels.length, width = this.root.clientWidth - 16;
    const beside = width >= (n === 1 ? BESIDE_ONE : BESIDE), across = beside ? width - 24 - TOLD : width;
    const above = this.data.kernel ? this.body.offsetTop + 150 : this.body.getBoundingClientRect().top + window.scrollY + 24;
    const high = Math.max((beside ? 1 : 0.62) * (window.innerHeight - above), 0.42 * window.innerHeight);
    const shape = beside ? 1.15 : clamp((1.1 * tall) / w, 0.6, 1.15); // beside, they fill the window; else lists follow at once
    let best = { scale: 0 };
    for (let columns = 1; columns <= n; columns++) {
      const rows = Math.ceil(n / columns), wide = (across - 8 * (columns - 1)) / columns, room = high / rows - 34;
      const scale = Math.min(wide / w, room / tall);
      if (columns > 1 && wide < NARROWEST) break;
      if (scale > best.scale) best = { scale, columns, height: clamp(Math.min(room, shape * wide), NARROWEST, Math.max(NARROWEST, room)) };
    }
    const lists = Math.max(1, Math.min(this.data.stages.length, Math.floor((beside ? TOLD : width) / LIST)));
    const style = { columns: best.columns ?? 1, tall: `${Math.round(best.height ?? NARROWEST)}px`, lists, high: `${Math.round(high)}px`, told: `${TOLD}px` };
    for (const [name, value] of Object.entries(style)) this.body.style.setProperty(`--lx-${name}`, value);
    this.body.classList.toggle("lx-beside", beside);
  }

  setMode(mode) {
    this.mode = mode;
    this.modes.forEach((b) => b.setAttribute("aria-pressed", String(b.mode === mode)));
    this.panels.forEach((p) => (p.over.style.cursor = mode === "pan" ? "grab" : "crosshair"));
  }

  setNamed(named) {
    this.named = named;
    this.names.setAttribute("aria-pressed", String(named));
    this.refresh();
  }

  resetView(draw = true) {
    const { x, y, w, h: tall } = this.data.bounds;
    this.view = { x: x + w / 2, y: y + tall / 2, zoom: 1 };
    if (draw) this.refresh({ points: true });
  }

  // Look elsewhere or closer, within limits: the map's own edge, and what zoom makes sense of.
  look({ x = this.view.x, y = this.view.y, zoom = this.view.zoom }) {
    const { bounds } = this.data;
    this.view = { x: clamp(x, bounds.x, bounds.x + bounds.w), y: clamp(y, bounds.y, bounds.y + bounds.h), zoom: clamp(zoom, FURTHEST, CLOSEST) };
    this.refresh({ move: true });
  }

  zoomBy(factor, [x, y] = [this.view.x, this.view.y]) {
    const zoom = clamp(this.view.zoom * factor, FURTHEST, CLOSEST), f = this.view.zoom / zoom;
    this.look({ zoom, x: x + (this.view.x - x) * f, y: y + (this.view.y - y) * f });
  }

  // Bring an item into view on every map shown: where it is out of view, to the middle of its places, zoomed out if these are apart.
  bring(i, always = false) {
    if (!this.panels.length || (!always && this.panels.every((p) => p.shows(i)))) return;
    const [xs, ys] = [0, 1].map((k) => this.panels.map((p) => p.stage.xy[2 * i + k])), ends = (v) => [Math.min(...v), Math.max(...v)];
    const [x0, x1] = ends(xs), [y0, y1] = ends(ys), [w, tall] = this.panels[0].size ?? [1, 1], { scale } = this.panels[0].frame(1);
    const room = Math.min((w - 60) / Math.max(1e-9, x1 - x0), (tall - 60) / Math.max(1e-9, y1 - y0)); // pixels a unit at most
    this.look({ x: (x0 + x1) / 2, y: (y0 + y1) / 2, zoom: this.view.zoom * Math.min(1, room / scale) });
  }

  recolour() {
    const { column, dark } = this, { order } = this.data, { values } = column;
    this.colour.replaceChildren(...this.columns.map((c) => h("option", { value: c.name }, c.name)));
    this.colour.value = column.name;
    const grey = packed(rgb(dark ? GREY_DARK : GREY));
    if (column.kind === "number") {
      const ramp = Uint32Array.from({ length: 64 }, (_, k) => packed(viridis(dark ? k / 63 : 1 - k / 63)));
      const at = column.scale === "linear" ? (v) => v : (v) => Math.log1p(Math.max(0, v)), low = at(column.low), high = Math.max(at(column.high), low + 1e-6);
      for (let o = 0; o < order.length; o++) {
        const v = values[order[o]];
        this.tint[o] = Number.isNaN(v) ? grey : ramp[clamp(Math.round((63 * (at(v) - low)) / (high - low)), 0, 63)];
      }
      this.shape.fill(0);
    } else {
      const palette = Array.from({ length: 8 }, (_, k) => packed(rgb(paint(k, dark))));
      for (let o = 0; o < order.length; o++) {
        const v = values[order[o]], k = v < column.drawn ? v : -1;
        this.tint[o] = k < 0 ? grey : palette[k % 8];
        this.shape[o] = k < 0 ? 0 : Math.floor(k / 8) % 3;
      }
    }
    this.showLegend(column);
    this.dim();
  }

  // Which points step back: what the filters keep out, and all but the selection and the hits of a search.
  dim() {
    const { order } = this.data, passes = this.filters.test(), chosen = this.selection.ids.length ? this.flags(this.selection.ids, 1) : null;
    const lit = this.searching ? this.flags(this.found, 0) : null;
    for (let o = 0; o < order.length; o++) {
      const i = order[o];
      this.faint[o] = passes(i) && (!chosen || chosen[i]) && (!lit || lit[i]) ? 0 : 1;
    }
    this.refresh({ points: true });
  }

  flags(rows, from) {
    const out = new Uint8Array(this.data.n);
    for (const row of rows) out[row - from] = 1;
    return out;
  }

  lit(rows, searching) {
    Object.assign(this, { found: searching ? rows : [], searching });
    this.dim();
  }

  showLegend(column) {
    if (column.kind === "number") {
      const ramp = Array.from({ length: 10 }, (_, k) => `rgb(${viridis(this.dark ? k / 9 : 1 - k / 9)})`).join(",");
      this.legend.replaceChildren(`${column.name}${column.scale === "linear" ? "" : ", log scale"}: ${number(column, column.low)} `, h("span", { className: "lx-ramp", style: `background:linear-gradient(to right,${ramp})` }), ` ${number(column, column.high)}`);
      return;
    }
    const focused = this.legend.contains(document.activeElement) ? document.activeElement.dataset.key : null, kept = this.filters.kept.get(column.name);
    const shown = column.names.slice(0, column.drawn).map((name, k) => [name, k]);
    if (column.values.some((v) => v < 0)) shown.push([column.rest ?? "other", -1]);
    const entries = shown.map(([name, k]) => {
      const mark = h("span", { className: `lx-mark lx-${SHAPES[Math.max(0, Math.floor(k / 8)) % 3]}`, style: `--c:${paint(k, this.dark)}` });
      const entry = button("", { title: "show only this", onclick: () => this.filters.toggle(column.name, k) });
      entry.append(mark, name);
      entry.dataset.key = String(k);
      entry.setAttribute("aria-pressed", String(Boolean(kept?.has?.(k))));
      return entry;
    });
    const rarer = column.names.length > column.drawn ? [h("small", {}, `grey: ${told(column.names.length - column.drawn)} rarer ones`)] : [];
    this.legend.replaceChildren(h("span", {}, `${column.name}: `), ...entries, ...rarer);
    if (focused) this.legend.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  // -- pointing and choosing

  hoverAt(panel, event) {
    const began = performance.now(), found = panel ? panel.under(event) : -1;
    if (found >= 0) {
      const box = this.root.getBoundingClientRect(), right = event.clientX - box.left > box.width - 300;
      if (found !== this.hover) this.tip.replaceChildren(...this.describe(found));
      this.tip.hidden = false;
      const high = this.tip.offsetHeight, under = event.clientY + 14 + high < window.innerHeight ? 14 : -14 - high;
      Object.assign(this.tip.style, { left: right ? "" : `${event.clientX - box.left + 14}px`, right: right ? `${box.right - event.clientX + 14}px` : "", top: `${event.clientY - box.top + under}px` });
    } else this.tip.hidden = true;
    if (found !== this.hover) { this.hover = found; this.refresh(); }
    this.root.dataset.hoverMs = (performance.now() - began).toFixed(2);
  }

  describe(i) {
    const facts = this.columns.map((c) => h("div", {}, h("span", {}, c.name), " ", shownOf(c, i)));
    return [h("b", {}, this.data.titles[i]), ...facts];
  }

  choose(id) { this.put({ item: id }); }

  // Where the first panel shows an item, in the window's coordinates: for tests and for pointing at things from outside.
  spotOf(id) {
    const panel = this.panels[0], box = panel.over.getBoundingClientRect(), [x, y] = panel.toScreen(...panel.place(id - 1));
    return [box.left + x / panel.ratio, box.top + y / panel.ratio];
  }

  // -- what is told

  nearAt(stage) {
    const told = this.model.get("neighbours");
    return this.item && told?.item === this.item ? told.stages[stage] ?? [] : [];
  }

  showNear() {
    this.count.value = this.model.get("count");
    this.refresh();
    this.lists.showNear();
  }

  showTold() {
    const { path, placed } = this, message = this.model.get("message");
    this.lists.showPlaced();
    this.lists.showPath();
    if (message) this.say(message);
    else if (placed?.text && this.told !== "path") this.say(this.whereIs(placed));
    else if (path?.history) this.say(`User ${path.id}: the numbered path is the history, the square what came next, hollow stars ${path.how}.`);
    else this.say("");
  }

  showUser() { if (this.user && this.path?.history) this.user.value = this.path.id; } // an unknown one stays as typed

  whereIs({ text, nearest, far, without }) {
    const lonely = (stage) => (far[stage] === undefined ? "" : ", yet far from everything");
    const found = Object.entries(nearest).map(([stage, [[id, cosine]]]) => `${stage}: ${this.data.titles[id - 1]} (${cosine.toFixed(2)}${lonely(stage)})`);
    const none = Object.entries(without ?? {}), lacking = none.length ? ` No encoder for ${none.map(([stage, why]) => `${stage} (${why})`).join("; ")}.` : "";
    return (found.length ? `“${text}” is nearest to ${found.join("; ")}.` : `“${text}” has no place here.`) + lacking;
  }

  say(text) { this.status.textContent = text; }

  // -- raw -> csft -> mntp -> contrastive, in the first panel

  animate() {
    const panel = this.panels[0], { stages } = this.data, still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const stop = () => { cancelAnimationFrame(this.playing); this.playing = 0; panel.rest(); panel.name.textContent = panel.stage.name; this.play.textContent = "▶ play stages"; this.refresh({ points: true }); };
    if (this.playing) { stop(); return; }
    const began = performance.now();
    this.play.textContent = "■ stop";
    this.hover = -1;
    const step = () => {
      const gone = performance.now() - began, leg = Math.floor(gone / (LEG_MS + REST_MS));
      if (leg >= stages.length - 1 || !this.panels.includes(panel)) { stop(); return; }
      const within = clamp((gone - leg * (LEG_MS + REST_MS) - REST_MS) / LEG_MS, 0, 1), t = still ? Math.round(within) : ease(within);
      panel.travel(stages[leg], stages[leg + 1], t);
      panel.name.textContent = `${stages[leg].name} → ${stages[leg + 1].name}`;
      this.refresh({ move: true });
      this.playing = requestAnimationFrame(step);
    };
    this.playing = requestAnimationFrame(step);
  }
}

async function render({ model, el }) {
  const app = new App(model, el, await unpack(model.get("data")));
  return () => app.close();
}

export default { render };
