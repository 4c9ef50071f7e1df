/** Maps over a picture, brought to another size as `torch.nn.functional.interpolate` brings them (align_corners=False). */

const CUBIC = -0.75; // torch's coefficient; Pillow has -0.5

export function mapsResized(
  map: Float32Array,
  height: number,
  width: number,
  toHeight: number,
  toWidth: number,
  kind: "bilinear" | "bicubic",
): Float32Array {
  let made = map;
  if (width !== toWidth) made = along(made, height, width, 1, toWidth, kind);
  if (height !== toHeight) made = along(made, 1, height, toWidth, toHeight, kind);
  return made === map ? map.slice() : made;
}

/** Along an axis of `size` that has `outer` lines of `inner` values before it and behind it. */
function along(
  values: Float32Array,
  outer: number,
  size: number,
  inner: number,
  to: number,
  kind: string,
): Float32Array {
  const [places, weights, count] = taps(size, to, kind);
  const made = new Float32Array(outer * to * inner);
  for (let line = 0; line < outer; line++) {
    for (let place = 0; place < to; place++) {
      const out = (line * to + place) * inner;
      for (let tap = 0; tap < count; tap++) {
        const from = (line * size + places[place * count + tap]) * inner;
        const weight = weights[place * count + tap];
        for (let i = 0; i < inner; i++) made[out + i] += Math.fround(values[from + i] * weight);
      }
    }
  }
  return made;
}

/** Which of `from` places each of `to` ones is made of, and their weights. */
function taps(from: number, to: number, kind: string): [Int32Array, Float32Array, number] {
  const offsets = kind === "bilinear" ? [0, 1] : [-1, 0, 1, 2];
  const count = offsets.length;
  const places = new Int32Array(to * count);
  const weights = new Float32Array(to * count);
  const scale = Math.fround(from / to);
  for (let i = 0; i < to; i++) {
    // torch rounds the scale to float32, and the place after product and difference, at once.
    let centre = Math.fround((i + 0.5) * scale - 0.5);
    if (kind === "bilinear") centre = Math.max(centre, 0);
    const first = Math.floor(centre);
    const rest = Math.fround(centre - first);
    offsets.forEach((offset, tap) => {
      const far = Math.fround(Math.abs(rest - offset));
      places[i * count + tap] = Math.min(Math.max(first + offset, 0), from - 1);
      weights[i * count + tap] = kind === "bilinear" ? 1 - far : cubic(far);
    });
  }
  return [places, weights, count];
}

function cubic(far: number): number {
  if (far <= 1) return ((CUBIC + 2) * far - (CUBIC + 3)) * far * far + 1;
  return ((far - 5) * far + 8) * far * CUBIC - 4 * CUBIC;
}
