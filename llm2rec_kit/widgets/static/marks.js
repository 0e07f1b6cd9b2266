// The marks of a map: points written into pixels on the CPU, so that no WebGL is needed and every browser draws the same.

import { SHAPES } from "./basics.js";

const SLICE = 4096; // points between two looks at the clock
const LIT = 217, FAINT = 40; // of 255, how much a point covers what is under it

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

export const stampsOf = (radius) =>
  Object.assign(SHAPES.map((s, k) => stamp(s, radius * [1, 1.2, 0.95][k])), { reach: Math.ceil(1.2 * radius) + 1 });

// Blend points into `pixels` (w x tall), the dimmed first, so that they hide nothing. A generator: it yields now and then, and
// who drives it decides whether there is time for more. `from` and `to` are places in the order of drawing, `t` the way between.
export function* blend({ pixels, w, tall, from, to, t, frame, stamps, tint, shape, faint, most, opacity }) {
  const { scale, left, top } = frame, reach = stamps.reach, strengths = [FAINT * opacity, LIT * opacity];
  for (let pass = 0; pass < 2; pass++) {
    const strength = strengths[pass];
    for (let o = 0; o < most; o++) {
      if (o % SLICE === SLICE - 1) yield;
      if (faint[o] === pass) continue;
      const px = t ? from[2 * o] + t * (to[2 * o] - from[2 * o]) : from[2 * o];
      const py = t ? from[2 * o + 1] + t * (to[2 * o + 1] - from[2 * o + 1]) : from[2 * o + 1];
      const x = Math.round(left + px * scale), y = Math.round(top - py * scale);
      if (x < reach || y < reach || x >= w - reach || y >= tall - reach) continue;
      const marks = stamps[shape[o]], colour = tint[o];
      const r = colour & 255, g = (colour >> 8) & 255, b = (colour >> 16) & 255;
      for (let k = 0; k < marks.length; k += 3) {
        const at = (y + marks[k + 1]) * w + x + marks[k], was = pixels[at], a = (marks[k + 2] * strength) >> 8;
        const wr = was & 255, wg = (was >> 8) & 255, wb = (was >> 16) & 255;
        pixels[at] = (255 << 24) | ((wb + (((b - wb) * a) >> 8)) << 16) | ((wg + (((g - wg) * a) >> 8)) << 8) | (wr + (((r - wr) * a) >> 8));
      }
    }
  }
}

export function star(c, x, y, radius, fill, edge) {
  c.beginPath();
  for (let k = 0; k < 10; k++) {
    const r = k % 2 ? 0.45 * radius : radius, a = (k * Math.PI) / 5 - Math.PI / 2;
    c.lineTo(x + r * Math.cos(a), y + r * Math.sin(a));
  }
  c.closePath(); c.fillStyle = fill; c.fill(); c.strokeStyle = edge; c.lineWidth = Math.max(1, radius / 6); c.stroke();
}
