// The kernel's part in a page without one: answers come from what was written into the page.

const bytesOf64 = (text) => {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) out[k] = raw.charCodeAt(k);
  return out;
};

const known = JSON.parse(document.getElementById("known").textContent, (_, value) =>
  typeof value?.base64 === "string" ? new DataView(bytesOf64(value.base64).buffer) : value);

// Neighbours stand in the page behind this program: Map { stage: { k, ids: Int32Array, cosines: Uint8Array } }, once all of it is there.
async function readNear() {
  if (!document.getElementById("end")) await new Promise((done) => document.addEventListener("DOMContentLoaded", done));
  const whole = async (id) => new Uint8Array(await (await inflate(new DataView(bytesOf64(document.getElementById(id).textContent).buffer))).arrayBuffer());
  const stages = known.state.data.stages.map(async ({ name }, at) => {
    const [ids, cosines] = await Promise.all([whole(`ids-${at}`), whole(`cosines-${at}`)]);
    return [name, { k: known.k, ids: new Int32Array(ids.buffer), cosines }];
  });
  return new Map(await Promise.all(stages)); // in an object a stage named as a number would come first
}

class Page {
  constructor(state) {
    this.state = { item: 0, selected: [], text: "", user: -1, who: "", neighbours: {}, placed: {}, path: {}, compared: [], difference: {}, message: "", ...state };
    this.heard = {};
  }
  get(name) { return this.state[name]; }
  on(event, call) { (this.heard[event] ??= []).push(call); }
  off(event, call) { this.heard[event] = (this.heard[event] ?? []).filter((c) => c !== call); }
  save_changes() {}
  set(name, value) {
    this.state[name] = value;
    if (name === "item" || name === "count") this.answer("neighbours", (near) => this.neighbours(near));
    if (name === "compared") this.answer("difference", (near) => this.difference(near));
    if (name === "who") this.meet(value);
    if (name === "user") this.set("path", known.paths[value] ?? {});
    for (const call of this.heard[`change:${name}`] ?? []) call();
  }
  async answer(name, of) { this.set(name, of(await (this.near ??= readNear()))); }

  // By the source's own id, by name (an id that several have, with the domain), or by number where no id reads so.
  meet(who) {
    const { carried, users } = this.state.data, first = (is) => carried.find((user) => is(...user));
    const found = first((number, name, id) => id === who) ?? first((number, name) => name === who) ?? first((number, name, id, taken) => !taken && String(number) === who);
    const carries = `User “${who}” is not among the ${carried.length} of ${users} users that this page carries.`;
    this.set("message", !who || found ? "" : carried.length < users ? carries : `There is no user “${who}”.`);
    this.set("user", found ? found[0] : -1);
  }

  neighbours(near) {
    const { item, count } = this.state, stages = {};
    let before = null;
    for (const [stage, { k, ids, cosines }] of item ? near : []) {
      const own = Array.from(ids.subarray((item - 1) * k, item * k));
      const rank = (id) => (before ? before.indexOf(id) + 1 : 0); // 0: not among those that the page carries
      stages[stage] = own.slice(0, count).map((id, at) => [id, cosines[(item - 1) * k + at] / 127.5 - 1, rank(id)]);
      before = own;
    }
    return { item, stages };
  }

  // Of each item, how many of its ten nearest at one stage are not among those at the other.
  difference(near) {
    const between = this.state.compared, [a, b] = between.map((stage) => near.get(stage)), n = this.state.data.n, of = Math.min(10, a.k), lost = new Uint8Array(n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < of; j++) {
        let kept = 0;
        for (let l = 0; l < of; l++) if (b.ids[i * b.k + l] === a.ids[i * a.k + j]) { kept = 1; break; }
        lost[i] += 1 - kept;
      }
    }
    return { between, changed: new DataView(lost.buffer) };
  }
}

render({ model: new Page(known.state), el: document.getElementById("explorer") });
