// Buttons, sliders and keys.
import { GUESS, SEEN } from "./cone.js";

const BACKGROUNDS = ["#14171c", "#000000", "#808080", "#ffffff"];
const HELD = 2500; // ms that is said why the view does not go on
const SPEEDS = [0.1, 0.25, 0.5, 1, 2];
const $ = (id) => document.getElementById(id);

function panels() {
  const all = [...document.querySelectorAll(".panel")];
  const close = () => {
    for (const panel of all) panel.hidden = true;
    for (const button of document.querySelectorAll("[data-panel]")) button.setAttribute("aria-expanded", "false");
  };
  const toggle = (id) => {
    const open = $(id).hidden;
    close();
    $(id).hidden = !open;
    document.querySelector(`[data-panel="${id}"]`)?.setAttribute("aria-expanded", String(open));
  };
  for (const button of document.querySelectorAll("[data-panel]")) {
    button.addEventListener("click", () => toggle(button.dataset.panel));
  }
  for (const button of document.querySelectorAll(".close")) button.addEventListener("click", close);
  return { close, toggle };
}

function fullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
}

// A name as files bear it everywhere: letters and digits of any script, the rest as single underscores.
export function fileName(text) {
  return text.normalize("NFC").replace(/[^\p{L}\p{N}.-]+/gu, "_").replace(/^[_.]+|[_.]+$/g, "") || "picture";
}

export async function savePicture(player) {
  const blob = await player.picture();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${fileName(player.header.name)}_frame_${String(Math.round(player.frame)).padStart(4, "0")}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function stepSpeed(player, by) {
  const at = SPEEDS.reduce((best, v, i) => (Math.abs(v - player.state.speed) < Math.abs(SPEEDS[best] - player.state.speed) ? i : best), 0);
  player.set({ speed: SPEEDS[Math.min(Math.max(at + by, 0), SPEEDS.length - 1)] });
}

export function actions(player, panel) {
  const flip = (key) => () => player.set({ [key]: !player.state[key] });
  return {
    play: () => { if (!player.single) player.set({ playing: !player.state.playing, canonical: false }); },
    loop: flip("loop"), trails: flip("trails"), cameras: () => {
      player.set({ cameras: !player.state.cameras, input: false });
      if (player.state.cameras) player.stage.overview();
    },
    canonical: flip("canonical"),
    input: flip("input"), follow: flip("follow"), hint: flip("hint"), fadeUnseen: flip("fadeUnseen"), limit: flip("limit"),
    home: () => player.stage.home(true),
    back: (n) => player.seekFrame(Math.ceil(player.frame) - n),
    forward: (n) => player.seekFrame(Math.floor(player.frame) + n),
    first: () => player.seekFrame(0), last: () => player.seekFrame(player.times.length - 1),
    slower: () => stepSpeed(player, -1), faster: () => stepSpeed(player, 1),
    background: () => {
      const next = (BACKGROUNDS.indexOf(player.state.background) + 1) % BACKGROUNDS.length;
      player.set({ background: BACKGROUNDS[next] });
    },
    fullscreen, picture: () => savePicture(player),
    hide: () => document.body.classList.toggle("bare"),
    help: () => panel.toggle("help"), settings: () => panel.toggle("settings"), info: () => panel.toggle("info"),
    close: () => panel.close(),
  };
}

const KEYS = {
  " ": "play", k: "play", l: "loop", t: "trails", v: "cameras", c: "canonical", i: "input", r: "home", o: "follow",
  "[": "slower", "]": "faster", b: "background", f: "fullscreen", s: "picture", u: "hide", "?": "help", h: "help",
  g: "info", e: "settings", Home: "first", End: "last", Escape: "close",
};

function keys(act) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event;
    const typing = target.matches?.("input[type=range], input[type=color], select");
    if (typing && key !== "Escape" && target.id !== "time") return;
    if (target.matches?.("button, summary, a") && (key === " " || key === "Enter")) return;
    if (key === "ArrowLeft") act.back(event.shiftKey ? 10 : 1);
    else if (key === "ArrowRight") act.forward(event.shiftKey ? 10 : 1);
    else {
      const name = KEYS[key.length === 1 ? key.toLowerCase() : key];
      if (!name) return;
      act[name]();
    }
    event.preventDefault();
  });
}

function press(id, on) {
  $(id).setAttribute("aria-pressed", String(on));
}

