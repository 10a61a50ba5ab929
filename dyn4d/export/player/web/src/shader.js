// The GLSL that makes one Gaussian of one time out of the stored arrays.

export const HARMONICS = `
  // Real spherical harmonics of bands 1 to 3 with the signs of 3DGS files (Sloan, JCGT 2013); c holds rgb by coefficient.
  vec3 harmonics(int degree, vec3 d, vec3 c[15]) {
    float x = d.x, y = d.y, z = d.z;
    vec3 sum = 0.4886025119029199 * (-y * c[0] + z * c[1] - x * c[2]);
    if (degree < 2) return sum;
    float c1 = x * x - y * y, s1 = 2.0 * x * y, b = -1.0925484305920792 * z;
    sum += 0.5462742152960396 * s1 * c[3] + b * y * c[4] + (0.9461746957575601 * z * z - 0.31539156525252005) * c[5]
      + b * x * c[6] + 0.5462742152960396 * c1 * c[7];
    if (degree < 3) return sum;
    float c2 = x * c1 - y * s1, s2 = x * s1 + y * c1;
    float q = -2.285228997322329 * z * z + 0.4570457994644658, r = 1.445305721320277 * z, a = -0.5900435899266435;
    return sum + a * s2 * c[8] + r * s1 * c[9] + q * y * c[10]
      + z * (1.865881662950577 * z * z - 1.119528997770346) * c[11] + q * x * c[12] + r * c1 * c[13] + a * c2 * c[14];
  }

  // The rotation nearest to a matrix of positive determinant (Newton's iteration for the polar factor; Higham, 1986).
  mat3 nearestRotation(mat3 m) {
    for (int i = 0; i < 5; i++) m = 0.5 * (m + transpose(inverse(m)));
    return m;
  }
`;

// Names of the inputs are filled in by `splats.js`.
export function statements(n, out, { motion, degree }) {
  const { components, groups, rows } = motion;
  const lines = `
    vec4 s0 = listTexel(${n.fixed}, 3 * ${n.index});
    vec4 s1 = listTexel(${n.fixed}, 3 * ${n.index} + 1);
    vec4 s2 = listTexel(${n.fixed}, 3 * ${n.index} + 2);
    int group = int(s2.w + 0.5);
    int single = group - ${groups}; // of those that have a motion of their own
    ivec2 first = single < 0 ? ivec2(0, group) : ivec2(3 * (single % ${rows}), ${groups} + single / ${rows});
    vec4 rx = texelFetch(${n.basis}, first, 0);
    vec4 ry = texelFetch(${n.basis}, first + ivec2(1, 0), 0);
    vec4 rz = texelFetch(${n.basis}, first + ivec2(2, 0), 0);
    for (int k = 0; k < (single < 0 ? ${components / 4} : 0); k++) {
      vec4 share = vec4(listTexel(${n.coefficients}, ${n.index} * ${components / 4} + k));
      for (int j = 0; j < 4; j++) {
        int column = 3 * (4 * k + j + 1);
        rx += share[j] * texelFetch(${n.basis}, ivec2(column, group), 0);
        ry += share[j] * texelFetch(${n.basis}, ivec2(column + 1, group), 0);
        rz += share[j] * texelFetch(${n.basis}, ivec2(column + 2, group), 0);
      }
    }
    vec3 centre = vec3(rx.w, ry.w, rz.w);
    mat3 jacobian = transpose(mat3(rx.xyz, ry.xyz, rz.xyz));
    mat3 still = mat3(s0.x, s0.w, s1.x, s0.w, s0.y, s1.y, s1.x, s1.y, s0.z);
    mat3 cov = jacobian * still * transpose(jacobian);
    // Spark keeps covariances as half floats: a very flat one must not turn negative
    float floor_ = 4e-4 * (cov[0][0] + cov[1][1] + cov[2][2]) + 1e-7;
    vec3 rgb = s2.rgb;
    ${degree > 0 ? harmonicLines(n, degree) : ""}
    float known = clamp(s1.w, 0.0, 1.0);
    float shown = ${n.fade}.x <= 0.0 ? 1.0 : smoothstep(${n.fade}.x - 0.15, ${n.fade}.x + 0.15, known);
    float grey = dot(rgb, vec3(0.299, 0.587, 0.114));
    rgb = mix(rgb, vec3(grey), 0.75 * ${n.fade}.y);
    ${out}.flags = GSPLAT_FLAG_ACTIVE;
    ${out}.index = ${n.index};
    ${out}.center = centre;
    ${out}.rgba = vec4(max(rgb, 0.0), min(s1.z, 1.0) * shown * (1.0 - 0.65 * ${n.fade}.y));
    ${out}.xxyyzz = vec3(cov[0][0], cov[1][1], cov[2][2]) + floor_;
    ${out}.xyxzyz = vec3(cov[0][1], cov[0][2], cov[1][2]);`;
  return lines.split("\n").filter((line) => line.trim());
}

function harmonicLines(n, degree) {
  const count = (degree + 1) ** 2 - 1;
  const texels = Math.ceil((3 * count) / 4);
  return `
    vec3 bands[15];
    float raw[${4 * texels}];
    for (int i = 0; i < ${texels}; i++) {
      vec4 four = vec4(listTexel(${n.harmonics}, ${n.index} * ${texels} + i));
      raw[4 * i] = four.x; raw[4 * i + 1] = four.y; raw[4 * i + 2] = four.z; raw[4 * i + 3] = four.w;
    }
    for (int i = 0; i < ${count}; i++) bands[i] = vec3(raw[3 * i], raw[3 * i + 1], raw[3 * i + 2]) * ${n.fade}.w;
    vec3 seen = transpose(nearestRotation(jacobian)) * normalize(centre - ${n.eye});
    rgb += harmonics(${degree}, seen, bands);`;
}
