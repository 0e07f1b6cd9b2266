// The explorer's face: one module, two hosts. In a notebook anywidget calls `render` with a model tied to the kernel; in
// the page that `llm2rec explore` writes, the model is a plain object there. Points are written into pixels here on the
// CPU, so no WebGL is needed and every browser draws the same: 50,000 points take a few milliseconds.

const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]; // Okabe & Ito
const SHAPES = ["disc", "triangle", "square"]; // past eight groups the shape tells colours apart
const VIRIDIS = [0x440154, 0x482878, 0x3e4989, 0x31688e, 0x26828e, 0x1f9e89, 0x35b779, 0x6ece58, 0xb5de2b, 0xfde725];
const STAR = "#D55E00", RING = "#0072B2", RING_DARK = "#56B4E9", GOLD = "#E69F00", BROWN = "#6b4700";
const COARSE_ABOVE = 20_000; // points on screen: while these move, screens of fine pixels are drawn coarsely
const SETTLE_MS = 200;
// CSS pixels: the least of a panel, of a list of neighbours, and of the widget for a single map with the lists beside it.
const NARROWEST = 240, LIST = 190, BESIDE_FROM = 1100;
const KEY = "rings: its nearest at each stage; dashed: its way through the stages; ▲ ▼ = new: against the stage before";
const LEG_MS = 900, REST_MS = 350; // of the animation: between two stages, and at each

// -- small helpers ------------------------------------------------------------------------------------------------------

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

const bytesOf = (view) => new Uint8Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const packed = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r; // as a little-endian pixel
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const ease = (t) => (t < 0.5 ? 2 * t * t : 1 - 2 * (1 - t) * (1 - t));

async function unpackTitles(view) {
  const stream = new Blob([bytesOf(view)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return (await new Response(stream).text()).split("\n");
}

// What the host hands over, as typed arrays: positions in [0, 1], one scale for both axes.
async function unpack(data) {
  const stages = data.stages.map(({ name, note, xy }) => {
    const raw = new Uint16Array(bytesOf(xy).buffer);
    return { name, note, xy: Float32Array.from(raw, (v) => v / 65535), grid: null };
  });
  const columns = data.columns.map((c) => ({
    ...c, values: c.kind === "number" ? new Float32Array(bytesOf(c.values).buffer) : new Int16Array(bytesOf(c.values).buffer),
  }));
  const titles = await unpackTitles(data.titles);
  return { n: data.n, users: data.users, carried: data.carried, encodes: data.encodes, stages, columns, titles, lower: titles.map((t) => t.toLowerCase()) };
}

// Pixels of a mark, each with how much of it is covered, 0 to 255: [[dx, dy, cover], ...] flattened.
function stamp(shape, radius) {
  const inside = {
    disc: (x, y) => x * x + y * y <= radius * radius,
    square: (x, y) => Math.max(Math.abs(x), Math.abs(y)) <= 0.87 * radius,
    triangle: (x, y) => y <= 0.7 * radius && y >= 2 * Math.abs(x) - 1.2 * radius,
  }[shape];
  const out = [], reach = Math.ceil(radius), fine = 4;
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      let hits = 0;
      for (let s = 0; s < fine * fine; s++) {
        hits += inside(dx + ((s % fine) + 0.5) / fine - 0.5, dy + (((s / fine) | 0) + 0.5) / fine - 0.5);
      }
      if (hits) out.push(dx, dy, Math.round((255 * hits) / (fine * fine)));
    }
  }
  return Int16Array.from(out);
}

// Cells over the unit square with the points in each, for finding what lies under the pointer.
function gridOf(xy, n) {
  const side = clamp(Math.round(Math.sqrt(n / 4)), 1, 256), first = new Int32Array(side * side + 1), cell = new Int32Array(n);
  for (let i = 0; i < n; i++) {
    cell[i] = Math.min(side - 1, (xy[2 * i] * side) | 0) + side * Math.min(side - 1, (xy[2 * i + 1] * side) | 0);
    first[cell[i] + 1]++;
  }
  for (let c = 0; c < side * side; c++) first[c + 1] += first[c];
  const at = first.slice(), points = new Int32Array(n);
  for (let i = 0; i < n; i++) points[at[cell[i]]++] = i;
  return { side, first, points };
}

function nearestPoint(stage, n, x, y, radius) {
  const { side, first, points } = (stage.grid ??= gridOf(stage.xy, n));
  const low = (v) => clamp(((v - radius) * side) | 0, 0, side - 1), high = (v) => clamp(((v + radius) * side) | 0, 0, side - 1);
  let best = -1, least = radius * radius;
  for (let cy = low(y); cy <= high(y); cy++) {
    for (let k = first[cy * side + low(x)]; k < first[cy * side + high(x) + 1]; k++) {
      const i = points[k], dx = stage.xy[2 * i] - x, dy = stage.xy[2 * i + 1] - y, d = dx * dx + dy * dy;
      if (d < least) [best, least] = [i, d];
    }
  }
  return best;
}

