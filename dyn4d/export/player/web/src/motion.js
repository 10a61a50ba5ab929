// How the Gaussians move: groups with a mean motion and a few components each, and singles that have a motion of their
// own (see ../motion.py, ../stored.py and ../timing.py). The table of motions has a row of entries for each group, its
// mean first, and behind them the singles, one entry each.
// Everything is brought to the scene's units here: (world - centre) / unit.

const SLOT = 12; // numbers a slot: centre, then the Jacobian by rows
const NONE = { index: [0, 0, 0, 0], weight: [1, 0, 0, 0] };

export class Motion {
  constructor(header, arrays) {
    this.keys = header.key_times;
    this.groups = header.groups;
    this.components = header.components;
    this.slots = this.keys.length + 1; // the last one is canonical space
    this.rows = this.components + 1; // entries of a group
    this.entries = this.groups * this.rows + header.singles;
    this.height = Math.ceil(this.entries / this.rows);
    this.group = arrays.group.values;
    this.coefficients = [];
    for (let k = 0; k < this.components; k++) this.coefficients.push(arrays[`coefficient_${k}`]);
    this.basis = this.#unpack(header, arrays);
    this.current = new Float32Array(this.entries * SLOT);
  }

  // [slot][entry][12], coefficients' steps folded in
  #unpack(header, arrays) {
    const { groups, rows, slots, entries } = this;
    const { unit, centre, reach } = header;
    const basis = new Float32Array(slots * entries * SLOT);
    const put = (entry, whole, source, start, stride, factor) => {
      for (let s = 0; s < slots; s++) {
        const to = (s * entries + entry) * SLOT;
        const from = start + s * stride;
        for (let i = 0; i < SLOT; i++) {
          const shift = whole && i < 3 ? centre[i] : 0;
          basis[to + i] = (source[from + i] * factor - shift) / (i < 3 ? unit : reach);
        }
      }
    };
    for (let c = 0; c < groups; c++) {
      put(c * rows, true, arrays.mean.values, c * SLOT, groups * SLOT, arrays.mean.step);
      for (let k = 0; k < this.components; k++) {
        const part = arrays[`component_${c}_${k}`];
        put(c * rows + k + 1, false, part.values, 0, SLOT, part.step * this.coefficients[k].step);
      }
    }
    const { values, step } = arrays.singles;
    for (let m = 0; m < header.singles; m++) {
      put(groups * rows + m, true, values, m * SLOT, header.singles * SLOT, step);
    }
    return basis;
  }

  // The first entry of Gaussian g, and how many of its group's components it uses.
  #place(g) {
    const group = this.group[g];
    return group < this.groups ? [group * this.rows, this.components] : [this.#single(group), 0];
  }

  #single(group) { return this.groups * this.rows + group - this.groups; }

  // Which slots make up `time`, and by how much: cubic Hermite, as in ../timing.py.
  at(time) {
    const { keys } = this;
    const last = keys.length - 1;
    if (last === 0 || time <= keys[0]) return NONE;
    if (time >= keys[last]) return { index: [last, 0, 0, 0], weight: [1, 0, 0, 0] };
    let i = 0;
    let high = last;
    while (high - i > 1) {
      const middle = (i + high) >> 1;
      if (keys[middle] <= time) i = middle;
      else high = middle;
    }
    const span = keys[i + 1] - keys[i];
    const u = (time - keys[i]) / span;
    const before = Math.max(i - 1, 0);
    const after = Math.min(i + 2, last);
    const start = (u * (1 - u) ** 2 * span) / (keys[i + 1] - keys[before]);
    const end = (u * u * (u - 1) * span) / (keys[after] - keys[i]);
    return {
      index: [before, i, i + 1, after],
      weight: [-start, (1 + 2 * u) * (1 - u) ** 2 - end, u * u * (3 - 2 * u) + start, end],
    };
  }

  // Fill `current` for a time and a share of canonical space (0: none, 1: only).
  update(time, canonical) {
    const { index, weight } = this.at(time);
    const size = this.current.length;
    const { basis, current } = this;
    current.fill(0);
    const add = (slot, factor) => {
      if (factor === 0) return;
      const from = slot * size;
      for (let i = 0; i < size; i++) current[i] += factor * basis[from + i];
    };
    for (let j = 0; j < 4; j++) add(index[j], weight[j] * (1 - canonical));
    add(this.slots - 1, canonical);
  }

  // The centre of Gaussian g at a time, scene units.
  centre(g, time, out, canonical = 0) {
    const { index, weight } = this.at(time);
    out[0] = out[1] = out[2] = 0;
    for (let j = 0; j < 4; j++) this.#addCentre(g, index[j], weight[j] * (1 - canonical), out);
    this.#addCentre(g, this.slots - 1, canonical, out);
    return out;
  }

  #addCentre(g, slot, factor, out) {
    if (factor === 0) return;
    const [first, components] = this.#place(g);
    const start = (slot * this.entries + first) * SLOT;
    for (let row = 0; row <= components; row++) {
      const share = factor * (row === 0 ? 1 : this.coefficients[row - 1].values[g]);
      const from = start + row * SLOT;
      for (let i = 0; i < 3; i++) out[i] += share * this.basis[from + i];
    }
  }
}
