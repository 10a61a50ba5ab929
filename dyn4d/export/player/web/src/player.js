// The state of the page and what happens each frame. The interface (`controls.js`) only reads and sets it.
import { Stage } from "./stage.js";
import { Frustums } from "./frustums.js";
import { MovingSplats } from "./splats.js";
import { Trails } from "./trails.js";
import { ViewCone } from "./cone.js";

const NOTICE = 12000; // ms that a line for the viewer stays
const MORPH = 600; // ms between a time and canonical space
const SLOW = 24; // pictures a second below which the resolution goes down
const LEAST = 0.5; // share of the resolution that stays
const DEFAULTS = {
  playing: false, loop: true, speed: 1, trails: false, cameras: false, canonical: false, input: false,
  follow: true, least: 0, hint: true, fadeUnseen: false, limit: true, background: "#14171c", sharp: 0,
};

export class Player {
  constructor(canvas, header, arrays, motion) {
    this.header = header;
    this.motion = motion;
    this.state = { ...DEFAULTS };
    this.listeners = [];
    this.seconds = header.seconds;
    this.times = header.times;
    this.time = header.times[0];
    this.dirty = true;
    this.stage = new Stage(canvas, header, () => { this.dirty = true; });
    this.splats = new MovingSplats(header, arrays, motion);
    this.trails = new Trails(header, motion);
    this.cone = new ViewCone(header, this.stage.cameras, this.stage.centres);
    this.frustums = new Frustums(this.stage.cameras, this.stage.radius);
    this.stage.scene.add(this.splats, this.trails, this.frustums);
    this.stage.onLeave = (on) => { if (this.state.input !== on) this.set({ input: on }); };
    this.canonical = 0; // share of canonical space that is shown
    this.angle = 0;
    this.limit = header.view_limit; // degrees; null where any side may be looked at
    this.heldAt = Number.NEGATIVE_INFINITY; // when the view last met it
    this.notice = { text: "", until: 0 };
    this.quality = 1;
    this.fps = 0;
    this.pictures = []; // when the last ones were drawn
    this.drawn = 0;
    this.shown = { time: Number.NaN, canonical: -1 };
    this.set(this.state);
  }

  on(listener) {
    this.listeners.push(listener);
    listener(this);
  }

  // Change some of the state; unknown keys are ignored.
  set(change) {
    for (const key of Object.keys(change)) if (key in DEFAULTS) this.state[key] = change[key];
    const { state, stage } = this;
    if (change.playing && !state.loop && this.time >= this.times.at(-1)) this.seek(this.times[0]);
    if ("background" in change) stage.setBackground(state.background);
    if ("follow" in change) stage.follow = state.follow;
    if ("input" in change) stage.setInput(state.input);
    if ("sharp" in change) this.resize();
    this.trails.visible = state.trails;
    this.frustums.visible = state.cameras && !state.input;
    this.touch();
  }

  // A line for the viewer, shown for some seconds.
  say(text) {
    console.warn(text);
    this.notice = { text, until: performance.now() + NOTICE };
  }

  touch() {
    this.shown.time = Number.NaN;
    this.dirty = true;
    for (const listener of this.listeners) listener(this);
  }

  get single() { return this.times.length < 2; }

  seek(time) {
    this.time = Math.min(Math.max(time, this.times[0]), this.times.at(-1));
    this.stage.setTime(this.time);
    this.dirty = true;
  }

  // The number of the frame at this time, with its fraction.
  get frame() {
    const [a, , share] = this.stage.cameras.between(this.time);
    return a + share;
  }

  seekFrame(index) {
    this.seek(this.times[Math.min(Math.max(Math.round(index), 0), this.times.length - 1)]);
    this.set({ playing: false });
  }

  // Pixels for each of the page, those of the screen.
  get resolution() { return Math.min(window.devicePixelRatio || 1, 2); }

  resize() {
    this.stage.resize(this.state.sharp || this.resolution * this.quality);
  }

