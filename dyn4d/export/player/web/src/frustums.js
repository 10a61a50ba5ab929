// The input's cameras as wire pyramids along their path.
import * as THREE from "three";

const MOST = 14; // pyramids drawn, besides the present one
const EDGES = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1, 5, 6, 6, 7];

export class Frustums extends THREE.Group {
  constructor(cameras, radius) {
    super();
    this.cameras = cameras;
    this.size = 0.12 * radius;
    const last = cameras.frames.length - 1;
    const count = Math.min(MOST, last + 1);
    this.plain = new THREE.LineBasicMaterial({ color: 0x8b97ad, transparent: true, opacity: 0.55, depthTest: false });
    this.bright = new THREE.LineBasicMaterial({ color: 0xffb454, transparent: true, depthTest: false });
    for (let i = 0; i < count; i++) {
      const frame = cameras.frames[Math.round((i * last) / Math.max(count - 1, 1))];
      this.add(this.#pyramid(frame, this.plain));
    }
    const path = new THREE.BufferGeometry().setFromPoints(cameras.frames.map(({ position }) => position));
    this.path = new THREE.Line(path, this.plain);
    this.path.renderOrder = -1;
    this.add(this.path);
    this.now = this.#pyramid(cameras.frames[0], this.bright);
    this.now.scale.setScalar(1.25);
    this.add(this.now);
    this.visible = false;
  }

  #pyramid({ K, position, quaternion }, material) {
    const [fx, fy, cx, cy] = K;
    const { width, height } = this.cameras;
    const depth = (this.size * 2 * Math.min(fx, fy)) / Math.max(width, height);
    const corner = (u, v) => new THREE.Vector3(((u - cx) / fx) * depth, (-(v - cy) / fy) * depth, -depth);
    const points = [
      new THREE.Vector3(), corner(0, 0), corner(width, 0), corner(width, height), corner(0, height),
      corner(0.38 * width, -0.05 * height), corner(0.5 * width, -0.2 * height), corner(0.62 * width, -0.05 * height),
    ];
    const geometry = new THREE.BufferGeometry().setFromPoints(EDGES.map((i) => points[i]));
    const lines = new THREE.LineSegments(geometry, material);
    lines.position.copy(position);
    lines.quaternion.copy(quaternion);
    return lines;
  }

  // Splats write no depth: what is nearer than the object's middle is drawn after them, the rest before.
  show(time, eye, middle) {
    const { position, quaternion } = this.cameras.at(time);
    this.now.position.copy(position);
    this.now.quaternion.copy(quaternion);
    const distance = eye.distanceTo(middle);
    for (const child of this.children) {
      if (child !== this.path) child.renderOrder = child.position.distanceTo(eye) < distance ? 2 : -1;
    }
  }
}
