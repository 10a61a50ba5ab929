// Spark draws one instance a splat, four corners each. Drivers handle instances that small badly (the software renderer
// of Chromium takes 50 microseconds for each), so many splats go into one instance here.
import * as THREE from "three";

const BATCH = 128;

export function drawInBatches(spark) {
  const { material } = spark;
  if (!material.vertexShader.includes("gl_InstanceID")) throw new Error("this version of Spark draws in another way");
  const counted = { value: 0 };
  material.uniforms.splatCount = counted;
  material.vertexShader = material.vertexShader
    .replaceAll("gl_InstanceID", "splatSlot")
    .replace("void main() {", `uniform int splatCount;
      void main() {
        int splatSlot = gl_InstanceID * ${BATCH} + (gl_VertexID >> 2);
        if (splatSlot >= splatCount) { gl_Position = vec4(0.0, 0.0, 2.0, 1.0); return; }`);
  material.needsUpdate = true;
  const corners = new Float32Array(12 * BATCH);
  const index = new Uint16Array(6 * BATCH);
  for (let i = 0; i < BATCH; i++) {
    corners.set([-1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 1, 0], 12 * i);
    index.set([0, 1, 2, 0, 2, 3].map((corner) => 4 * i + corner), 6 * i);
  }
  const geometry = new THREE.InstancedBufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(corners, 3));
  geometry.setIndex(new THREE.BufferAttribute(index, 1));
  // Spark sets the number of splats here before each picture
  Object.defineProperty(geometry, "instanceCount", {
    get: () => Math.ceil(counted.value / BATCH),
    set: (count) => { counted.value = Number.isFinite(count) ? count : 0; },
  });
  spark.geometry.dispose();
  spark.geometry = geometry;
}
