// Starts the page: unpack, build, run; or say what is missing.
import { applyAddress, readAddress } from "./address.js";
import { makeControls, showMoment, showSpeed } from "./controls.js";
import { bytesOfBase64, inflate, readArrays, readHeader } from "./data.js";
import { Motion } from "./motion.js";
import { Player } from "./player.js";

function fail(text) {
  document.body.classList.add("failed");
  document.getElementById("message").textContent = text;
  document.documentElement.dataset.state = "failed";
}

function webgl2() {
  try {
    const context = document.createElement("canvas").getContext("webgl2");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return context !== null;
  } catch {
    return false;
  }
}

async function start() {
  if (!webgl2()) {
    fail("This page draws with WebGL 2, which this browser does not offer. Switch on hardware acceleration in its settings, or open the page in a current Chrome, Edge, Firefox or Safari.");
    return;
  }
  const header = readHeader("header");
  const data = document.getElementById("data");
  const payload = await inflate(bytesOfBase64(data.textContent));
  data.remove();
  const arrays = readArrays(header.arrays, payload);
  const motion = new Motion(header, arrays);
  const canvas = document.getElementById("canvas");
  const player = new Player(canvas, header, arrays, motion);
  player.resize();
  window.addEventListener("resize", () => player.resize());
  canvas.addEventListener("webglcontextlost", () => fail("The graphics driver was reset. Reload the page."));
  document.getElementById("count").textContent = `${header.gaussians.toLocaleString("en")} Gaussians`;
  const words = readAddress(location.hash);
  const free = ["play", "t", "frame"].every((key) => !location.hash.includes(`${key}=`));
  applyAddress(player, words);
  const named = words.state.input !== undefined || words.right !== null || words.above !== null;
  if (words.state.cameras && !named) player.stage.overview(false); // else they may all be behind the viewer
  makeControls(player);
  window.addEventListener("hashchange", () => applyAddress(player, readAddress(location.hash)));
  let second = 0;
  const frame = (now) => {
    player.step(now);
    showMoment(player);
    if (now - second > 300) { second = now; showSpeed(player); }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  await player.settled();
  document.body.classList.add("ready");
  const still = window.matchMedia?.("(prefers-reduced-motion: reduce)").matches;
  if (free && !still && !player.single) player.set({ playing: true });
  window.dyn4d = player; // for programs that drive the page
  document.documentElement.dataset.loadMs = String(Math.round(performance.now()));
  document.documentElement.dataset.state = "ready";
}

start().catch((error) => {
  console.error(error);
  fail(`This page cannot be shown: ${error.message ?? error}`);
});
