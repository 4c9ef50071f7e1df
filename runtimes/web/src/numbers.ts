/** What tasks compute, in float32 as numpy does it. */

import { float32, floats, sizeOf, type Tensor } from "./tensor.js";

/** Each row of the last axis through a function that writes into `out`. */
function byRow(tensor: Tensor, each: (row: Float32Array, out: Float32Array) => void): Tensor {
  const values = floats(tensor);
  const width = tensor.shape[tensor.shape.length - 1] ?? 1;
  const made = new Float32Array(values.length);
  for (let at = 0; at < values.length; at += width)
    each(values.subarray(at, at + width), made.subarray(at, at + width));
  return float32(tensor.shape, made);
}

/** Over the last axis. */
export function softmax(tensor: Tensor): Tensor {
  return byRow(tensor, softmaxRow);
}

function softmaxRow(row: Float32Array, out: Float32Array): void {
  let most = -Infinity;
  for (const each of row) if (each > most) most = each;
  let sum = 0;
  for (let i = 0; i < row.length; i++) {
    out[i] = Math.exp(Math.fround(row[i] - most));
    sum += out[i];
  }
  for (let i = 0; i < row.length; i++) out[i] /= sum;
}

export function logSoftmax(tensor: Tensor): Tensor {
  return byRow(tensor, (row, out) => {
    let most = -Infinity;
    for (const each of row) if (each > most) most = each;
    let sum = 0;
    for (const each of row) sum += Math.exp(each - most);
    const log = Math.log(sum);
    for (let i = 0; i < row.length; i++) out[i] = row[i] - most - log;
  });
}

export function sigmoid(tensor: Tensor): Tensor {
  const values = floats(tensor);
  const made = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    // exp of a large positive number overflows: use the half of the identity that stays small.
    const small = Math.exp(-Math.abs(values[i]));
    made[i] = values[i] >= 0 ? 1 / (1 + small) : small / (1 + small);
  }
  return float32(tensor.shape, made);
}

export function asTheyAre(tensor: Tensor): Tensor {
  return float32(tensor.shape, floats(tensor));
}

/** The functions that turn logits into scores, by their names in the manifest. */
export const FUNCTIONS: Readonly<Record<string, (tensor: Tensor) => Tensor>> = { softmax, sigmoid, none: asTheyAre };

/** Places by their values, the largest first; equal ones in their order. */
export function ranked(values: ArrayLike<number>): number[] {
  return Array.from(values, (_, i) => i).sort((a, b) => values[b] - values[a]);
}

export function argmax(values: ArrayLike<number>, start = 0, end = values.length): number {
  let best = start;
  for (let i = start + 1; i < end; i++) if (values[i] > values[best]) best = i;
  return best - start;
}

/** The row `i` of a matrix, as a view. */
export function rowView(tensor: Tensor, i: number): Float32Array {
  const width = sizeOf(tensor.shape.slice(1));
  return floats(tensor).subarray(i * width, (i + 1) * width);
}

/** Rows of a matrix by their places. */
export function takeRows(tensor: Tensor, places: readonly number[]): Tensor {
  const width = sizeOf(tensor.shape.slice(1));
  const values = floats(tensor);
  const made = new Float32Array(places.length * width);
  places.forEach((place, i) => made.set(values.subarray(place * width, (place + 1) * width), i * width));
  return float32([places.length, ...tensor.shape.slice(1)], made);
}

export function norm(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] * values[i];
  return Math.sqrt(sum);
}
