// What the address says after #, so that a view can be linked to and pictures can be taken by a program:
// t (0 to 1) or frame, camera=input|free, right and above (degrees), ui=0, play=1, trails, cameras, canonical,
// bg (hex), confidence, fade, limit, sharp (pixels of the canvas per CSS pixel), speed. What is not named stays as it is; what
// cannot be understood is left out and listed in `unknown`.

const SWITCHES = ["trails", "cameras", "canonical", "loop", "follow", "hint", "play", "fade", "limit", "ui"];
const NUMBERS = ["confidence", "sharp", "speed", "t", "frame", "right", "above"];

const number = (text) => (text !== null && text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : null);

function understood(key, value) {
  if (SWITCHES.includes(key)) return ["0", "1", ""].includes(value);
  if (NUMBERS.includes(key)) return number(value) !== null;
  if (key === "camera") return value === "input" || value === "free";
  return key === "bg" && /^[0-9a-f]{6}$/i.test(value);
}

export function readAddress(hash) {
  const said = [...new URLSearchParams(hash.replace(/^#/, ""))];
  const words = new URLSearchParams(said.filter(([key, value]) => understood(key, value)));
  const found = { state: {} };
  for (const key of ["trails", "cameras", "canonical", "loop", "follow", "hint", "limit"]) {
    if (words.has(key)) found.state[key] = words.get(key) !== "0";
  }
  if (words.has("play")) found.state.playing = words.get("play") !== "0";
  if (words.has("fade")) found.state.fadeUnseen = words.get("fade") !== "0";
  if (words.has("camera")) found.state.input = words.get("camera") === "input";
  if (words.has("bg")) found.state.background = `#${words.get("bg")}`;
  for (const [key, name, low, high] of [
    ["confidence", "least", 0, 1], ["sharp", "sharp", 0.1, 4], ["speed", "speed", 0.05, 8],
  ]) {
    const value = number(words.get(key));
    if (value !== null) found.state[name] = Math.min(Math.max(value, low), high);
  }
  found.unknown = said.filter(([key, value]) => !understood(key, value)).map(([key, value]) => `${key}=${value}`);
  found.ui = words.has("ui") ? words.get("ui") !== "0" : null;
  found.t = number(words.get("t"));
  found.frame = number(words.get("frame"));
  found.right = number(words.get("right"));
  found.above = number(words.get("above"));
  return found;
}

export function applyAddress(player, words) {
  const { times } = player;
  const unknown = [...words.unknown];
  if (words.frame !== null && (words.frame < 0 || words.frame > times.length - 1)) {
    unknown.push(`frame=${words.frame} (frames are 0 to ${times.length - 1})`);
  }
  if (words.frame !== null) player.seek(times[Math.min(Math.max(Math.round(words.frame), 0), times.length - 1)]);
  else if (words.t !== null) player.seek(times[0] + words.t * (times.at(-1) - times[0]));
  player.set(words.state);
  if (words.right !== null || words.above !== null) player.stage.turn(words.right ?? 0, words.above ?? 0);
  else if (words.state.input === false) player.stage.home(false);
  if (words.state.canonical) player.canonical = 1;
  if (unknown.length) player.say(`After # the address has what is not known here: ${unknown.join(", ")}`);
  if (words.ui !== null) document.body.classList.toggle("bare", !words.ui);
}
