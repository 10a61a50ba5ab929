// Bundles and minifies the player's script: npm ci && npm run build. Writes ../player.js and ../LICENSES.txt.
// `npm run check` builds in memory and says whether the committed script is the same.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";

const LIBRARIES = [
  ["three.js", "three", "node_modules/three/LICENSE"],
  ["Spark", "@sparkjsdev/spark", "node_modules/@sparkjsdev/spark/LICENSE"],
  ["fflate", "fflate", "node_modules/fflate/LICENSE"],
];

// Nothing in the page may look like an address: namespaces and links in messages are spelt with an escape.
const withoutAddresses = (text) => text.replace(/(https?):\/\//g, "$1:\\x2f/");

// A mark of what the script was built from; a test of dyn4d compares it, so that a stale script is noticed without Node.
async function sources() {
  const hash = createHash("sha256");
  const names = (await readdir("src")).sort().map((name) => `src/${name}`);
  for (const name of [...names, "build.mjs", "package.json", "package-lock.json"]) {
    hash.update(`${name}\n`).update((await readFile(name, "utf8")).replaceAll("\r\n", "\n"));
  }
  return hash.digest("hex");
}

async function script() {
  const { outputFiles } = await build({
    entryPoints: ["src/main.js"],
    bundle: true,
    minify: true,
    write: false,
    format: "iife",
    target: ["es2022"],
    legalComments: "none",
    define: { "import.meta.url": "''" },
    logLevel: "warning",
  });
  const text = withoutAddresses(outputFiles[0].text);
  if (/<\/script/i.test(text)) throw new Error("the script holds </script, which would end it in a page");
  return `/* sources ${await sources()} */\n${text}`;
}

async function licences() {
  const parts = ["The player page holds these libraries, bundled and minified, besides dyn4d's own script.\n"];
  for (const [name, folder, file] of LIBRARIES) {
    const { version } = JSON.parse(await readFile(`node_modules/${folder}/package.json`, "utf8"));
    parts.push(`${"=".repeat(100)}\n${name} ${version}\n${"=".repeat(100)}\n\n${(await readFile(file, "utf8")).trim()}\n`);
  }
  return parts.join("\n");
}

const made = { "../player.js": await script(), "../LICENSES.txt": await licences() };
for (const [path, text] of Object.entries(made)) {
  if (process.argv.includes("--check")) {
    if ((await readFile(path, "utf8")) !== text) throw new Error(`${path} is not what this recipe builds; run npm run build`);
  } else {
    await writeFile(path, text);
  }
}
