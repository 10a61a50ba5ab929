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

  // How the object is turned at a time.
  #turn(time) {
    const [a, b, share] = this.cameras.between(time);
    return this.turns[a].clone().slerp(this.turns[b], share);
  }

  // The view from `eye` on an object at `middle`, in the object's frame, and the nearest input camera's.
  #views(eye, middle, time) {
    const view = eye.clone().sub(middle).normalize().applyQuaternion(this.#turn(time).invert());
    let [best, nearest] = [-2, view];
    for (const direction of this.directions) {
      const likeness = view.dot(direction);
      if (likeness > best) [best, nearest] = [likeness, direction];
    }
    return { view, nearest, angle: Math.acos(THREE.MathUtils.clamp(best, -1, 1)) };
  }

  // Degrees between the view from `eye` on an object at `middle` and the nearest input camera's.
  angle(eye, middle, time) {
    return THREE.MathUtils.radToDeg(this.#views(eye, middle, time).angle);
  }

  // Where an eye that is more than `limit` degrees away has to go, round the middle; null for one that is not.
  held(eye, middle, time, limit) {
    const { view, nearest, angle } = this.#views(eye, middle, time);
    const most = THREE.MathUtils.degToRad(limit);
    if (angle <= most + 1e-4) return null;
    const axis = new THREE.Vector3().crossVectors(nearest, view);
    if (axis.lengthSq() < 1e-12) axis.crossVectors(nearest, new THREE.Vector3(0.6, -0.64, 0.48)); // from right behind
    const direction = nearest.clone().applyAxisAngle(axis.normalize(), most).applyQuaternion(this.#turn(time));
    return middle.clone().addScaledVector(direction, eye.distanceTo(middle));
  }

  static fade(angle) {
    const share = THREE.MathUtils.clamp((angle - SEEN) / (UNSEEN - SEEN), 0, 1);
    return share * share * (3 - 2 * share);
  }
}
