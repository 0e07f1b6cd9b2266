// Any two tables against each other: a difference for each item, as a colour, as a column to filter on, and as a list.

import { button, group, h, link, selectOf } from "./basics.js";

const CHANGED = "new neighbours", MOVED = "way on the map";
const EXTREMES = 10;
const OF = 10; // nearest neighbours that are compared

export class Comparison {
  constructor(app) {
    const names = app.data.stages.map((s) => s.name), change = () => this.column && this.ask();
    this.app = app;
    this.column = null;
    this.first = selectOf(names, { className: "lx-first", ariaLabel: "from this stage", value: names[0], onchange: change });
    this.second = selectOf(names, { className: "lx-second", ariaLabel: "to this stage", onchange: change });
    this.second.value = names.at(-1) === "adapted" ? names.at(-2) : names.at(-1);
    this.measure = selectOf([CHANGED, MOVED], { className: "lx-measure", ariaLabel: "what differs", onchange: change });
    this.go = button("colour by it", { className: "lx-compare", onclick: () => this.ask() });
    this.field = group("Compare two stages, item by item", this.first, this.second, this.measure, this.go);
    this.el = h("div", { className: "lx-changed" });
  }

  ask() {
    const between = [this.first.value, this.second.value], held = this.app.model.get("difference")?.between;
    if (this.measure.value === MOVED) this.show(between, this.ways(between), "share of the map's width, from here to there");
    else if (String(held) === String(between)) this.answered(); // asked the same again, a kernel stays silent
    else this.app.put({ compared: between });
  }

  // The host's answer: of each item, how many of its nearest at the first stage are not among those at the second.
  answered() {
    const { between, changed } = this.app.model.get("difference") ?? {};
    if (!between) return;
    [this.first.value, this.second.value] = between;
    this.measure.value = CHANGED;
    const lost = new Uint8Array(changed.buffer, changed.byteOffset, changed.byteLength), of = Math.min(OF, this.app.data.n - 1);
    this.show(between, Float32Array.from(lost, (v) => v / of), `share of its ${of} nearest that are others`);
  }

  ways(between) {
    const [a, b] = between.map((name) => this.app.data.stages.find((s) => s.name === name).xy), { w } = this.app.data.bounds;
    return Float32Array.from({ length: this.app.data.n }, (_, i) => Math.hypot(b[2 * i] - a[2 * i], b[2 * i + 1] - a[2 * i + 1]) / w);
  }

  show(between, values, note) {
    let high = 1e-6;
    for (const v of values) if (v > high) high = v;
    const measure = this.measure.value === MOVED ? "moved" : "changed";
    this.column = { name: `${measure}, ${between.join(" → ")}`, kind: "number", scale: "linear", low: 0, high, values, note };
    this.app.filters.offer();
    this.app.put({ colour: this.column.name });
    this.list();
  }

  list() {
    const { app, column } = this, shown = column && app.colour.value === column.name;
    if (!shown) { this.el.replaceChildren(); return; }
    const order = Array.from(app.data.order).sort((a, b) => column.values[b] - column.values[a]);
    const part = (head, rows) => h("div", {}, h("h4", {}, head), h("ol", {}, ...rows.map((i) =>
      h("li", {}, link(app.data.titles[i], app.lists.take(i + 1)), " ", h("small", {}, column.values[i].toFixed(2))))));
    this.el.replaceChildren(h("p", { className: "lx-hint" }, `${column.name}: ${column.note}`),
      h("div", { className: "lx-columns" }, part("most", order.slice(0, EXTREMES)), part("least", order.slice(-EXTREMES).reverse())));
  }
}
