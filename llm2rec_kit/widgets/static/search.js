// The search: words of a title, a list of the first hits to take from, and all hits lit on the maps, with their number.

import { h, labelled, small, clamp, told } from "./basics.js";
import { withWords } from "./catalogue.js";

const OFFERED = 12;
let made = 0; // of searches on a page, for ids that no other has

export class Search {
  constructor(app) {
    this.app = app;
    this.found = []; // rows of all hits
    this.at = -1;
    this.id = `lx-hits-${++made}`;
    this.field = h("input", {
      type: "search", className: "lx-search", placeholder: "words of a title", autocomplete: "off", role: "combobox",
      "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": this.id,
      oninput: () => this.complete(), onkeydown: (e) => this.key(e), onblur: () => this.fold(), onfocus: () => this.complete(),
    });
    this.list = h("div", { className: "lx-hits", hidden: true, role: "listbox", id: this.id, "aria-label": "Titles found" });
    this.count = h("span", { className: "lx-found", role: "status" });
    this.all = small("select all hits", () => app.selection.set(this.found.map((i) => i + 1)), { hidden: true });
    this.el = h("div", { className: "lx-find" }, labelled("Search a title", this.field), this.list, h("div", { className: "lx-lit" }, this.count, " ", this.all));
  }

  complete() {
    const asked = this.field.value.trim();
    if (asked !== this.asked) {
      this.asked = asked;
      this.found = withWords(this.app.data, asked);
      this.count.textContent = asked ? `${told(this.found.length)} of ${told(this.app.data.n)} lit` : "";
      this.all.hidden = !this.found.length;
      this.app.lit(this.found, Boolean(asked));
    }
    this.unfold(Boolean(asked));
  }

  unfold(open) {
    const { titles } = this.app.data, first = this.found.slice(0, OFFERED);
    const options = first.map((i, k) => h("div", {
      role: "option", id: `${this.id}-${k}`, "aria-selected": "false", onmousedown: (e) => { e.preventDefault(); this.take(i); },
    }, titles[i]));
    const more = this.found.length - first.length, note = !first.length ? "no title holds all of these words" : more ? `and ${told(more)} more` : "";
    this.list.replaceChildren(...options, ...(note ? [h("div", { className: "lx-none", role: "presentation" }, note)] : []));
    this.show(open);
    this.at = -1;
    this.field.removeAttribute("aria-activedescendant");
  }

  show(open) {
    this.list.hidden = !open;
    this.field.setAttribute("aria-expanded", String(open));
  }
  fold() { this.show(false); }

  // Arrows walk through the list, Enter takes from it and Escape folds it; a second Escape clears the words.
  key(event) {
    const options = [...this.list.querySelectorAll("[role=option]")], open = !this.list.hidden;
    if (event.key === "Escape" && open) { event.preventDefault(); this.fold(); }
    else if (event.key === "Enter" && options.length) { if (!open) this.unfold(true); else this.take(this.found[Math.max(0, this.at)]); }
    else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && options.length) {
      event.preventDefault();
      if (!open) this.show(true);
      this.at = clamp(this.at + (event.key === "ArrowDown" ? 1 : -1), 0, options.length - 1);
      options.forEach((o, k) => o.setAttribute("aria-selected", String(k === this.at)));
      this.field.setAttribute("aria-activedescendant", options[this.at].id);
      options[this.at].scrollIntoView({ block: "nearest" });
    }
  }

  // The words stay, and so do the hits on the maps: the next of them is an arrow away.
  take(i) {
    this.fold();
    this.app.choose(i + 1);
  }
}
