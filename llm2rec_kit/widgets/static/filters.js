// Filters on any column, a range or some of its values; the legend's entries are filters on the column that colours.

import { button, group, h, small, told } from "./basics.js";

const TICKED = 100; // values of a text column that can be ticked

export class Filters {
  constructor(app) {
    this.app = app;
    this.kept = new Map(); // column name to a Set of codes, or to [low, high]
    this.open = [];
    this.pick = h("select", { className: "lx-filter", ariaLabel: "column to filter by" });
    // Not at the choice itself: who walks through the columns by keyboard would get a filter on each.
    this.field = group("Filter by", this.pick, button("add", { className: "lx-filter-add", onclick: () => this.add(this.pick.value) }));
    this.el = h("div", { className: "lx-filters", hidden: true });
    this.offer(app.data.columns);
  }

  column(name) { return this.app.columns.find((c) => c.name === name); }

  // The columns that there are now; a filter on one that is gone is gone with it.
  offer(columns = this.app.columns) {
    const names = columns.map((c) => c.name);
    this.pick.replaceChildren(...names.map((n) => h("option", { value: n }, n)));
    for (const name of this.open.filter((n) => !names.includes(n))) { this.open = this.open.filter((n) => n !== name); this.kept.delete(name); }
    this.show();
  }

  add(name) {
    if (!this.open.includes(name)) this.open.push(name);
    this.show();
    this.el.querySelector(`[data-column="${CSS.escape(name)}"] input`)?.focus();
  }

  remove(name) {
    this.open = this.open.filter((n) => n !== name);
    this.kept.delete(name);
    this.changed();
    this.pick.focus();
  }

  // One value more or less of a text column; none left means no filter.
  toggle(name, code) {
    const codes = new Set(this.kept.get(name) ?? []);
    if (!codes.delete(code)) codes.add(code);
    if (codes.size) this.kept.set(name, codes); else this.kept.delete(name);
    if (!this.open.includes(name)) this.open.push(name);
    this.changed();
  }

  range(name, low, high) {
    if (low === "" && high === "") this.kept.delete(name);
    else this.kept.set(name, [low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high)]);
    this.changed(false);
  }

  changed(rebuild = true) {
    if (rebuild) this.show();
    this.app.recolour();
    this.tell();
  }

  // Whether row i passes all filters.
  test() {
    const tests = [...this.kept].map(([name, kept]) => {
      const { values } = this.column(name);
      return kept instanceof Set ? (i) => kept.has(values[i]) : (i) => values[i] >= kept[0] && values[i] <= kept[1];
    });
    return tests.length ? (i) => tests.every((t) => t(i)) : () => true;
  }

  rows() {
    const passes = this.test();
    return Array.from({ length: this.app.data.n }, (_, i) => i).filter(passes);
  }

  tell() {
    if (!this.count) return;
    if (!this.kept.size) { this.count.replaceChildren("nothing is filtered yet"); return; }
    const rows = this.rows(), take = small("select these", () => this.app.selection.set(rows.map((i) => i + 1)));
    this.count.replaceChildren(`${told(rows.length)} of ${told(this.app.data.n)} items pass; the others are dimmed `, rows.length ? take : "");
  }

  show() {
    const focused = this.el.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.el.hidden = !this.open.length;
    this.count = h("span", { role: "status", className: "lx-passed" });
    this.el.replaceChildren(...this.open.map((name) => this.entry(this.column(name))), this.count);
    if (focused) this.el.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    this.tell();
  }

  entry(column) {
    const remove = small("×", () => this.remove(column.name), { title: `remove the filter on ${column.name}`, ariaLabel: `remove the filter on ${column.name}` });
    const inside = column.kind === "number" ? this.ends(column) : this.values(column);
    const el = h("div", { className: "lx-kept", role: "group", "aria-label": `filter on ${column.name}` }, h("b", {}, column.name), ...inside, remove);
    el.dataset.column = column.name;
    return el;
  }

  ends(column) {
    const [low, high] = this.kept.get(column.name) ?? [-Infinity, Infinity], shown = (v) => (Number.isFinite(v) ? v : "");
    const ends = [["from", low, column.low], ["to", high, column.high]].map(([word, value, end]) =>
      h("input", { type: "number", step: "any", value: shown(value), placeholder: String(end), ariaLabel: `${column.name} ${word}`, oninput: () => this.range(column.name, ends[0].value, ends[1].value) }));
    return [" from ", ends[0], " to ", ends[1]];
  }

  values(column) {
    const kept = this.kept.get(column.name), codes = column.names.slice(0, TICKED).map((_, k) => k);
    if (column.values.some((v) => v < 0)) codes.push(-1);
    const boxes = codes.map((k) => {
      const box = h("input", { type: "checkbox", checked: Boolean(kept?.has(k)), onchange: () => this.toggle(column.name, k) });
      box.dataset.key = `${column.name} ${k}`;
      return h("label", {}, box, " ", k < 0 ? column.rest ?? "other" : column.names[k]);
    });
    const more = column.names.length > TICKED ? [h("small", {}, `and ${told(column.names.length - TICKED)} rarer ones`)] : [];
    return [h("div", { className: "lx-values" }, ...boxes, ...more)];
  }
}
