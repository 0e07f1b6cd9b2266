// The maps as they are seen, with their names and legend, as one PNG.

import { download, paint, viridis } from "./basics.js";
import { number } from "./catalogue.js";

const GAP = 12, TITLE = 24, ENTRY = 18;

export function savePicture(app) {
  const { panels, column } = app, u = panels[0].ratio, boxes = panels.map((p) => p.el.getBoundingClientRect());
  const left = Math.min(...boxes.map((b) => b.left)), top = Math.min(...boxes.map((b) => b.top));
  const w = Math.max(...boxes.map((b) => b.right)) - left + 2 * GAP, under = Math.max(...boxes.map((b) => b.bottom)) - top + GAP;
  const canvas = document.createElement("canvas"), c = canvas.getContext("2d"), entries = legendOf(app);
  const font = (weight, size) => (c.font = `${weight} ${size}px system-ui, sans-serif`);
  font(400, 12);
  const lines = [[]];
  let x = 0;
  for (const entry of entries) {
    const wide = entry.text ? c.measureText(entry.text).width + (entry.colour ? 34 : 12) : 10;
    if (x + wide > w - 2 * GAP && x) { lines.push([]); x = 0; }
    lines.at(-1).push({ ...entry, x });
    x += wide;
  }
  [canvas.width, canvas.height] = [Math.round(w * u), Math.round((under + GAP + lines.length * ENTRY + GAP) * u)];
  c.fillStyle = app.paperCss; c.fillRect(0, 0, canvas.width, canvas.height);
  c.scale(u, u);
  panels.forEach((panel, k) => {
    const x0 = boxes[k].left - left + GAP, y0 = boxes[k].top - top + GAP, [pw, tall] = panel.size;
    font(600, 13); c.fillStyle = app.ink; c.fillText(panel.stage.name, x0, y0 + 14);
    for (const layer of [panel.base, panel.over]) c.drawImage(layer, x0, y0 + TITLE, pw, tall);
    c.strokeStyle = "#8886"; c.strokeRect(x0, y0 + TITLE, pw, tall);
  });
  font(400, 12);
  lines.forEach((line, k) => line.forEach((entry) => {
    const y = under + GAP + k * ENTRY + 10;
    if (entry.colour) { c.fillStyle = entry.colour; mark(c, entry.shape, GAP + entry.x + 5, y - 4); }
    c.fillStyle = app.ink; c.fillText(entry.text, GAP + entry.x + (entry.colour ? 15 : 0), y);
  }));
  canvas.toBlob((blob) => download(blob, `map-${panels.map((p) => p.stage.name).join("-")}-${column.name.split(",")[0]}.png`));
}

function legendOf({ column, dark }) {
  if (column.kind === "number") {
    const ends = [column.low, column.high].map((v) => number(column, v)), scale = column.scale === "linear" ? "" : ", log scale";
    const steps = Array.from({ length: 12 }, (_, k) => ({ text: "", colour: `rgb(${viridis(dark ? k / 11 : 1 - k / 11)})`, shape: 2 }));
    return [{ text: `${column.name}${scale}: ${ends[0]}` }, ...steps, { text: ends[1] }];
  }
  const groups = column.names.slice(0, column.drawn).map((text, k) => ({ text, colour: paint(k, dark), shape: Math.floor(k / 8) % 3 }));
  return [{ text: `${column.name}:` }, ...groups];
}

function mark(c, shape, x, y) {
  c.beginPath();
  if (shape === 0) c.arc(x, y, 5, 0, 7);
  else if (shape === 1) { c.moveTo(x, y - 5); c.lineTo(x + 5, y + 5); c.lineTo(x - 5, y + 5); }
  else c.rect(x - 5, y - 5, 10, 10);
  c.fill();
}
