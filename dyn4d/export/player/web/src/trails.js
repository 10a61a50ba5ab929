// Trails of some Gaussians as thin splats of their own, so that the object hides what lies behind it.
import { dyno, SplatGenerator } from "@sparkjsdev/spark";
import * as THREE from "three";
import { FETCH, floatTable } from "./textures.js";

const PIECES = 2; // a frame
const WIDTH = 1.25; // pixels of the screen: standard deviation across is about a third
const LIFT = 0.006; // of the object's radius, towards the viewer
const TABLE = 1024;

export class Trails extends SplatGenerator {
  constructor(header, motion) {
    super({ numSplats: 0 });
    this.motion = motion;
    this.rows = header.trails.rows;
    this.colours = header.trails.colours.map((hex) => new THREE.Color(hex).convertLinearToSRGB());
    this.times = header.times;
    this.radius = header.radius / header.unit;
    this.length = Math.min(12, header.times.length - 1);
    this.pixel = 1;
    this.eye = new THREE.Vector3();
    this.visible = false;
    this.#allocate();
    this.covGenerator = dyno.dynoBlock({ index: "int" }, { covsplat: dyno.CovSplat }, ({ index }) => {
      const node = new dyno.Dyno({
        inTypes: { index: "int", table: "sampler2D" },
        outTypes: { covsplat: dyno.CovSplat },
        inputs: { index, table: this.uniform },
        globals: () => [dyno.defineGsplat, dyno.defineCovSplat, FETCH],
        statements: ({ inputs: n, outputs }) => pieces(n, outputs.covsplat),
      });
      return { covsplat: node.outputs.covsplat };
    });
  }

  #allocate() {
    const most = this.rows.length * (Math.max(this.times.length - 1, 1) * PIECES + 1);
    const height = Math.max(1, Math.ceil((3 * most) / TABLE));
    this.table = floatTable(new Float32Array(4 * TABLE * height), TABLE, height);
    this.uniform = new dyno.DynoSampler2D({ key: "table", value: this.table });
  }

  // Times of the trail's joints up to `time`, newest last.
  #joints(time, frame) {
    const joints = [];
    const first = Math.max(frame - this.length, 0);
    for (let i = Math.ceil(first); i < frame; i++) {
      const [a, b] = [this.times[i], Math.min(this.times[Math.min(i + 1, this.times.length - 1)], time)];
      for (let p = 0; p < PIECES; p++) joints.push(a + ((b - a) * p) / PIECES);
    }
    joints.push(time);
    return joints;
  }

  // eye: of the viewer; pixel: its size at distance 1; frame: fractional number of the frame at `time`.
  show(time, frame, eye, pixel, canonical) {
    // drawing again what is there would have it sorted again, and so on for ever
    const asked = [time, this.length, eye.x, eye.y, eye.z, pixel, canonical].join();
    if (asked === this.asked) return;
    this.asked = asked;
    const joints = canonical > 0.5 ? [time] : this.#joints(time, frame);
    const out = this.table.image.data;
    const [from, to] = [new THREE.Vector3(), new THREE.Vector3()];
    const lift = new THREE.Vector3();
    const place = [0, 0, 0];
    let count = 0;
    const put = (a, b, colour, alpha, width) => {
      const middle = a.clone().add(b).multiplyScalar(0.5);
      const distance = middle.distanceTo(eye);
      lift.copy(eye).sub(middle).setLength(LIFT * this.radius);
      const half = b.clone().sub(a).multiplyScalar(0.5);
      out.set([middle.x + lift.x, middle.y + lift.y, middle.z + lift.z, alpha], 12 * count);
      out.set([half.x, half.y, half.z, width * pixel * distance], 12 * count + 4);
      out.set([colour.r, colour.g, colour.b, 0], 12 * count + 8);
      count++;
    };
    this.rows.forEach((row, r) => {
      from.fromArray(this.motion.centre(row, joints[0], place, canonical));
      for (let j = 1; j < joints.length; j++) {
        to.fromArray(this.motion.centre(row, joints[j], place));
        const age = j / (joints.length - 1);
        if (from.distanceTo(to) > 1e-4) put(from, to, this.colours[r], 0.25 + 0.75 * age, WIDTH * (0.5 + 0.5 * age));
        from.copy(to);
      }
      put(from, from, this.colours[r], 1, 2.4 * WIDTH);
    });
    this.table.needsUpdate = true;
    if (this.numSplats !== count) {
      this.numSplats = count;
      this.updateMappingVersion();
    }
    this.updateVersion();
  }
}

function pieces(n, out) {
  return `
    vec4 s0 = texelFetch(${n.table}, ivec2((3 * ${n.index}) % ${TABLE}, (3 * ${n.index}) / ${TABLE}), 0);
    vec4 s1 = texelFetch(${n.table}, ivec2((3 * ${n.index} + 1) % ${TABLE}, (3 * ${n.index} + 1) / ${TABLE}), 0);
    vec4 s2 = texelFetch(${n.table}, ivec2((3 * ${n.index} + 2) % ${TABLE}, (3 * ${n.index} + 2) / ${TABLE}), 0);
    float across = 0.16 * s1.w * s1.w;
    vec3 along = 0.75 * s1.xyz;
    ${out}.flags = GSPLAT_FLAG_ACTIVE;
    ${out}.index = ${n.index};
    ${out}.center = s0.xyz;
    ${out}.rgba = vec4(s2.rgb, s0.w);
    ${out}.xxyyzz = along * along + across;
    ${out}.xyxzyz = vec3(along.x * along.y, along.x * along.z, along.y * along.z);`
    .split("\n").filter((line) => line.trim());
}
