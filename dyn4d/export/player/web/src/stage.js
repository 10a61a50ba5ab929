// Canvas, renderer, and the two ways to look: round the object, or along the input's cameras.
import { SparkRenderer } from "@sparkjsdev/spark";
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { drawInBatches } from "./batches.js";
import { InputCameras } from "./cameras.js";

const DILATION = 0.3; // pixels²: what the renderer of the fit adds to each Gaussian's footprint
const REACH = 3.33; // standard deviations: beyond it an opaque Gaussian adds less than 1/255
const OVERVIEW = 0.8; // share of the picture that cameras may take
const EASE = 450; // ms a change of view takes

export class Stage {
  constructor(canvas, header, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.cameras = new InputCameras(header);
    this.centres = header.centres.map((c) => new THREE.Vector3(...c.map((v, i) => (v - header.centre[i]) / header.unit)));
    this.radius = header.radius / header.unit;
    this.times = header.times;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: false, powerPreference: "high-performance" });
    this.scene = new THREE.Scene();
    this.spark = new SparkRenderer({
      renderer: this.renderer, accumExtSplats: true, covSplats: true, enableLod: false, sortRadial: false,
      maxStdDev: REACH, minAlpha: 1 / 255, maxPixelRadius: 2048, preBlurAmount: DILATION, blurAmount: 0,
      onDirty: onChange,
    });
    drawInBatches(this.spark);
    this.scene.add(this.spark);
    this.near = 0.002 * this.radius;
    this.far = 400 * this.radius;
    const [, fy] = this.cameras.frames[0].K;
    const fov = THREE.MathUtils.radToDeg(2 * Math.atan(this.cameras.height / 2 / fy));
    this.homeFov = THREE.MathUtils.clamp(fov, 18, 65);
    this.camera = new THREE.PerspectiveCamera(this.homeFov, 1, this.near, this.far);
    this.camera.up.set(...header.up);
    this.controls = new OrbitControls(this.camera, canvas);
    Object.assign(this.controls, {
      enableDamping: true, dampingFactor: 0.12, rotateSpeed: 0.9, zoomSpeed: 1.1, screenSpacePanning: true,
      minDistance: 0.15 * this.radius, maxDistance: 30 * this.radius, zoomToCursor: false,
    });
    this.controls.addEventListener("change", () => onChange());
    this.controls.addEventListener("start", () => {
      this.tween = null;
      if (this.input) this.leaveInput();
    });
    this.input = false;
    this.follow = true;
    this.time = 0;
    this.onLeave = () => {};
    this.home(false);
  }

  // Where the object's middle is at a time.
  middle(time) {
    const [a, b, share] = this.cameras.between(time);
    return this.centres[a].clone().lerp(this.centres[b], share);
  }

  distanceFor(fov, aspect, radius = this.radius) {
    const vertical = THREE.MathUtils.degToRad(fov) / 2;
    const half = Math.min(vertical, Math.atan(Math.tan(vertical) * aspect));
    return (1.05 * radius) / Math.sin(half);
  }

  // The view to start from: the side of the present input camera, the whole object in the picture.
  home(eased = true) {
    this.setInput(false);
    const target = this.middle(this.time);
    const from = this.cameras.at(this.time).position.sub(target);
    if (from.length() < 1e-6) from.set(0, 0, 1);
    const aspect = this.canvas.clientWidth / Math.max(this.canvas.clientHeight, 1) || 1;
    const position = target.clone().add(from.setLength(this.distanceFor(this.homeFov, aspect)));
    this.moveTo(position, target, this.homeFov, eased);
  }

  // A view in which the input's cameras are seen too, from above and beside what is looked at.
  overview(eased = true) {
    const target = this.middle(this.time);
    const arm = this.camera.position.clone().sub(target);
    const { up } = this.camera;
    arm.applyAxisAngle(up, 0.6);
    const height = arm.dot(up) / Math.max(arm.length(), 1e-6);
    if (height < 0.4) arm.addScaledVector(up, (0.45 - height) * arm.length());
    const aspect = this.width / this.height;
    const ahead = arm.clone().normalize();
    const across = new THREE.Vector3().crossVectors(up, ahead).normalize();
    const over = new THREE.Vector3().crossVectors(ahead, across);
    const slope = OVERVIEW * Math.tan(THREE.MathUtils.degToRad(this.homeFov) / 2);
    let distance = this.distanceFor(this.homeFov, aspect);
    for (const { position } of this.cameras.frames) {
      const at = position.clone().sub(target);
      const aside = Math.max(Math.abs(at.dot(across)) / aspect, Math.abs(at.dot(over)));
      distance = Math.max(distance, at.dot(ahead) + aside / slope, at.dot(ahead) + this.radius);
    }
    this.controls.maxDistance = Math.max(this.controls.maxDistance, 1.5 * distance);
    this.moveTo(target.clone().add(arm.setLength(distance)), target, this.homeFov, eased);
  }

  // Degrees right of and above the present input camera, as seen from the object.
  turn(right, above) {
    this.home(false);
    const arm = this.camera.position.clone().sub(this.controls.target);
    const { up } = this.camera;
    const across = new THREE.Vector3().crossVectors(up, arm).normalize();
    arm.applyAxisAngle(across, THREE.MathUtils.degToRad(-above));
    arm.applyAxisAngle(up, THREE.MathUtils.degToRad(right));
    this.moveTo(this.controls.target.clone().add(arm), this.controls.target.clone(), this.homeFov, false);
  }

  moveTo(position, target, fov, eased) {
    if (eased) {
      const { camera, controls } = this;
      this.tween = {
        start: performance.now(),
        from: { arm: camera.position.clone().sub(controls.target), target: controls.target.clone(), fov: camera.fov },
        to: { arm: position.clone().sub(target), target: target.clone(), fov },
      };
    } else {
      this.tween = null;
      this.camera.position.copy(position);
      this.controls.target.copy(target);
      this.setFov(fov);
      this.controls.update();
    }
    this.onChange();
  }

  setFov(fov) {
    this.camera.fov = fov;
    this.camera.updateProjectionMatrix();
  }

  setInput(on) {
    if (this.input === on) return;
    this.input = on;
    this.controls.enableDamping = !on;
    if (!on) this.camera.updateProjectionMatrix();
    this.onLeave(on);
    this.onChange();
  }

  // From the input's camera to free looking, without a jump.
  leaveInput() {
    const { camera, controls } = this;
    const ahead = new THREE.Vector3(0, 0, -1).applyQuaternion(camera.quaternion);
    const depth = Math.max(ahead.dot(this.middle(this.time).sub(camera.position)), 0.3 * this.radius);
    controls.target.copy(camera.position).addScaledVector(ahead, depth);
    const scale = Math.min(this.width / this.cameras.width, this.height / this.cameras.height);
    const fy = this.cameras.at(this.time).K[1] * scale;
    this.setInput(false);
    this.setFov(THREE.MathUtils.radToDeg(2 * Math.atan(this.height / 2 / fy)));
    controls.update();
  }

  // Look from another place at what is looked at.
  hold(eye) {
    this.camera.position.copy(eye);
    this.camera.lookAt(this.controls.target);
    this.camera.updateMatrixWorld();
    this.onChange();
  }

  setTime(time) {
    if (this.follow && !this.input) {
      const shift = this.middle(time).sub(this.middle(this.time));
      this.camera.position.add(shift);
      this.controls.target.add(shift);
      if (this.tween) this.tween.to.target.add(shift);
    }
    this.time = time;
  }

  resize(ratio) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.width = Math.max(width, 1);
    this.height = Math.max(height, 1);
    this.renderer.setPixelRatio(ratio);
    this.renderer.setSize(this.width, this.height, false);
    this.camera.aspect = this.width / this.height;
    if (!this.input) this.camera.updateProjectionMatrix();
    this.onChange();
  }

  setBackground(colour) {
    this.renderer.setClearColor(new THREE.Color(colour), 1);
    this.onChange();
  }

  #ease(now) {
    const { tween, camera, controls } = this;
    const share = Math.min((now - tween.start) / EASE, 1);
    const smooth = share * share * (3 - 2 * share);
    const length = THREE.MathUtils.lerp(tween.from.arm.length(), tween.to.arm.length(), smooth);
    const arm = tween.from.arm.clone().lerp(tween.to.arm, smooth);
    if (arm.length() < 1e-3 * length) arm.copy(tween.to.arm);
    controls.target.lerpVectors(tween.from.target, tween.to.target, smooth);
    camera.position.copy(controls.target).add(arm.setLength(length));
    this.setFov(THREE.MathUtils.lerp(tween.from.fov, tween.to.fov, smooth));
    if (share === 1) this.tween = null;
    this.onChange();
  }

  // Before each picture: bring the camera to where it should be.
  update(now) {
    const { camera } = this;
    if (this.input) {
      const { K, position, quaternion } = this.cameras.at(this.time);
      camera.position.copy(position);
      camera.quaternion.copy(quaternion);
      this.focal = this.cameras.project(K, this.width, this.height, this.near, this.far, camera.projectionMatrix);
      camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
      camera.updateMatrixWorld();
    } else {
      if (this.tween) this.#ease(now);
      this.controls.update();
      this.focal = (this.height / 2) * camera.projectionMatrix.elements[5];
    }
    this.#soften();
  }

  // The fit saw each Gaussian widened by 0.3 px of the clip. The same width at the object's distance is kept whatever
  // the zoom; what is missing to 0.3 px of the screen is added with less opacity, so that nothing flickers.
  #soften() {
    const own = this.cameras.at(this.time);
    const middle = this.middle(this.time);
    const ratio = this.renderer.getPixelRatio();
    const here = (this.focal * ratio) / Math.max(this.camera.position.distanceTo(middle), 1e-3);
    const there = own.K[1] / Math.max(own.position.distanceTo(middle), 1e-3);
    const widened = DILATION * (here / there) ** 2;
    this.spark.preBlurAmount = widened;
    this.spark.blurAmount = Math.max(DILATION - widened, 0);
  }

  draw() {
    this.renderer.render(this.scene, this.camera);
  }

  get settled() {
    return !this.spark.sorting && !this.spark.sortDirty;
  }
}
