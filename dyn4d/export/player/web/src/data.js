// Reads what the page holds: a JSON header and deflated arrays of integers (see ../planes.py for the format).

export class DataError extends Error {}

export function readHeader(id) {
  const node = document.getElementById(id);
  const header = JSON.parse(node.textContent);
  if (header.format !== "dyn4d-player/1") throw new DataError(`this page's data have the format ${header.format}`);
  return header;
}

export function bytesOfBase64(text) {
  if (typeof Uint8Array.fromBase64 === "function") return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// {name: {values: Int32Array, step, shape}}
export function readArrays(entries, payload) {
  const found = {};
  for (const { name, shape, planes, delta, step, offset } of entries) {
    const count = shape.reduce((a, b) => a * b, 1);
    if (offset + count * planes > payload.length) throw new DataError(`the data end before the array ${name} does`);
    const values = new Int32Array(count);
    for (let p = 0; p < planes; p++) {
      const plane = payload.subarray(offset + p * count, offset + (p + 1) * count);
      const shift = 8 * p;
      for (let i = 0; i < count; i++) values[i] |= plane[i] << shift;
    }
    for (let i = 0; i < count; i++) values[i] = (values[i] >>> 1) ^ -(values[i] & 1);
    if (delta && shape[0] > 1) {
      const row = count / shape[0];
      for (let i = row; i < count; i++) values[i] += values[i - row];
    }
    found[name] = { values, step, shape };
  }
  return found;
}
