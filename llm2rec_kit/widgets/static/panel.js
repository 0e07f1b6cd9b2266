// One panel: a stage's points as pixels, what is drawn over them, and what pointer and keys do there.

import { h, packed, shorten, clamp } from "./basics.js";
import { nearestPoint } from "./catalogue.js";
import { blend, star } from "./marks.js";
import { drawNames, placeNames } from "./names.js";

const RINGED = 300; // hits of a search at most that get a ring each

export class Panel {
  constructor(app, stage) {
    this.app = app;
    this.stage = stage;
    this.base = h("canvas", { className: "lx-points" });
    this.over = h("canvas", { className: "lx-over", tabIndex: 0, role: "application" });
    this.over.setAttribute("aria-label", `Map of stage ${stage.name}: arrow keys pan, plus and minus zoom, 0 shows all, Enter chooses the item in the middle, S adds it to the selection or takes it out`);
    this.name = h("span", {}, stage.name);
    this.box = h("div", { className: "lx-canvases" }, this.base, this.over);
    this.el = h("div", { className: "lx-panel" }, h("div", { className: "lx-title" }, this.name, " ", h("small", {}, stage.note)), this.box);
    this.el.dataset.stage = stage.name;
    this.rest();
    this.buffers = {};
    this.lasso = this.names = null;
    this.listen();
  }

  // Between which two stages the points are, and how far: on the way only while they play.
  travel(from, to, t) { Object.assign(this, { from, to, t }); }
  rest() { this.travel(this.stage, this.stage, 0); }

  resize() {
    this.ratio = window.devicePixelRatio || 1;
    this.size = [this.box.clientWidth, this.box.clientHeight];
    [this.over.width, this.over.height] = this.size.map((v) => Math.round(v * this.ratio));
    this.buffers = {};
    this.names = null;
  }

  // Pixels for the points, `grain` of them to a CSS pixel.
  buffer(grain) {
    if (this.buffers[grain]) return this.buffers[grain];
    const [w, tall] = this.size.map((v) => Math.max(1, Math.round(v * grain))), image = new ImageData(w, tall);
    return (this.buffers[grain] = { w, tall, image, pixels: new Uint32Array(image.data.buffer) });
  }

