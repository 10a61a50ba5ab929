// The input's cameras in scene units, at any time between frames.
import * as THREE from "three";

const FLIP = new THREE.Quaternion(1, 0, 0, 0); // OpenCV's axes (y down, z forward) to those of WebGL (y up, z back)

export class InputCameras {
  constructor(header) {
    const { centre, unit } = header;
    this.times = header.times;
    this.width = header.cameras.width;
    this.height = header.cameras.height;
    this.frames = header.cameras.frames.map(({ K, q, p }) => ({
      K,
      position: new THREE.Vector3(...p.map((v, i) => (v - centre[i]) / unit)),
      quaternion: new THREE.Quaternion(q[1], q[2], q[3], q[0]).multiply(FLIP),
    }));
  }

  // The frame before `time`, the next one, and how far between.
  between(time) {
    const { times } = this;
    let i = 0;
    while (i < times.length - 2 && times[i + 1] <= time) i++;
    const next = Math.min(i + 1, times.length - 1);
    const share = next > i ? Math.min(Math.max((time - times[i]) / (times[next] - times[i]), 0), 1) : 0;
    return [i, next, share];
  }

  at(time) {
    const [a, b, share] = this.between(time);
    const [from, to] = [this.frames[a], this.frames[b]];
    return {
      K: from.K.map((v, i) => v + share * (to.K[i] - v)),
      position: from.position.clone().lerp(to.position, share),
      quaternion: from.quaternion.clone().slerp(to.quaternion, share),
    };
  }

  // A projection that shows the whole frame in a canvas of `width` x `height`, bars where the shapes differ.
  project(K, width, height, near, far, out) {
    const scale = Math.min(width / this.width, height / this.height);
    const [fx, fy] = [K[0] * scale, K[1] * scale];
    const cx = (width - this.width * scale) / 2 + K[2] * scale;
    const cy = (height - this.height * scale) / 2 + K[3] * scale;
    out.set(
      (2 * fx) / width, 0, 1 - (2 * cx) / width, 0,
      0, (2 * fy) / height, (2 * cy) / height - 1, 0,
      0, 0, -(far + near) / (far - near), (-2 * far * near) / (far - near),
      0, 0, -1, 0,
    );
    return fy;
  }
}
