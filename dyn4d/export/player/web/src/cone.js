// How far the viewer is from every direction that the input's cameras looked from.
import * as THREE from "three";

export const SEEN = 15; // degrees within which a side counts as seen
export const GUESS = 80; // degrees from which on hardly anything that is seen was filmed
export const UNSEEN = 75; // degrees from which on it is faded wholly

// Directions are compared in a frame that turns with the object, so that a turntable counts as many sides.
export class ViewCone {
  constructor(header, cameras, centres) {
    this.turns = header.turns.map(([w, x, y, z]) => new THREE.Quaternion(x, y, z, w));
    this.cameras = cameras;
    this.directions = cameras.frames.map(({ position }, i) => {
      const direction = position.clone().sub(centres[i]).normalize();
      return direction.applyQuaternion(this.turns[i].clone().invert());
    });
  }

  // Degrees between the view from `eye` on an object at `middle` and the nearest input camera's.
  angle(eye, middle, time) {
    const [a, b, share] = this.cameras.between(time);
    const turn = this.turns[a].clone().slerp(this.turns[b], share).invert();
    const view = eye.clone().sub(middle).normalize().applyQuaternion(turn);
    let best = -1;
    for (const direction of this.directions) best = Math.max(best, view.dot(direction));
    return THREE.MathUtils.radToDeg(Math.acos(THREE.MathUtils.clamp(best, -1, 1)));
  }

  static fade(angle) {
    const share = THREE.MathUtils.clamp((angle - SEEN) / (UNSEEN - SEEN), 0, 1);
    return share * share * (3 - 2 * share);
  }
}
