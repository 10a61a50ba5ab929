// Arrays as textures that shaders read texel by texel.
import * as THREE from "three";

const WIDTH = 4096;

function make(array, width, height, format, type, internal) {
  const texture = new THREE.DataTexture(array, width, height, format, type);
  texture.internalFormat = internal;
  texture.minFilter = texture.magFilter = THREE.NearestFilter;
  texture.generateMipmaps = false;
  texture.unpackAlignment = 1;
  texture.needsUpdate = true;
  return texture;
}

const rowsFor = (texels) => Math.max(1, Math.ceil(texels / WIDTH));

// `fill(array)` writes four numbers a texel; texel i lies at (i % 4096, i / 4096).
export function floatList(texels, fill) {
  const array = new Float32Array(4 * WIDTH * rowsFor(texels));
  fill(array);
  return make(array, WIDTH, rowsFor(texels), THREE.RGBAFormat, THREE.FloatType, "RGBA32F");
}

export function shortList(texels, fill) {
  const array = new Int16Array(4 * WIDTH * rowsFor(texels));
  fill(array);
  return make(array, WIDTH, rowsFor(texels), THREE.RGBAIntegerFormat, THREE.ShortType, "RGBA16I");
}

export function byteList(texels, fill) {
  const array = new Int8Array(4 * WIDTH * rowsFor(texels));
  fill(array);
  return make(array, WIDTH, rowsFor(texels), THREE.RGBAIntegerFormat, THREE.ByteType, "RGBA8I");
}

// A small table that changes; write into `array` and set needsUpdate.
export function floatTable(array, width, height) {
  return make(array, width, height, THREE.RGBAFormat, THREE.FloatType, "RGBA32F");
}

export const FETCH = `
  vec4 listTexel(sampler2D list, int i) { return texelFetch(list, ivec2(i & 4095, i >> 12), 0); }
  ivec4 listTexel(highp isampler2D list, int i) { return texelFetch(list, ivec2(i & 4095, i >> 12), 0); }
`;
