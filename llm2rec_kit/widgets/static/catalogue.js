// The items: where they stand at each stage, what is known of them, and how they are found by place or by words.

import { bytesOf, clamp } from "./basics.js";

export async function inflate(view) {
  const stream = new Blob([bytesOf(view)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream);
}

const lines = async (view) => (await (await inflate(view)).text()).split("\n");

// What the host hands over, as typed arrays: positions in [0, 1], one scale for both axes. `order` is the order of drawing.
export async function unpack(data) {
  const order = scrambled(data.n);
  const stages = data.stages.map(({ name, note, xy }) => {
    const raw = new Uint16Array(bytesOf(xy).buffer), places = Float32Array.from(raw, (v) => v / 65535);
    return { name, note, xy: places, drawn: inOrder(places, order), grid: null };
  });
  const kinds = { number: Float32Array, text: Int32Array };
  const columns = data.columns.map((c) => ({ ...c, values: new kinds[c.kind](bytesOf(c.values).buffer) }));
  const titles = await lines(data.titles);
  let lower = null, ids = null;
  return {
    ...data, stages, columns, order, titles, bounds: boundsOf(stages),
    get lower() { return (lower ??= titles.map((t) => t.toLowerCase())); },
    sources: async () => (ids ??= await lines(data.ids)),
  };
}

// What an item has in a column, in words.
export function worth(column, i) {
  const value = column.values[i];
  if (column.kind === "text") return value < 0 ? column.rest ?? "other" : column.names[value];
  return Number.isNaN(value) ? "none" : value;
}

// The same as it is shown; on a linear scale a number may be a year, and has no comma.
export function shownOf(column, i) { return column.kind === "text" ? worth(column, i) : number(column, column.values[i]); }
export function number(column, v) {
  return Number.isNaN(v) ? "none" : v.toLocaleString("en", { useGrouping: column.scale !== "linear", maximumFractionDigits: 3 });
}

// Rows of the titles that hold all of these words, in any case.
export function withWords(catalogue, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean), found = [];
  for (let i = 0; words.length && i < catalogue.n; i++) if (words.every((w) => catalogue.lower[i].includes(w))) found.push(i);
  return found;
}

// A fixed order that mixes all groups, so that none lies over the others and any beginning of it is a fair sample.
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

// Places in the order of drawing: read one after the other, they cost a third of the time.
function inOrder(xy, order) {
  const out = new Float32Array(xy.length);
  for (let o = 0; o < order.length; o++) { out[2 * o] = xy[2 * order[o]]; out[2 * o + 1] = xy[2 * order[o] + 1]; }
  return out;
}

function boundsOf(stages) {
  const low = [1, 1], high = [0, 0];
  for (const { xy } of stages) for (let k = 0; k < xy.length; k++) {
    if (xy[k] < low[k & 1]) low[k & 1] = xy[k];
    if (xy[k] > high[k & 1]) high[k & 1] = xy[k];
  }
  return { x: low[0], y: low[1], w: Math.max(1e-3, high[0] - low[0]), h: Math.max(1e-3, high[1] - low[1]) };
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

export function nearestPoint(stage, n, x, y, radius) {
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

// Ids of the items within a polygon of a stage's map.
export function within(stage, n, polygon) {
  const found = [], xs = polygon.map((p) => p[0]), ys = polygon.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  for (let i = 0; i < n; i++) {
    const x = stage.xy[2 * i], y = stage.xy[2 * i + 1];
    if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && insidePolygon(polygon, x, y)) found.push(i + 1);
  }
  return found;
}

function insidePolygon(polygon, x, y) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i], [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}
