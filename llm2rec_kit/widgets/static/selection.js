// The selected items: by lasso, by search, by filter or one by one; as a table here and as CSV to take away.

import { download, h, link, small, told } from "./basics.js";
import { shownOf, within, worth } from "./catalogue.js";

const ROWS = 200; // of the table at most
const plain = (v) => (typeof v === "number" ? Number(v.toPrecision(7)) : v); // as many digits as a float32 has

export class Selection {
  constructor(app) {
    this.app = app;
    this.el = h("div", { className: "lx-picked" });
    this.tabled = false;
    this.sorted = { by: null, down: false };
  }

  get ids() { return this.app.model.get("selected"); }
  set(ids) { this.app.put({ selected: ids }); }

  // What a lasso holds becomes the selection, joins it ("add") or leaves it ("remove").
  draw(stage, polygon, how) {
    const found = within(stage, this.app.data.n, polygon), inside = new Set(found);
    if (how === "add") this.set([...this.ids.filter((id) => !inside.has(id)), ...found].sort((a, b) => a - b));
    else if (how === "remove") this.set(this.ids.filter((id) => !inside.has(id)));
    else this.set(found);
  }

  toggle(id) { this.set(this.ids.includes(id) ? this.ids.filter((i) => i !== id) : [...this.ids, id].sort((a, b) => a - b)); }

  show() {
    const { ids } = this, focused = this.el.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    if (!ids.length) { this.el.replaceChildren(); return; }
    const keyed = (node, key) => { node.dataset.key = key; return node; };
    const toggle = keyed(small("table", () => { this.tabled = !this.tabled; this.show(); }, { ariaExpanded: String(this.tabled) }), "table");
    const csv = keyed(small("CSV", () => this.save()), "csv"), clear = h("button", { type: "button", className: "lx-small lx-clear", onclick: () => this.set([]) }, "clear");
    const python = this.app.data.kernel ? h("small", {}, " In Python: .selection, a DataFrame.") : null;
    this.el.replaceChildren(h("b", {}, `${told(ids.length)} item${ids.length > 1 ? "s" : ""} selected`), " ", toggle, csv, clear, ...(python ? [python] : []), ...(this.tabled ? [this.table(keyed)] : []));
    if (focused) this.el.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  table(keyed) {
    const { titles } = this.app.data, { columns } = this.app, { by, down } = this.sorted, of = columns.find((c) => c.name === by);
    const rows = this.ids.map((id) => id - 1), value = by === "title" ? (i) => titles[i] : of ? (i) => worth(of, i) : null;
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    if (value) rows.sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b)));
    const head = ["title", ...columns.map((c) => c.name)].map((name) => {
      const sort = keyed(small(name, () => { this.sorted = { by: name, down: by === name && !down }; this.show(); }), `sort ${name}`);
      return h("th", { scope: "col", ariaSort: by === name ? (down ? "descending" : "ascending") : "none" }, sort, by === name ? (down ? " ▼" : " ▲") : "");
    });
    const body = rows.slice(0, ROWS).map((i) => h("tr", {}, h("td", {}, link(titles[i], () => this.app.choose(i + 1))), ...columns.map((c) => h("td", {}, shownOf(c, i)))));
    const note = rows.length > ROWS ? h("small", {}, `the first ${ROWS} of ${told(rows.length)}; the CSV has all`) : null;
    return h("div", { className: "lx-table", tabIndex: 0, role: "region", ariaLabel: "Selected items" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body)), note);
  }

  async save() {
    const { columns, data } = this.app, ids = await data.sources();
    const lines = this.ids.map((id) => [id, ids[id - 1], data.titles[id - 1], ...columns.map((c) => plain(worth(c, id - 1)))]);
    const quoted = (v) => (/[",\r\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v);
    const text = [["item", "source_id", "title", ...columns.map((c) => c.name)], ...lines].map((l) => l.map(quoted).join(",")).join("\n");
    download(new Blob([`${text}\n`], { type: "text/csv" }), "selection.csv");
  }
}