  // Pixels a unit of the square, and where its corner stands, for a canvas with `ratio` pixels to a CSS pixel.
  frame(ratio) {
    if (!this.size) this.resize(); // asked before the first drawing, by a pointer that is quick
    ratio ??= this.ratio;
    const { view } = this.app, { bounds } = this.app.data, [w, tall] = this.size.map((v) => v * ratio);
    const scale = 0.94 * Math.min(w / bounds.w, tall / bounds.h) * view.zoom;
    return { scale, left: w / 2 - view.x * scale, top: tall / 2 + view.y * scale };
  }
  toScreen(x, y, f = this.frame()) { return [f.left + x * f.scale, f.top - y * f.scale]; }
  toData(event) {
    const box = this.over.getBoundingClientRect(), f = this.frame();
    return [((event.clientX - box.left) * this.ratio - f.left) / f.scale, (f.top - (event.clientY - box.top) * this.ratio) / f.scale];
  }
  place(i) {
    const { from: { xy: a }, to: { xy: b }, t } = this;
    return [a[2 * i] + t * (b[2 * i] - a[2 * i]), a[2 * i + 1] + t * (b[2 * i + 1] - a[2 * i + 1])];
  }
  shows(i) {
    const [x, y] = this.toScreen(...this.place(i), this.frame(1)), [w, tall] = this.size;
    return x >= 8 && y >= 8 && x <= w - 8 && y <= tall - 8;
  }
  get middle() {
    const box = this.over.getBoundingClientRect();
    return { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  }

  // Draws the first `most` points, a part at a time (see `blend`); the canvas shows them when all are there.
  *paint(grain, most) {
    if (!this.size?.[0] || !this.size[1]) return; // in a folded cell
    const { app } = this, { image, pixels, w, tall } = this.buffer(grain), { tint, shape, faint } = app;
    pixels.fill(packed(app.paper));
    const how = { frame: this.frame(grain), stamps: app.stamps(grain), tint, shape, faint, most, opacity: app.opacity };
    yield* blend({ pixels, w, tall, from: this.from.drawn, to: this.to.drawn, t: this.t, ...how });
    if (this.base.width !== w || this.base.height !== tall) [this.base.width, this.base.height] = [w, tall];
    this.base.getContext("2d").putImageData(image, 0, 0);
    this.el.dataset.drawn = most;
  }

  drawOver() {
    if (!this.size?.[0]) return;
    const { app } = this, c = this.over.getContext("2d"), f = this.frame(), u = this.ratio;
    const spot = (i) => this.toScreen(...this.place(i), f);
    const circle = (i, radius, colour, width) => {
      c.beginPath(); c.arc(...spot(i), radius * u, 0, 7); c.lineWidth = width * u; c.strokeStyle = colour; c.stroke();
    };
    const ring = (i, radius, colour, width) => { circle(i, radius, app.paperCss, width + 2); circle(i, radius, colour, width); };
    c.clearRect(0, 0, this.over.width, this.over.height);
    if (app.found.length <= RINGED) for (const i of app.found) ring(i, 4.5, app.ink, 1.2);
    this.drawGroups(c, f, u);
    this.drawPath(c, spot, u);
    for (const [id] of app.nearAt(this.stage.name)) ring(id - 1, 6, app.accent, 1.8);
    if (app.item) {
      if (!this.t) this.drawTrail(c, f, u);
      star(c, ...spot(app.item - 1), 10 * u, app.accent, app.paperCss);
    }
    const probe = app.placed?.at?.[this.stage.name];
    if (probe) this.drawProbe(c, this.toScreen(...probe, f), u);
    if (app.hover >= 0) ring(app.hover, 8, app.ink, 2);
    if (this.lasso) this.drawLasso(c, f, u);
  }

  // Names are placed when the map rests and go along with it while it moves.
  drawGroups(c, f, u) {
    const { app } = this, column = app.column;
    if (!app.named || column.kind !== "text" || this.t) return;
    if (!app.moving) this.names ??= placeNames(this, column, app.faint, (k) => app.colourOf(k));
    drawNames(c, this, this.names ?? [], f, u);
  }

  drawLasso(c, f, u) {
    c.beginPath();
    for (const point of this.lasso) c.lineTo(...this.toScreen(...point, f));
    c.closePath(); c.fillStyle = `${this.app.accent}22`; c.fill(); c.strokeStyle = this.app.accent; c.lineWidth = 1.5 * u; c.stroke();
  }

  drawTrail(c, f, u) {
    const at = 2 * (this.app.item - 1);
    c.beginPath();
    for (const { xy } of this.app.data.stages) c.lineTo(...this.toScreen(xy[at], xy[at + 1], f));
    c.strokeStyle = this.app.accent; c.lineWidth = 1.2 * u; c.setLineDash([4 * u, 3 * u]); c.stroke(); c.setLineDash([]);
  }

  drawPath(c, spot, u) {
    const { path, ink, paperCss } = this.app;
    if (!path?.history) return;
    for (const id of path.recommended?.[this.stage.name] ?? []) star(c, ...spot(id - 1), 8 * u, paperCss, ink);
    c.beginPath(); // over the stars, which often stand where the history ends
    for (const id of path.history) c.lineTo(...spot(id - 1));
    c.strokeStyle = ink; c.lineWidth = 1.4 * u; c.stroke();
    path.history.forEach((id, k) => {
      const [x, y] = spot(id - 1);
      c.beginPath(); c.arc(x, y, 7 * u, 0, 7); c.fillStyle = ink; c.fill();
      c.fillStyle = paperCss; c.font = `${9 * u}px sans-serif`; c.textAlign = "center"; c.textBaseline = "middle";
      c.fillText(k + 1, x, y);
    });
    if (path.target) { const [x, y] = spot(path.target - 1); c.strokeStyle = ink; c.lineWidth = 2 * u; c.strokeRect(x - 7 * u, y - 7 * u, 14 * u, 14 * u); }
  }

  drawProbe(c, [x, y], u) {
    const { ink, paperCss, placed } = this.app;
    c.strokeStyle = ink; c.lineWidth = 3 * u;
    c.beginPath(); c.moveTo(x - 8 * u, y); c.lineTo(x + 8 * u, y); c.moveTo(x, y - 8 * u); c.lineTo(x, y + 8 * u); c.stroke();
    c.font = `600 ${12 * u}px sans-serif`; c.textAlign = "left"; c.textBaseline = "bottom"; c.lineWidth = 4 * u; c.strokeStyle = paperCss;
    const text = shorten(placed.text, 26), left = clamp(x + 8 * u, 0, Math.max(0, this.over.width - c.measureText(text).width - 4 * u));
    c.strokeText(text, left, y - 4 * u); c.fillStyle = ink; c.fillText(text, left, y - 4 * u);
  }

  // The row of the item under a pointer, -1 for none.
  under(event) {
    if (this.t) return -1;
    return nearestPoint(this.stage, this.app.data.n, ...this.toData(event), (9 * this.ratio) / this.frame().scale);
  }

  listen() {
    let from = null, moved = false, how = null;
    const { app, over } = this;
    over.addEventListener("pointerdown", (e) => {
      over.setPointerCapture(e.pointerId);
      from = [e.clientX, e.clientY, app.view.x, app.view.y];
      moved = false;
      how = e.shiftKey || app.mode !== "pan" ? (e.ctrlKey ? "add" : e.altKey ? "remove" : app.mode === "pan" ? "lasso" : app.mode) : null;
      if (how) this.lasso = [this.toData(e)];
    });
    over.addEventListener("pointermove", (e) => {
      if (this.lasso) { this.lasso.push(this.toData(e)); app.refresh(); return; }
      if (!from) { app.hoverAt(this, e); return; }
      const [dx, dy] = [e.clientX - from[0], e.clientY - from[1]], unit = this.frame().scale / this.ratio;
      moved ||= Math.hypot(dx, dy) > 3;
      if (moved) { app.hoverAt(null); app.look({ x: from[2] - dx / unit, y: from[3] + dy / unit }); }
    });
    over.addEventListener("pointerup", (e) => {
      if (this.lasso) { const polygon = this.lasso; this.lasso = null; app.selection.draw(this.stage, polygon, how); }
      else if (from && !moved) app.choose(this.under(e) + 1);
      from = null;
    });
    over.addEventListener("pointercancel", () => { from = this.lasso = null; app.refresh(); });
    over.addEventListener("pointerleave", () => app.hoverAt(null));
    over.addEventListener("blur", () => app.hoverAt(null));
    over.addEventListener("wheel", (e) => { e.preventDefault(); app.zoomBy(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), this.toData(e)); }, { passive: false });
    over.addEventListener("dblclick", () => app.resetView());
    over.addEventListener("keydown", (e) => this.key(e));
  }

  // Keys of a map in focus; what lies in its middle is told as if pointed at.
  key(event) {
    const { app } = this, { view } = app, step = 0.08 / view.zoom, found = this.under(this.middle);
    const does = {
      ArrowLeft: () => app.look({ x: view.x - step }), ArrowRight: () => app.look({ x: view.x + step }),
      ArrowUp: () => app.look({ y: view.y + step }), ArrowDown: () => app.look({ y: view.y - step }),
      "+": () => app.zoomBy(1.25), "=": () => app.zoomBy(1.25), "-": () => app.zoomBy(0.8), 0: () => app.resetView(),
      Enter: () => found >= 0 && app.choose(found + 1), s: () => found >= 0 && app.selection.toggle(found + 1),
    }[event.key];
    if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); event.stopPropagation();
    does();
    app.hoverAt(this, this.middle);
  }
}
