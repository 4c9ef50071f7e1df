/**
 * PNG without a canvas: the numbers of the file, as Pillow reads them into RGB. A canvas multiplies by the alpha channel and divides
 * again, which loses the darker ones; and golden samples are PNG, also where there is no canvas.
 */

import { UsageError } from "../errors.js";
import type { Picture } from "./resample.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const MAX_PIXELS = 89_478_485 * 2; // where Pillow takes it for a bomb

export function isPng(bytes: Uint8Array): boolean {
  return SIGNATURE.every((each, i) => bytes[i] === each);
}

export async function decodePng(bytes: Uint8Array, name: string): Promise<Picture> {
  const broken = (why: string): UsageError =>
    new UsageError(`Cannot read the picture ${name}.`, {
      why,
      fix: "give a whole picture file, for instance JPEG or PNG",
    });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let width = 0;
  let height = 0;
  let depth = 0;
  let kind = -1;
  let interlaced = false;
  let palette: Uint8Array | null = null;
  const packed: Uint8Array[] = [];
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (body.length < length) break;
    if (type === "IHDR") {
      [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      [depth, kind] = [body[8], body[9]];
      interlaced = body[12] !== 0;
    } else if (type === "PLTE") palette = body;
    else if (type === "IDAT") packed.push(body);
    else if (type === "IEND") break;
    at += 12 + length;
  }
  if (!(kind in CHANNELS) || !width || !height || ![1, 2, 4, 8, 16].includes(depth))
    throw broken("its header is damaged");
  if (width * height > MAX_PIXELS) throw broken(`it has ${width}x${height} pixels`);
  if (depth === 16 && kind === 0) {
    throw new UsageError(`Cannot use the picture ${name}.`, {
      why: "its mode is I;16: more than 8 bits per pixel, and all above 255 would be white",
      fix: "scale its values to 0..255 and save it as 8 bits",
    });
  }
  if (kind === 3 && palette === null) throw broken("it has no palette");
  let raw: Uint8Array;
  try {
    const stream = new Blob(packed as Uint8Array<ArrayBuffer>[])
      .stream()
      .pipeThrough(new DecompressionStream("deflate"));
    raw = new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw broken("the file ends early, or is damaged");
  }
  const channels = CHANNELS[kind];
  const made = new Uint8Array(width * height * 3);
  const passes = interlaced ? ADAM7 : [[0, 0, 1, 1]];
  let at = 0;
  for (const [left, top, across, down] of passes) {
    const columns = Math.ceil((width - left) / across);
    const rows = Math.ceil((height - top) / down);
    if (columns <= 0 || rows <= 0) continue;
    const line = Math.ceil((columns * channels * depth) / 8);
    const step = Math.max(1, (channels * depth) >> 3);
    let before: Uint8Array = new Uint8Array(line);
    for (let row = 0; row < rows; row++) {
      if (at + 1 + line > raw.length) throw broken("the file ends early");
      const current = raw.subarray(at + 1, at + 1 + line);
      unfilter(raw[at], current, before, step);
      at += 1 + line;
      before = current;
      for (let column = 0; column < columns; column++) {
        const out = ((top + row * down) * width + left + column * across) * 3;
        put(made, out, current, column, channels, depth, kind, palette);
      }
    }
  }
  return { width, height, data: made };
}

const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];

function unfilter(kind: number, line: Uint8Array, before: Uint8Array, step: number): void {
  for (let i = 0; i < line.length; i++) {
    const left = i >= step ? line[i - step] : 0;
    const up = before[i];
    const corner = i >= step ? before[i - step] : 0;
    if (kind === 1) line[i] += left;
    else if (kind === 2) line[i] += up;
    else if (kind === 3) line[i] += (left + up) >> 1;
    else if (kind === 4) {
      const guess = left + up - corner;
      const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
      line[i] += a <= b && a <= c ? left : b <= c ? up : corner;
    }
  }
}

function put(
  made: Uint8Array,
  out: number,
  line: Uint8Array,
  column: number,
  channels: number,
  depth: number,
  kind: number,
  palette: Uint8Array | null,
): void {
  if (kind === 2 || kind === 6) {
    const size = depth >> 3; // of 16 bits the upper 8
    const at = column * channels * size;
    for (let i = 0; i < 3; i++) made[out + i] = line[at + i * size];
    return;
  }
  let value: number;
  if (depth >= 8) value = line[column * channels * (depth >> 3)];
  else value = (line[(column * depth) >> 3] >> (8 - depth - ((column * depth) & 7))) & ((1 << depth) - 1);
  if (palette !== null && kind === 3) {
    for (let i = 0; i < 3; i++) made[out + i] = palette[value * 3 + i] ?? 0;
    return;
  }
  if (depth < 8) value = Math.floor((value * 255) / ((1 << depth) - 1));
  made.fill(value, out, out + 3);
}
