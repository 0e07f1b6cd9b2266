// What every other module here stands on: elements, colours, numbers.

export const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]; // Okabe & Ito
export const SHAPES = ["disc", "triangle", "square"]; // past eight groups the shape tells colours apart
const VIRIDIS = [0x440154, 0x482878, 0x3e4989, 0x31688e, 0x26828e, 0x1f9e89, 0x35b779, 0x6ece58, 0xb5de2b, 0xfde725];
export const CHOSEN = "#C4006A", CHOSEN_DARK = "#FF6BB5"; // no colour of the palette: what is chosen is no group
export const GREY = "#BBBBBB", GREY_DARK = "#696970"; // of items without a group

// An element; `on...` properties are listeners, and what is no property of it becomes an attribute.
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

export const button = (text, props = {}) => h("button", { type: "button", ...props }, text);
export const small = (text, onclick, props = {}) => button(text, { className: "lx-small", onclick, ...props });
export const labelled = (text, ...nodes) => h("label", { className: "lx-field" }, h("span", {}, text), ...nodes);
export const group = (text, ...nodes) =>
  h("div", { className: "lx-field", role: "group", "aria-label": text }, h("span", {}, text), h("div", { className: "lx-buttons" }, ...nodes));
export const selectOf = (names, props) => h("select", props, ...names.map((n) => h("option", { value: n }, n)));

// A title that can be chosen. No <button>, which would not break over lines as text does.
export function link(text, take, props = {}) {
  const act = (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); e.stopPropagation(); take(); } };
  return h("span", { role: "button", tabIndex: 0, title: "choose this item", onclick: take, onkeydown: act, ...props }, text);
}

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const bytesOf = (view) => new Uint8Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
export const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
export const packed = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r; // as a little-endian pixel
export const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
export const ease = (t) => (t < 0.5 ? 2 * t * t : 1 - 2 * (1 - t) * (1 - t));
export const told = (x) => x.toLocaleString("en");
export const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text);

export function viridis(t) {
  const at = clamp(t, 0, 1) * (VIRIDIS.length - 1), k = Math.min(VIRIDIS.length - 2, at | 0), f = at - k;
  return [16, 8, 0].map((s) => Math.round(((VIRIDIS[k] >> s) & 255) * (1 - f) + ((VIRIDIS[k + 1] >> s) & 255) * f));
}

// The colour of group k, as CSS has it; a black on dark paper is white.
export function paint(k, dark) {
  if (k < 0) return dark ? GREY_DARK : GREY;
  const colour = PALETTE[k % PALETTE.length];
  return colour === "#000000" && dark ? "#F5F5F5" : colour;
}