function insidePolygon(polygon, x, y) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i], [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

// -- one panel: a stage's points as pixels, and what is drawn over them ---------------------------------------------------

class Panel {
  constructor(app, stage) {
    this.app = app;
    this.stage = stage;
    this.base = h("canvas", { className: "lx-points" });
    this.over = h("canvas", { className: "lx-over", tabIndex: 0, role: "img" });
    this.over.setAttribute("aria-label", `Map of stage ${stage.name}; arrow keys pan, plus and minus zoom`);
    this.name = h("span", {}, stage.name);
    this.note = h("small", {}, stage.note);
    this.box = h("div", { className: "lx-canvases" }, this.base, this.over);
    this.el = h("div", { className: "lx-panel" }, h("div", { className: "lx-title" }, this.name, " ", this.note), this.box);
    this.el.dataset.stage = stage.name;
    this.xy = stage.xy;
    this.lasso = null;
    this.listen();
  }

  resize() {
    this.ratio = window.devicePixelRatio || 1;
    this.size = [this.box.clientWidth, this.box.clientHeight];
    [this.over.width, this.over.height] = this.size.map((v) => Math.round(v * this.ratio));
    this.grain = 0;
  }

  // Pixels for the points, `grain` of them to a CSS pixel.
  sharpen(grain) {
    if (this.grain === grain) return;
    this.grain = grain;
    [this.base.width, this.base.height] = this.size.map((v) => Math.round(v * grain));
    this.image = this.base.getContext("2d").createImageData(this.base.width, this.base.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  // Pixels a unit of the square, and where its corner stands, for a canvas with `ratio` pixels to a CSS pixel.
  frame(ratio) {
    if (!this.size) this.resize(); // asked before the first drawing, by a pointer that is quick
    ratio ??= this.ratio;
    const { bounds, view } = this.app, [w, tall] = this.size.map((v) => v * ratio);
    const scale = 0.94 * Math.min(w / bounds.w, tall / bounds.h) * view.zoom;
    return { scale, left: w / 2 - view.x * scale, top: tall / 2 + view.y * scale };
  }
  toScreen(x, y, f = this.frame()) { return [f.left + x * f.scale, f.top - y * f.scale]; }
  toData(event) {
    const box = this.over.getBoundingClientRect(), f = this.frame();
    return [((event.clientX - box.left) * this.ratio - f.left) / f.scale, (f.top - (event.clientY - box.top) * this.ratio) / f.scale];
  }

  drawPoints() {
    if (!this.size?.[0] || !this.size[1]) return; // in a folded cell
    this.sharpen(this.app.moving ? 1 : this.ratio);
    const { app, pixels, xy } = this, { tint, shape, faint, order, paper } = app, { width: w, height: tall } = this.base;
    const { scale, left, top } = this.frame(this.grain), stamps = app.stamps(this.grain), reach = stamps.reach;
    const [pr, pg, pb] = paper.rgb;
    pixels.fill(paper.pixel);
    for (let pass = 0; pass < 2; pass++) { // the dimmed first, so that they hide nothing
      for (let o = 0; o < order.length; o++) {
        const i = order[o];
        if (faint[i] === pass) continue;
        const x = Math.round(left + xy[2 * i] * scale), y = Math.round(top - xy[2 * i + 1] * scale);
        if (x < reach || y < reach || x >= w - reach || y >= tall - reach) continue;
        const marks = stamps[shape[i]], colour = tint[i], strength = pass ? 217 : 46;
        const r = colour & 255, g = (colour >> 8) & 255, b = (colour >> 16) & 255;
        for (let k = 0; k < marks.length; k += 3) {
          const at = (y + marks[k + 1]) * w + x + marks[k], was = pixels[at], a = (marks[k + 2] * strength) >> 8;
          const wr = was & 255, wg = (was >> 8) & 255, wb = (was >> 16) & 255;
          pixels[at] = (255 << 24) | ((wb + (((b - wb) * a) >> 8)) << 16) | ((wg + (((g - wg) * a) >> 8)) << 8) | (wr + (((r - wr) * a) >> 8));
        }
      }
    }
    this.base.getContext("2d").putImageData(this.image, 0, 0);
  }

  drawOver() {
    if (!this.size?.[0]) return;
    const { app } = this, c = this.over.getContext("2d"), f = this.frame(), u = this.ratio;
    const spot = (i) => this.toScreen(this.xy[2 * i], this.xy[2 * i + 1], f);
    const ring = (i, radius, colour, width) => {
      const [x, y] = spot(i);
      c.beginPath(); c.arc(x, y, radius * u, 0, 7); c.lineWidth = width * u; c.strokeStyle = colour; c.stroke();
    };
    c.clearRect(0, 0, this.over.width, this.over.height);
    this.drawPath(c, spot, u);
    const near = app.nearAt(this.stage.name), blue = app.dark ? RING_DARK : RING;
    for (const [id] of near) ring(id - 1, 6, blue, 1.8);
    if (app.item) {
      if (this.xy === this.stage.xy) this.drawTrail(c, f, u);
      star(c, ...spot(app.item - 1), 10 * u, STAR, app.ink);
    }
    const probe = app.placed?.at?.[this.stage.name];
    if (probe) this.drawProbe(c, this.toScreen(...probe, f), u);
    if (app.hover >= 0) ring(app.hover, 8, app.ink, 2);
    if (this.lasso) {
      c.beginPath();
      for (const point of this.lasso) c.lineTo(...this.toScreen(...point, f));
      c.closePath(); c.fillStyle = blue + "22"; c.fill(); c.strokeStyle = blue; c.lineWidth = 1.5 * u; c.stroke();
    }
  }

  drawTrail(c, f, u) {
    const at = 2 * (this.app.item - 1);
    c.beginPath();
    for (const stage of this.app.data.stages) c.lineTo(...this.toScreen(stage.xy[at], stage.xy[at + 1], f));
    c.strokeStyle = STAR; c.lineWidth = 1.2 * u; c.setLineDash([4 * u, 3 * u]); c.stroke(); c.setLineDash([]);
  }

  drawPath(c, spot, u) {
    const path = this.app.path;
    if (!path?.history) return;
    for (const id of path.recommended?.[this.stage.name] ?? []) star(c, ...spot(id - 1), 8 * u, GOLD, BROWN);
    c.beginPath(); // over the stars, which often stand where the history ends
    for (const id of path.history) c.lineTo(...spot(id - 1));
    c.strokeStyle = this.app.ink; c.lineWidth = 1.4 * u; c.stroke();
    path.history.forEach((id, k) => {
      const [x, y] = spot(id - 1);
      c.beginPath(); c.arc(x, y, 7 * u, 0, 7); c.fillStyle = this.app.ink; c.fill();
      c.fillStyle = this.app.paperCss; c.font = `${9 * u}px sans-serif`; c.textAlign = "center"; c.textBaseline = "middle";
      c.fillText(k + 1, x, y);
    });
    if (path.target) { const [x, y] = spot(path.target - 1); c.strokeStyle = this.app.ink; c.lineWidth = 2 * u; c.strokeRect(x - 7 * u, y - 7 * u, 14 * u, 14 * u); }
  }

  drawProbe(c, [x, y], u) {
    c.strokeStyle = this.app.ink; c.lineWidth = 3 * u;
    c.beginPath(); c.moveTo(x - 8 * u, y); c.lineTo(x + 8 * u, y); c.moveTo(x, y - 8 * u); c.lineTo(x, y + 8 * u); c.stroke();
    c.font = `600 ${12 * u}px sans-serif`; c.textAlign = "left"; c.textBaseline = "bottom"; c.lineWidth = 4 * u; c.strokeStyle = this.app.paperCss;
    const whole = this.app.placed.text, text = whole.length > 26 ? `${whole.slice(0, 25).trimEnd()}…` : whole, left = clamp(x + 8 * u, 0, Math.max(0, this.over.width - c.measureText(text).width - 4 * u));
    c.strokeText(text, left, y - 4 * u); c.fillStyle = this.app.ink; c.fillText(text, left, y - 4 * u);
  }

  listen() {
    let from = null, moved = false;
    const { app, over } = this;
    over.addEventListener("pointerdown", (e) => {
      over.setPointerCapture(e.pointerId);
      from = [e.clientX, e.clientY, app.view.x, app.view.y];
      moved = false;
      if (app.mode === "lasso" || e.shiftKey) this.lasso = [this.toData(e)];
    });
    over.addEventListener("pointermove", (e) => {
      if (this.lasso) { this.lasso.push(this.toData(e)); app.refresh(); return; }
      if (!from) { app.hoverAt(this, e); return; }
      const [dx, dy] = [e.clientX - from[0], e.clientY - from[1]], unit = this.frame().scale / this.ratio;
      moved ||= Math.hypot(dx, dy) > 3;
      if (moved) { app.view = { ...app.view, x: from[2] - dx / unit, y: from[3] + dy / unit }; app.hover = -1; app.tip.hidden = true; app.refresh({ move: true }); }
    });
    over.addEventListener("pointerup", (e) => {
      if (this.lasso) { const polygon = this.lasso; this.lasso = null; app.select(this.stage, polygon); }
      else if (from && !moved) app.choose(app.pointAt(this, e) + 1);
      from = null;
    });
    over.addEventListener("pointerleave", () => app.hoverAt(null));
    over.addEventListener("wheel", (e) => { e.preventDefault(); app.zoomBy(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), this.toData(e)); }, { passive: false });
    over.addEventListener("dblclick", () => app.resetView());
    over.addEventListener("keydown", (e) => {
      const step = 0.08 / app.view.zoom, moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[e.key];
      if (moves) app.view = { ...app.view, x: app.view.x + moves[0], y: app.view.y + moves[1] };
      else if (e.key === "+" || e.key === "=") app.view = { ...app.view, zoom: app.view.zoom * 1.25 };
      else if (e.key === "-") app.view = { ...app.view, zoom: app.view.zoom / 1.25 };
      else return;
      e.preventDefault(); e.stopPropagation(); app.refresh({ move: true });
    });
  }
}

function star(c, x, y, radius, fill, edge) {
  c.beginPath();
  for (let k = 0; k < 10; k++) {
    const r = k % 2 ? 0.45 * radius : radius, a = (k * Math.PI) / 5 - Math.PI / 2;
    c.lineTo(x + r * Math.cos(a), y + r * Math.sin(a));
  }
  c.closePath(); c.fillStyle = fill; c.fill(); c.strokeStyle = edge; c.lineWidth = Math.max(1, radius / 9); c.stroke();
}

// -- the application ------------------------------------------------------------------------------------------------------

class App {
  constructor(model, el, data) {
    Object.assign(this, { model, data, mode: "pan", hover: -1, only: null, panels: [], frameAsked: 0, playing: 0, stampsFor: {} });
    this.faint = new Uint8Array(data.n).fill(0);
    this.tint = new Uint32Array(data.n);
    this.shape = new Uint8Array(data.n);
    this.order = scrambled(data.n);
    this.bounds = boundsOf(data.stages);
    this.resetView(false);
    this.root = h("div", { className: "lx" });
    this.root.spotOf = (id) => this.spotOf(id);
    this.build();
    el.append(this.root);
    this.watch();
    this.theme();
    this.showStages();
    this.showNear();
    this.showSelection();
  }

  get item() { return this.model.get("item"); }
  get path() { return this.model.get("path"); }
  get placed() { return this.model.get("placed"); }
  get shown() { return this.data.stages.filter((s) => this.model.get("shown").includes(s.name)); }
  put(values) { for (const [key, value] of Object.entries(values)) this.model.set(key, value); this.model.save_changes(); }

  build() {
    const labelled = (text, ...nodes) => h("label", { className: "lx-field" }, h("span", {}, text), ...nodes);
    const button = (text, props) => h("button", { type: "button", ...props }, text);
    this.stageButtons = this.data.stages.map((s) => button(s.name, { onclick: () => this.toggleStage(s.name) }));
    this.colour = h("select", { className: "lx-colour", onchange: () => this.put({ colour: this.colour.value }) }, ...this.data.columns.map((c) => h("option", { value: c.name }, c.name)));
    this.count = h("input", { type: "number", className: "lx-count", min: 1, max: 30, value: this.model.get("count"), onchange: () => this.put({ count: clamp(this.count.valueAsNumber || 1, 1, 30) }) });
    this.modes = ["pan", "lasso"].map((m) => button(m, { className: `lx-${m}`, onclick: () => this.setMode(m), title: m === "lasso" ? "draw around items to select them (or hold Shift)" : "drag to move, wheel to zoom, click an item" }));
    this.play = button("▶ play stages", { className: "lx-play", onclick: () => this.animate() });
    const group = (text, ...nodes) => h("div", { className: "lx-field", role: "group", "aria-label": text }, h("span", {}, text), h("div", { className: "lx-buttons" }, ...nodes));
    this.bar = h("div", { className: "lx-bar" }, group("Stages", ...this.stageButtons), labelled("Colour by", this.colour), group("Pointer", ...this.modes),
      group("View", button("reset", { className: "lx-reset", onclick: () => this.resetView() }), this.play), labelled("Neighbours", this.count));
    this.buildAsking(labelled, button);
    this.grid = h("div", { className: "lx-grid" });
    this.legend = h("div", { className: "lx-legend" });
    this.tip = h("div", { className: "lx-tip", hidden: true });
    this.near = h("div", { className: "lx-near" });
    this.picked = h("div", { className: "lx-picked" });
    this.status = h("div", { className: "lx-status", role: "status" });
    this.body = h("div", { className: "lx-body" }, this.grid, h("div", { className: "lx-told" }, this.legend, this.picked, this.near));
    this.root.append(this.bar, this.asking, this.status, this.body, this.tip);
  }

  buildAsking(labelled, button) {
    this.search = h("input", { type: "search", className: "lx-search", placeholder: "words of a title", autocomplete: "off", oninput: () => this.complete(), onkeydown: (e) => this.searchKey(e), onblur: () => setTimeout(() => (this.hits.hidden = true), 200), onfocus: () => this.complete() });
    this.hits = h("div", { className: "lx-hits", hidden: true, role: "listbox" });
    this.asking = h("div", { className: "lx-bar" }, h("div", { className: "lx-find" }, labelled("Search a title", this.search), this.hits));
    if (this.data.encodes) {
      this.text = h("input", { type: "text", className: "lx-text", placeholder: "any text, Enter to place it", onkeydown: (e) => e.key === "Enter" && this.put({ text: this.text.value }) });
      this.asking.append(labelled("Place a text", this.text));
    }
    if (this.data.users) this.asking.append(labelled(...this.userField()));
    // JupyterLab has shortcuts on plain keys; what is typed here is no command.
    for (const type of ["keydown", "keyup", "keypress"]) this.asking.addEventListener(type, (e) => e.stopPropagation());
  }

  // The label and the control: a number where the host can be asked for any user, a list where it carries some of them.
  userField() {
    const { users, carried } = this.data, told = users.toLocaleString("en"), id = (text) => (text === "" ? -1 : clamp(Math.round(Number(text)), 0, users - 1));
    const shared = { className: "lx-user", onchange: () => this.put({ user: id(this.user.value) }) };
    if (carried && carried.length < users) {
      this.user = h("select", shared, h("option", { value: "" }, "none"), ...carried.map((u) => h("option", { value: u }, `user ${u}`)));
      return [`User, ${carried.length.toLocaleString("en")} of ${told} are in this page`, this.user];
    }
    this.user = h("input", { type: "number", min: 0, max: users - 1, placeholder: "none", ...shared });
    return [`User, 0 to ${(users - 1).toLocaleString("en")}`, this.user];
  }

  watch() {
    const on = (names, what) => names.forEach((name) => this.model.on(`change:${name}`, what));
    this.calls = [
      [["shown"], () => this.showStages()], [["colour"], () => { this.only = null; this.recolour(); }],
      [["item", "neighbours", "count"], () => this.showNear()], [["selected"], () => this.showSelection()],
      [["placed"], () => { this.told = "placed"; this.refresh(); this.showPlaced(); }], [["path"], () => { this.told = "path"; this.refresh(); this.showPlaced(); }], [["message"], () => this.showPlaced()],
    ];
    for (const [names, what] of this.calls) on(names, what);
    this.resized = new ResizeObserver(() => { this.panels.forEach((p) => p.resize()); this.refresh({ points: true }); });
    this.widened = new ResizeObserver(() => this.arrange());
    this.widened.observe(this.root);
    this.themes = new MutationObserver(() => this.theme());
    this.themes.observe(document.body, { attributes: true });
    this.scheme = window.matchMedia("(prefers-color-scheme: dark)");
    this.schemed = () => this.theme();
    this.scheme.addEventListener("change", this.schemed);
  }

  close() {
    for (const [names, what] of this.calls) names.forEach((name) => this.model.off(`change:${name}`, what));
    this.resized.disconnect(); this.widened.disconnect(); this.themes.disconnect(); this.scheme.removeEventListener("change", this.schemed);
    cancelAnimationFrame(this.frameAsked); cancelAnimationFrame(this.playing); clearTimeout(this.settling);
  }

  // What changed is drawn once, in the browser's next frame, however many events asked for it.
  refresh({ points = false, move = false } = {}) {
    this.stalePoints ||= points || move;
    if (move && this.data.n * this.panels.length > COARSE_ABOVE) { // one pixel to a CSS pixel until it rests
      this.moving = true;
      clearTimeout(this.settling);
      this.settling = setTimeout(() => { this.moving = false; this.refresh({ points: true }); }, SETTLE_MS);
    }
    this.frameAsked ||= requestAnimationFrame(() => {
      this.frameAsked = 0;
      const began = performance.now();
      if (this.stalePoints) this.panels.forEach((p) => p.drawPoints());
      this.stalePoints = false;
      this.panels.forEach((p) => p.drawOver());
      this.root.dataset.drawMs = (performance.now() - began).toFixed(2);
    });
  }

  stamps(ratio) {
    const radius = ratio * clamp(110 / Math.sqrt(this.data.n), 1.15, 3.2) * clamp(this.view.zoom, 1, 30) ** 0.3, key = radius.toFixed(1);
    return (this.stampsFor[key] ??= Object.assign(SHAPES.map((s, k) => stamp(s, radius * [1, 1.2, 0.95][k])), { reach: Math.ceil(1.2 * radius) + 1 }));
  }

  theme() {
    const style = getComputedStyle(this.root), numbers = style.backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
    const back = numbers.length > 3 && numbers[3] === 0 ? [255, 255, 255] : numbers.slice(0, 3);
    this.paper = { rgb: back, pixel: packed(back) };
    this.paperCss = `rgb(${back})`;
    this.dark = back[0] * 0.3 + back[1] * 0.59 + back[2] * 0.11 < 128;
    this.ink = this.dark ? "#f2f2f2" : "#1c1c1e";
    this.recolour();
  }

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
    this.stageButtons.forEach((b, k) => b.setAttribute("aria-pressed", this.shown.includes(this.data.stages[k])));
    this.panels.forEach((p) => this.resized.observe(p.box));
    this.setMode(this.mode);
    this.showNear();
  }

  // Even rows of panels and of lists, panels of the maps' own shape that leave the page in view; one map alone on a wide
  // screen has what is told beside it.
  arrange() {
    const even = (n, width, least) => Math.ceil(n / Math.ceil(n / clamp(Math.floor(width / least), 1, n)));
    const { w, h: tall } = this.bounds, width = this.root.clientWidth - 16, beside = this.panels.length === 1 && width >= BESIDE_FROM;
    const across = beside ? 0.6 * width : width, columns = even(this.panels.length, across, NARROWEST);
    const height = clamp((across / columns) * clamp(tall / w, 0.55, 0.95), NARROWEST, Math.max(NARROWEST, 0.56 * window.innerHeight));
    const style = { columns, tall: `${Math.round(height)}px`, lists: even(this.data.stages.length, beside ? 0.4 * width : width, LIST) };
    for (const [name, value] of Object.entries(style)) this.body.style.setProperty(`--lx-${name}`, value);
    this.body.classList.toggle("lx-beside", beside);
  }

  setMode(mode) {
    this.mode = mode;
    this.modes.forEach((b) => b.setAttribute("aria-pressed", b.textContent === mode));
    this.panels.forEach((p) => (p.over.style.cursor = mode === "lasso" ? "crosshair" : "grab"));
  }

  resetView(draw = true) {
    const { x, y, w, h: tall } = this.bounds;
    this.view = { x: x + w / 2, y: y + tall / 2, zoom: 1 };
    if (draw) this.refresh({ points: true });
  }

  zoomBy(factor, [x, y]) {
    const zoom = clamp(this.view.zoom * factor, 0.5, 200), f = this.view.zoom / zoom;
    this.view = { zoom, x: x + (this.view.x - x) * f, y: y + (this.view.y - y) * f };
    this.refresh({ move: true });
  }

  recolour() {
    const column = this.data.columns.find((c) => c.name === this.model.get("colour")) ?? this.data.columns[0];
    this.colour.value = column.name;
    const grey = packed(this.dark ? [105, 105, 112] : [187, 187, 187]);
    const palette = PALETTE.map((c) => packed(rgb(c === "#000000" && this.dark ? "#F5F5F5" : c)));
    if (column.kind === "number") {
      const ramp = Uint32Array.from({ length: 64 }, (_, k) => packed(viridis(this.dark ? k / 63 : 1 - k / 63)));
      const on = column.scale === "linear" ? (v) => v : (v) => Math.log1p(Math.max(0, v)), low = on(column.low), high = Math.max(on(column.high), low + 1e-6);
      column.values.forEach((v, i) => { this.tint[i] = Number.isNaN(v) ? grey : ramp[clamp(Math.round((63 * (on(v) - low)) / (high - low)), 0, 63)]; });
      this.shape.fill(0);
    } else {
      column.values.forEach((v, i) => { this.tint[i] = v < 0 ? grey : palette[v % 8]; this.shape[i] = v < 0 ? 0 : Math.floor(v / 8) % 3; });
    }
    this.showLegend(column);
    this.dim();
  }

  // Which points step back: all but the groups picked in the legend, or all but a lasso's.
  dim() {
    const chosen = new Set(this.model.get("selected")), column = this.data.columns.find((c) => c.name === this.colour.value);
    for (let i = 0; i < this.data.n; i++) {
      const stays = (!this.only || this.only.has(column.values[i])) && (!chosen.size || chosen.has(i + 1));
      this.faint[i] = stays ? 0 : 1;
    }
    this.refresh({ points: true });
  }

  showLegend(column) {
    if (column.kind === "number") {
      const ramp = Array.from({ length: 10 }, (_, k) => `rgb(${viridis(this.dark ? k / 9 : 1 - k / 9)})`).join(",");
      const linear = column.scale === "linear", text = (v) => v.toLocaleString("en", { useGrouping: !linear });
      this.legend.replaceChildren(`${column.name}${linear ? "" : ", log scale"}: ${text(column.low)} `, h("span", { className: "lx-ramp", style: `background:linear-gradient(to right,${ramp})` }), ` ${text(column.high)}`);
      return;
    }
    const others = column.values.some((v) => v < 0) ? [[column.rest ?? "other", -1]] : [];
    this.legend.replaceChildren(h("span", {}, `${column.name}: `), ...[...column.names.map((name, k) => [name, k]), ...others].map(([name, k]) => {
      const colour = k < 0 ? (this.dark ? "#696970" : "#BBBBBB") : PALETTE[k % 8] === "#000000" && this.dark ? "#F5F5F5" : PALETTE[k % 8];
      const mark = h("span", { className: `lx-mark lx-${SHAPES[Math.max(0, Math.floor(k / 8)) % 3]}`, style: `--c:${colour}` });
      const entry = h("button", { type: "button", title: "show only this", onclick: () => this.isolate(k) }, mark, name);
      entry.setAttribute("aria-pressed", Boolean(this.only?.has(k)));
      return entry;
    }));
  }

  isolate(k) {
    const only = new Set(this.only ?? []);
    if (!only.delete(k)) only.add(k);
    this.only = only.size ? only : null;
    this.recolour();
  }

  // -- pointing, choosing, selecting

  pointAt(panel, event) {
    if (panel.xy !== panel.stage.xy) return -1; // in motion
    return nearestPoint(panel.stage, this.data.n, ...panel.toData(event), (9 * panel.ratio) / panel.frame().scale);
  }

  hoverAt(panel, event) {
    const began = performance.now(), found = panel ? this.pointAt(panel, event) : -1;
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
    const facts = this.data.columns.map((c) => {
      const value = c.kind === "number" ? (Number.isNaN(c.values[i]) ? "none" : c.values[i].toLocaleString("en", { useGrouping: c.scale !== "linear" })) : c.values[i] < 0 ? c.rest ?? "other" : c.names[c.values[i]];
      return h("div", {}, h("span", {}, c.name), " ", value);
    });
    return [h("b", {}, this.data.titles[i]), ...facts];
  }

  choose(id) { this.put({ item: id }); }

  // Where the first panel shows an item, in the window's coordinates: for tests and for pointing at things from outside.
  spotOf(id) {
    const panel = this.panels[0], box = panel.over.getBoundingClientRect(), at = 2 * (id - 1);
    const [x, y] = panel.toScreen(panel.xy[at], panel.xy[at + 1]);
    return [box.left + x / panel.ratio, box.top + y / panel.ratio];
  }

  select(stage, polygon) {
    const found = [], xs = polygon.map((p) => p[0]), ys = polygon.map((p) => p[1]);
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    for (let i = 0; i < this.data.n; i++) {
      const x = stage.xy[2 * i], y = stage.xy[2 * i + 1];
      if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && insidePolygon(polygon, x, y)) found.push(i + 1);
    }
    this.put({ selected: found });
  }

  complete() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean), found = [];
    for (let i = 0; words.length && i < this.data.n && found.length < 12; i++) {
      if (words.every((w) => this.data.lower[i].includes(w))) found.push(i);
    }
    this.hits.hidden = !words.length;
    this.hits.replaceChildren(...(found.length ? found.map((i) => h("div", { role: "option", onmousedown: () => this.take(i) }, this.data.titles[i])) : [h("div", { className: "lx-none" }, "no title holds all of these words")]));
    this.at = -1;
  }

  searchKey(event) {
    const options = [...this.hits.querySelectorAll("[role=option]")];
    if (event.key === "Escape") this.hits.hidden = true;
    else if (event.key === "Enter" && options.length) options[Math.max(0, this.at)].dispatchEvent(new MouseEvent("mousedown"));
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      this.at = clamp(this.at + (event.key === "ArrowDown" ? 1 : -1), 0, options.length - 1);
      options.forEach((o, k) => o.setAttribute("aria-selected", k === this.at));
      options[this.at]?.scrollIntoView({ block: "nearest" });
    }
  }

  take(i) {
    this.search.value = this.data.titles[i];
    this.search.scrollLeft = 0; // a long title from its beginning
    this.hits.hidden = true;
    this.choose(i + 1);
  }

  // -- what is told

  nearAt(stage) {
    const told = this.model.get("neighbours");
    return this.item && told?.item === this.item ? told.stages[stage] ?? [] : [];
  }

  showNear() {
    this.count.value = this.model.get("count");
    this.refresh();
    if (!this.item) { this.near.replaceChildren(h("p", { className: "lx-hint" }, "Click an item, or search for one, to see its nearest neighbours at each stage.")); return; }
    const title = h("p", { className: "lx-chosen" }, "★ ", h("b", {}, this.data.titles[this.item - 1]), " ", h("button", { type: "button", className: "lx-clear", onclick: () => this.choose(0) }, "clear"), " ", h("small", {}, KEY));
    if (this.model.get("neighbours")?.item !== this.item) { this.near.replaceChildren(title, h("p", { className: "lx-hint" }, "asking the kernel for neighbours …")); return; }
    const columns = this.data.stages.map((s, k) => this.nearColumn(s.name, k ? this.data.stages[k - 1].name : null));
    this.near.replaceChildren(title, h("div", { className: "lx-columns" }, ...columns));
  }

  nearColumn(stage, before) {
    const entries = this.nearAt(stage).map(([id, cosine, was], k) => {
      const rise = was ? was - (k + 1) : null;
      const mark = !before ? "" : rise === null ? "new" : rise > 0 ? `▲${rise}` : rise < 0 ? `▼${-rise}` : "=";
      const why = !before ? "" : was ? `rank ${was} at ${before}` : `not among the nearest at ${before}`;
      const take = () => this.choose(id); // no <button>: it would not break over lines as text does
      const name = h("span", { role: "button", tabIndex: 0, title: "choose this item", onclick: take, onkeydown: (e) => e.key === "Enter" && take() }, this.data.titles[id - 1]);
      const step = h("span", { className: rise === 0 ? "" : rise === null || rise > 0 ? "lx-up" : "lx-down", title: why }, mark);
      return h("li", {}, name, " ", h("small", {}, `${cosine.toFixed(2)} `, step));
    });
    const now = new Set(this.nearAt(stage).map(([id]) => id)), fell = before ? this.nearAt(before).filter(([id]) => !now.has(id)) : [];
    const gone = fell.length ? h("p", { className: "lx-fell" }, h("b", {}, "fell out: "), fell.map(([id]) => this.data.titles[id - 1]).join("; ")) : null;
    const column = h("div", {}, h("h4", {}, stage), h("ol", {}, ...entries), gone);
    column.dataset.stage = stage;
    return column;
  }

  showSelection() {
    const chosen = this.model.get("selected");
    this.dim();
    if (!chosen.length) { this.picked.replaceChildren(); return; }
    const some = chosen.slice(0, 6).map((id) => this.data.titles[id - 1]).join("; ");
    this.picked.replaceChildren(h("b", {}, `${chosen.length.toLocaleString("en")} items in the lasso`), ` (in Python: .selection) ${some}${chosen.length > 6 ? " …" : ""} `, h("button", { type: "button", className: "lx-clear", onclick: () => this.put({ selected: [] }) }, "clear"));
  }

  showPlaced() {
    const path = this.path, placed = this.placed, message = this.model.get("message");
    if (this.user && path) this.user.value = path.history ? path.user : "";
    if (message) this.say(message);
    else if (placed?.text && this.told !== "path") this.say(this.whereIs(placed));
    else if (path?.history) this.say(`User ${path.user}: the numbered path is the history, the square what came next, gold stars ${path.how}.`);
    else this.say("");
  }

  whereIs({ text, near, without }) {
    const found = Object.entries(near).map(([stage, id]) => `${stage}: ${this.data.titles[id - 1]}`), none = Object.entries(without ?? {});
    const lacking = none.length ? ` No encoder for ${none.map(([stage, why]) => `${stage} (${why})`).join("; ")}.` : "";
    return (found.length ? `“${text}” is nearest to ${found.join("; ")}.` : `“${text}” has no place here.`) + lacking;
  }

  say(text) { this.status.textContent = text; }

  // -- raw -> csft -> mntp -> contrastive, in the first panel

  animate() {
    const panel = this.panels[0], { stages, n } = this.data, still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const stop = () => { cancelAnimationFrame(this.playing); this.playing = 0; panel.xy = panel.stage.xy; panel.name.textContent = panel.stage.name; this.play.textContent = "▶ play stages"; this.refresh({ points: true }); };
    if (this.playing) { stop(); return; }
    const mixed = new Float32Array(2 * n), began = performance.now();
    this.play.textContent = "■ stop";
    this.hover = -1;
    const step = () => {
      const gone = performance.now() - began, leg = Math.floor(gone / (LEG_MS + REST_MS));
      if (leg >= stages.length - 1 || !this.panels.includes(panel)) { stop(); return; }
      const within = clamp((gone - leg * (LEG_MS + REST_MS) - REST_MS) / LEG_MS, 0, 1), t = still ? Math.round(within) : ease(within);
      const [a, b] = [stages[leg].xy, stages[leg + 1].xy];
      for (let k = 0; k < 2 * n; k++) mixed[k] = a[k] + t * (b[k] - a[k]);
      panel.xy = mixed;
      panel.name.textContent = `${stages[leg].name} → ${stages[leg + 1].name}`;
      this.refresh({ move: true });
      this.playing = requestAnimationFrame(step);
    };
    this.playing = requestAnimationFrame(step);
  }
}

function viridis(t) {
  const at = clamp(t, 0, 1) * (VIRIDIS.length - 1), k = Math.min(VIRIDIS.length - 2, at | 0), f = at - k;
  return [16, 8, 0].map((s) => Math.round(((VIRIDIS[k] >> s) & 255) * (1 - f) + ((VIRIDIS[k + 1] >> s) & 255) * f));
}

// A fixed order that mixes all groups, so that none lies over the others.
function scrambled(n) {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  let seed = 1;
  for (let i = n - 1; i > 0; i--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const j = seed % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function boundsOf(stages) {
  const low = [1, 1], high = [0, 0];
  for (const { xy } of stages) for (let k = 0; k < xy.length; k++) { if (xy[k] < low[k & 1]) low[k & 1] = xy[k]; if (xy[k] > high[k & 1]) high[k & 1] = xy[k]; }
  return { x: low[0], y: low[1], w: Math.max(1e-3, high[0] - low[0]), h: Math.max(1e-3, high[1] - low[1]) };
}

async function render({ model, el }) {
  const app = new App(model, el, await unpack(model.get("data")));
  return () => app.close();
}

export default { render };