function showState(player) {
  const { state } = player;
  for (const name of ["loop", "trails", "cameras", "canonical", "input"]) press(name, state[name]);
  document.body.classList.toggle("playing", state.playing);
  $("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
  $("play").title = state.playing ? "Pause (Space)" : "Play (Space)";
  $("speed").value = String(SPEEDS.includes(state.speed) ? state.speed : 1);
  $("least").value = String(state.least);
  for (const name of ["follow", "hint", "fadeUnseen", "limit"]) $(name).checked = state[name];
  $("colour").value = state.background;
  for (const swatch of document.querySelectorAll(".swatch")) {
    swatch.setAttribute("aria-pressed", String(swatch.dataset.colour === state.background));
  }
  $("trailLength").value = String(player.trails.length);
  $("trailOut").textContent = `${player.trails.length} frames`;
  $("leastOut").textContent = state.least > 0 ? `below ${Math.round(100 * state.least)} %` : "off";
}

export function makeControls(player) {
  const panel = panels();
  const act = actions(player, panel);
  for (const name of ["play", "loop", "trails", "cameras", "canonical", "input", "home", "fullscreen", "picture"]) {
    $(name).addEventListener("click", () => act[name]());
  }
  for (const name of ["follow", "hint", "fadeUnseen", "limit"]) $(name).addEventListener("change", () => act[name]());
  const slider = $("time");
  slider.addEventListener("input", () => {
    player.seek(player.times[0] + Number(slider.value) * (player.times.at(-1) - player.times[0]));
    if (player.state.playing || player.state.canonical) player.set({ playing: false, canonical: false });
  });
  $("speed").addEventListener("change", () => player.set({ speed: Number($("speed").value) }));
  $("least").addEventListener("input", () => player.set({ least: Number($("least").value) }));
  $("colour").addEventListener("input", () => player.set({ background: $("colour").value }));
  $("trailLength").addEventListener("input", () => {
    player.trails.length = Number($("trailLength").value);
    player.set({ trails: true });
  });
  for (const swatch of document.querySelectorAll(".swatch")) {
    swatch.addEventListener("click", () => player.set({ background: swatch.dataset.colour }));
  }
  $("canvas").addEventListener("dblclick", () => act.home());
  $("canvas").addEventListener("pointerdown", () => panel.close());
  document.querySelector(".tools").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && !button.dataset.panel && window.innerWidth <= 640) panel.close(); // it would hide what changes
  });
  $("trailLength").max = String(Math.max(player.times.length - 1, 1));
  for (const node of document.querySelectorAll("[data-moving]")) node.toggleAttribute("disabled", player.single);
  if (!document.documentElement.requestFullscreen) $("fullscreen").hidden = true;
  $("limitRow").hidden = player.limit === null;
  $("limitOut").textContent = player.limit === null ? "" : `within ${Math.round(player.limit)}°`;
  $("least").disabled = !player.header.arrays.some(({ name }) => name === "confidence");
  keys(act);
  player.on(showState);
  return act;
}

// What changes from picture to picture.
export function showMoment(player) {
  const { header, state } = player;
  const time = Math.min(player.time, player.times.at(-1));
  const share = player.single ? 0 : (time - player.times[0]) / (player.times.at(-1) - player.times[0]);
  const slider = $("time");
  if (document.activeElement !== slider || state.playing) slider.value = String(share);
  slider.style.setProperty("--done", `${100 * share}%`);
  const frame = Math.round(player.frame);
  const text = state.canonical ? "canonical" : `${(share * player.seconds).toFixed(2)} s`;
  if ($("clock").textContent !== text) $("clock").textContent = text;
  const count = `frame ${frame} of 0–${header.times.length - 1}`; // as the files are numbered
  if ($("frame").textContent !== count) $("frame").textContent = count;
  slider.setAttribute("aria-valuetext", `${text}, ${count}`);
  const held = performance.now() < player.heldAt + HELD && state.hint;
  const away = player.angle > SEEN + 10 && !state.canonical && state.hint && !state.input;
  const notice = performance.now() < player.notice.until;
  const guess = `${Math.round(player.angle)}° from the nearest input camera: ${player.angle > GUESS ? "nearly all" : "partly"} a guess`;
  const stays = `Depth was estimated: the view stays within ${Math.round(player.limit)}° of the input's cameras (see settings)`;
  $("hint-text").textContent = notice ? player.notice.text : held ? stays : away ? guess : "";
  $("unseen").classList.toggle("shown", notice || held || away);
}

export function showSpeed(player) {
  const rate = player.pictures.length > 2 ? `${Math.round(player.fps)} fps` : "";
  $("rate").textContent = rate;
  $("rate").hidden = rate === ""; // nothing moves, so nothing is drawn
}
