// Names of groups on a map, placed as the static figure places them (figures/labels.py): each near the middle of its group, none
// over another, over as few points as can be, tied to its place by a line where it had to move.

const REACH = 140; // CSS pixels from its anchor that a name may stand
const HIDDEN = 200, TANGLE = 15; // the cost of hiding all points; of each tie under a name
const SAMPLE = 30_000; // points that say where groups are
const CELL = 4; // CSS pixels, of the counts of points
const FONT = "11px system-ui, sans-serif", LINE = 13, WIDEST = 24;

// Where names stand: [{ lines, colour, anchor: [x, y] of the map, dx, dy, w, tall }], offsets in CSS pixels.
export function placeNames(panel, column, faint, colours) {
  const [w, tall] = panel.size, f = panel.frame(1), { xy } = panel.stage, { order } = panel.app.data;
  const members = column.names.slice(0, column.drawn).map(() => []), counts = new Counts(w, tall);
  for (let o = 0; o < Math.min(order.length, SAMPLE); o++) {
    const i = order[o], x = f.left + xy[2 * i] * f.scale, y = f.top - xy[2 * i + 1] * f.scale;
    if (x < 0 || y < 0 || x >= w || y >= tall) continue;
    counts.add(x, y);
    if (!faint[o]) members[column.values[i]]?.push([x, y, i]);
  }
  counts.sum();
  const c = panel.over.getContext("2d"), placed = [];
  c.save();
  c.font = FONT;
  const names = members.flatMap((points, k) => {
    if (!points.length) return [];
    const [x, y, i] = middle(points), lines = wrapped(column.names[k]);
    const size = { w: Math.max(...lines.map((l) => c.measureText(l).width)) + 8, tall: lines.length * LINE + 4 };
    return [{ lines, x, y, anchor: [xy[2 * i], xy[2 * i + 1]], colour: colours(k), ...size, many: points.length }];
  });
  c.restore();
  for (const name of names.sort((a, b) => b.many - a.many)) {
    const spot = bestSpot(name, placed, counts, w, tall);
    if (spot) placed.push({ ...name, dx: spot[0], dy: spot[1] });
  }
  return placed;
}

function bestSpot(name, placed, counts, w, tall) {
  let best = null, least = Infinity;
  for (let radius = 0; radius < REACH; radius += radius ? 6 : 8) {
    for (let k = 0; k < (radius ? 16 : 1); k++) {
      const dx = radius * Math.cos((k * Math.PI) / 8), dy = radius * Math.sin((k * Math.PI) / 8), box = boxOf(name, dx, dy);
      if (box[0] < 1 || box[1] < 1 || box[2] > w - 1 || box[3] > tall - 1) continue;
      let cost = radius / 10 + HIDDEN * counts.share(box);
      for (const other of placed) {
        const its = boxOf(other, other.dx, other.dy);
        if (box[0] < its[2] && its[0] < box[2] && box[1] < its[3] && its[1] < box[3]) { cost = Infinity; break; }
        cost += TANGLE * (meets(name, dx, dy, its) + meets(other, other.dx, other.dy, box));
      }
      if (cost < least) [best, least] = [[dx, dy], cost];
    }
  }
  return best;
}

const boxOf = ({ x, y, w, tall }, dx, dy) => [x + dx - w / 2 - 1, y + dy - tall / 2 - 1, x + dx + w / 2 + 1, y + dy + tall / 2 + 1];

// Whether the tie from a name's anchor to where it stands passes under a box, to about three pixels.
function meets({ x, y }, dx, dy, box) {
  const steps = 2 + Math.hypot(dx, dy) / 3;
  for (let s = 0; s <= steps; s++) {
    const px = x + (dx * s) / steps, py = y + (dy * s) / steps;
    if (px > box[0] && px < box[2] && py > box[1] && py < box[3]) return 1;
  }
  return 0;
}

// The point nearest to the median: a name on a group in several parts stands on one of them.
function middle(points) {
  const [mx, my] = [0, 1].map((k) => points.map((p) => p[k]).sort((a, b) => a - b)[points.length >> 1]);
  return points.reduce((best, p) => (Math.hypot(p[0] - mx, p[1] - my) < Math.hypot(best[0] - mx, best[1] - my) ? p : best));
}

// A name in lines of even length; only a word that is longer than a line is cut.
function wrapped(name) {
  const words = name.split(/\s+/), fit = (most) => {
    const lines = [""];
    for (const word of words) {
      const last = lines.at(-1), longer = last ? `${last} ${word}` : word;
      if (longer.length <= most || !last) lines[lines.length - 1] = longer; else lines.push(word);
    }
    return lines.map((l) => (l.length > WIDEST ? `${l.slice(0, WIDEST - 1)}…` : l));
  };
  const least = fit(WIDEST).length;
  for (let most = 6; most < WIDEST; most++) if (fit(most).length === least) return fit(most);
  return fit(WIDEST);
}

export function drawNames(c, panel, names, f, u) {
  c.textAlign = "center"; c.textBaseline = "middle"; c.lineJoin = "round";
  for (const { anchor, dx, dy, colour } of names) {
    const [x, y] = panel.toScreen(...anchor, f);
    c.beginPath(); c.moveTo(x, y); c.lineTo(x + dx * u, y + dy * u); c.strokeStyle = colour; c.lineWidth = u; c.stroke();
  }
  for (const { anchor, dx, dy, w, tall, lines, colour } of names) {
    const [ax, ay] = panel.toScreen(...anchor, f), x = ax + dx * u, y = ay + dy * u;
    c.beginPath(); c.roundRect(x - (w * u) / 2, y - (tall * u) / 2, w * u, tall * u, 3 * u);
    c.globalAlpha = 0.9; c.fillStyle = panel.app.paperCss; c.fill(); c.globalAlpha = 1;
    c.strokeStyle = colour; c.lineWidth = u; c.stroke();
    c.fillStyle = panel.app.ink; c.font = FONT.replace("11px", `${11 * u}px`);
    lines.forEach((line, k) => c.fillText(line, x, y + (k - (lines.length - 1) / 2) * LINE * u));
  }
}

// How many points lie in a box, from sums over cells.
class Counts {
  constructor(w, tall) {
    [this.across, this.down] = [Math.ceil(w / CELL) + 1, Math.ceil(tall / CELL) + 1];
    this.sums = new Float64Array(this.across * this.down);
  }
  add(x, y) { this.sums[(Math.floor(y / CELL) + 1) * this.across + Math.floor(x / CELL) + 1]++; }
  sum() {
    const { across, down, sums } = this;
    for (let y = 1; y < down; y++) for (let x = 1; x < across; x++) {
      sums[y * across + x] += sums[y * across + x - 1] + sums[(y - 1) * across + x] - sums[(y - 1) * across + x - 1];
    }
  }
  share([x0, y0, x1, y1]) {
    const { across, down, sums } = this, cell = (v, most) => Math.min(most - 1, Math.max(0, Math.round(v / CELL)));
    const [l, r, t, b] = [cell(x0, across), cell(x1, across), cell(y0, down), cell(y1, down)];
    const inside = sums[b * across + r] - sums[t * across + r] - sums[b * across + l] + sums[t * across + l];
    return inside / Math.max(1, sums.at(-1));
  }
}