  #advance(elapsed) {
    const { state, seconds, times } = this;
    if (!state.playing || this.single || state.canonical) return;
    const [first, last] = [times[0], times.at(-1)];
    let time = this.time + ((elapsed / 1000) * state.speed * (last - first)) / seconds;
    if (time > last) {
      // one frame's pause, so that the jump back is seen as one
      const pause = (last - first) / (times.length - 1);
      if (state.loop) time = time > last + pause ? first : time;
      else { this.seek(last); this.set({ playing: false }); return; }
    }
    this.run = time;
    this.seek(time);
    this.time = this.run > last ? this.run : this.time;
  }

  #morph(elapsed) {
    const goal = this.state.canonical ? 1 : 0;
    if (this.canonical === goal) return;
    const step = elapsed / MORPH;
    this.canonical = goal > this.canonical ? Math.min(goal, this.canonical + step) : Math.max(goal, this.canonical - step);
    this.dirty = true;
  }

  // Frame rate while something moves, and less resolution where it stays low.
  #count(now, drawn) {
    if (!drawn) { this.pictures = []; return; }
    this.pictures.push(now);
    while (this.pictures.length > 1 && now - this.pictures[0] > 1000) this.pictures.shift();
    const span = now - this.pictures[0];
    if (span > 400) this.fps = ((this.pictures.length - 1) * 1000) / span;
    if (span > 900 && this.state.sharp === 0 && this.fps < SLOW && this.quality > LEAST) {
      this.quality = Math.max(LEAST, this.quality * 0.8);
      this.pictures = [];
      this.resize();
    }
  }

  step(now) {
    const elapsed = Math.min(now - (this.last ?? now), 250);
    this.last = now;
    this.#advance(elapsed);
    this.#morph(elapsed);
    const { stage, state, shown } = this;
    stage.update(now);
    const time = Math.min(this.time, this.times.at(-1));
    const eye = stage.camera.position;
    const middle = stage.middle(time);
    if (this.limit !== null && state.limit && !state.input && this.canonical < 0.5) this.#hold(eye, middle, time, now);
    this.angle = this.cone.angle(eye, middle, time);
    if (shown.time !== time || shown.canonical !== this.canonical) {
      const smooth = this.canonical ** 2 * (3 - 2 * this.canonical);
      this.splats.show(time, smooth);
      Object.assign(shown, { time, canonical: this.canonical });
      this.dirty = true;
    }
    this.splats.setFade(state.least, state.fadeUnseen && this.canonical < 0.5 ? ViewCone.fade(this.angle) : 0);
    const drawn = this.dirty;
    if (drawn) {
      this.dirty = false;
      if (state.trails) this.trails.show(time, this.frame, eye, 1 / stage.focal, this.canonical);
      if (state.cameras) this.frustums.show(time, eye, middle);
      stage.draw();
      this.drawn++;
    }
    this.#count(now, drawn);
    this.still = drawn || !stage.settled ? 0 : (this.still ?? 0) + 1;
  }

  // Resolves once the picture that was asked for is sorted and drawn.
  settled() {
    this.still = 0;
    return new Promise((resolve) => {
      const look = () => (this.still > 3 && this.canonical === (this.state.canonical ? 1 : 0) && !this.stage.tween
        ? resolve() : requestAnimationFrame(look));
      look();
    });
  }

  // Keep the view where the estimated depth can be trusted.
  #hold(eye, middle, time, now) {
    const better = this.cone.held(eye, middle, time, this.limit);
    if (better === null) return;
    if (better.distanceTo(eye) > 1e-3 * eye.distanceTo(middle)) this.heldAt = now;
    this.stage.hold(better);
  }

  // A PNG in the screen's own resolution, also where slow drawing has lowered that of the page.
  picture() {
    const { stage } = this;
    const lowered = this.quality < 1 && this.state.sharp === 0;
    if (lowered) stage.resize(this.resolution);
    stage.update(performance.now()); // what depends on the size of a pixel
    stage.draw();
    const picture = new Promise((resolve) => stage.canvas.toBlob(resolve, "image/png")); // copied by now, packed later
    if (lowered) this.resize();
    return picture;
  }
}
