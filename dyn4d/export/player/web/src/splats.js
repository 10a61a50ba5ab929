// The object as Gaussians of Spark: a generator that moves them on the GPU, and a renderer that sorts and draws them.
import { dyno, SplatGenerator } from "@sparkjsdev/spark";
import * as THREE from "three";
import { HARMONICS, statements } from "./shader.js";
import { byteList, FETCH, floatList, floatTable, shortList } from "./textures.js";

// Covariances (6 numbers a Gaussian, scene units) from quantised rotations and scales.
function covariances(count, arrays, unit) {
  const out = new Float32Array(6 * count);
  const largest = arrays.rotation_largest.values;
  const small = [0, 1, 2].map((i) => arrays[`rotation_${i}`]);
  const scale = [0, 1, 2].map((i) => arrays[`scale_${i}`]);
  const q = [0, 0, 0, 0];
  for (let g = 0; g < count; g++) {
    let rest = 1;
    for (let i = 0, at = 0; i < 4; i++) {
      if (i === largest[g]) continue;
      q[i] = small[at].values[g] * small[at].step;
      rest -= q[i] * q[i];
      at++;
    }
    q[largest[g]] = Math.sqrt(Math.max(rest, 0));
    const length = Math.hypot(...q) || 1;
    const [w, x, y, z] = q.map((v) => v / length);
    const r = [
      1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
      2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
      2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ];
    const s = scale.map((one) => (Math.exp(one.values[g] * one.step) / unit) ** 2);
    const term = (a, b) => r[3 * a] * r[3 * b] * s[0] + r[3 * a + 1] * r[3 * b + 1] * s[1] + r[3 * a + 2] * r[3 * b + 2] * s[2];
    out.set([term(0, 0), term(1, 1), term(2, 2), term(0, 1), term(0, 2), term(1, 2)], 6 * g);
  }
  return out;
}

function fixedTexture(header, arrays) {
  const count = header.gaussians;
  const cov = covariances(count, arrays, header.unit);
  const { opacity, confidence, group } = arrays;
  const colour = [0, 1, 2].map((c) => arrays[`colour_${c}`]);
  return floatList(3 * count, (out) => {
    for (let g = 0; g < count; g++) {
      const to = 12 * g;
      for (let i = 0; i < 6; i++) out[to + i] = cov[6 * g + i];
      out[to + 6] = opacity.values[g] * opacity.step;
      out[to + 7] = confidence ? confidence.values[g] * confidence.step : 1;
      for (let c = 0; c < 3; c++) out[to + 8 + c] = colour[c].values[g] * colour[c].step;
      out[to + 11] = group.values[g];
    }
  });
}

function coefficientTexture(motion, count) {
  const four = motion.components / 4;
  return shortList(four * count, (out) => {
    motion.coefficients.forEach(({ values }, k) => {
      for (let g = 0; g < count; g++) out[4 * (g * four + (k >> 2)) + (k & 3)] = values[g];
    });
  });
}

function harmonicTexture(header, arrays) {
  const bands = (header.sh_degree + 1) ** 2 - 1;
  const texels = Math.ceil((3 * bands) / 4);
  return byteList(texels * header.gaussians, (out) => {
    for (let k = 0; k < bands; k++) {
      for (let c = 0; c < 3; c++) {
        const { values } = arrays[`harmonic_${k + 1}_${c}`];
        for (let g = 0; g < header.gaussians; g++) out[4 * texels * g + 3 * k + c] = values[g];
      }
    }
  });
}

export class MovingSplats extends SplatGenerator {
  constructor(header, arrays, motion) {
    super({ numSplats: header.gaussians });
    this.motion = motion;
    this.degree = header.sh_degree;
    this.table = floatTable(new Float32Array(motion.height * motion.rows * 12), 3 * motion.rows, motion.height);
    this.fade = new THREE.Vector4(0, 0, 0, arrays.harmonic_1_0 ? arrays.harmonic_1_0.step : 0);
    this.eye = new THREE.Vector3();
    const inputs = {
      fixed: new dyno.DynoSampler2D({ key: "fixed", value: fixedTexture(header, arrays) }),
      coefficients: new dyno.DynoIsampler2D({
        key: "coefficients", value: coefficientTexture(motion, header.gaussians),
      }),
      basis: new dyno.DynoSampler2D({ key: "basis", value: this.table }),
      fade: new dyno.DynoVec4({ key: "fade", value: this.fade }),
      eye: new dyno.DynoVec3({ key: "eye", value: this.eye }),
    };
    const types = { fixed: "sampler2D", coefficients: "isampler2D", basis: "sampler2D", fade: "vec4", eye: "vec3" };
    if (this.degree > 0) {
      inputs.harmonics = new dyno.DynoIsampler2D({ key: "harmonics", value: harmonicTexture(header, arrays) });
      types.harmonics = "isampler2D";
    }
    this.covGenerator = dyno.dynoBlock({ index: "int" }, { covsplat: dyno.CovSplat }, ({ index }) => {
      const node = new dyno.Dyno({
        inTypes: { index: "int", ...types },
        outTypes: { covsplat: dyno.CovSplat },
        inputs: { index, ...inputs },
        globals: () => [dyno.defineGsplat, dyno.defineCovSplat, FETCH, ...(this.degree > 0 ? [HARMONICS] : [])],
        statements: ({ inputs: n, outputs }) =>
          statements(n, outputs.covsplat, { motion, degree: this.degree }),
      });
      return { covsplat: node.outputs.covsplat };
    });
    this.frameUpdate = ({ camera }) => {
      if (this.degree === 0 || !camera) return;
      const { elements } = camera.matrixWorld;
      if (this.eye.distanceTo({ x: elements[12], y: elements[13], z: elements[14] }) < 1e-4) return;
      this.eye.set(elements[12], elements[13], elements[14]);
      this.updateVersion();
    };
  }

  // Show a time, and a share of canonical space.
  show(time, canonical) {
    this.motion.update(time, canonical);
    const { current, entries } = this.motion;
    const out = this.table.image.data;
    for (let i = 0; i < entries; i++) {
      for (let r = 0; r < 3; r++) {
        const to = 12 * i + 4 * r;
        const from = 12 * i + 3 + 3 * r;
        out[to] = current[from];
        out[to + 1] = current[from + 1];
        out[to + 2] = current[from + 2];
        out[to + 3] = current[12 * i + r];
      }
    }
    this.table.needsUpdate = true;
    this.updateVersion();
  }

  // least: confidence below which Gaussians fade (0: none do). unseen: 0 to 1, how far the whole object fades.
  setFade(least, unseen) {
    if (this.fade.x === least && this.fade.y === unseen) return;
    this.fade.x = least;
    this.fade.y = unseen;
    this.updateVersion();
  }
}
