/**
 * Pillow's resize of 8-bit pictures, number for number: two passes of filters whose support grows with the scale, with
 * coefficients in fixed point and a rounding to 8 bits in between (src/libImaging/Resample.c).
 */

/** A picture of 8 bits a channel, red, green and blue in turn. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array | Uint8ClampedArray;
}

interface Filter {
  readonly support: number;
  readonly at: (x: number) => number;
}

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const CUBIC = -0.5;

const FILTERS: Readonly<Record<string, Filter>> = {
  box: { support: 0.5, at: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: {
    support: 1,
    at: (given) => {
      const x = Math.abs(given);
      if (x === 0) return 1;
      return x >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI));
    },
  },
  bicubic: {
    support: 2,
    at: (given) => {
      const x = Math.abs(given);
      if (x < 1) return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * CUBIC : 0;
    },
  },
  lanczos: { support: 3, at: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

const PRECISION = 22; // bits: 32, without 8 of the picture and 2 of the filter
const ONE = 2 ** PRECISION;

interface Taps {
  readonly firsts: Int32Array;
  readonly counts: Int32Array;
  readonly weights: Int32Array;
  readonly most: number;
}

export function resized(picture: Picture, width: number, height: number, filter: string): Picture {
  if (picture.width === width && picture.height === height) return picture;
  if (filter === "nearest") return nearest(picture, width, height);
  const kind = FILTERS[filter];
  const across = (data: Picture["data"], rows: number): Picture["data"] =>
    width === picture.width ? data : acrossRows(data, picture.width, rows, width, taps(picture.width, width, kind));
  const down = (data: Picture["data"], columns: number): Picture["data"] =>
    height === picture.height ? data : downColumns(data, columns, height, taps(picture.height, height, kind));
  // The first pass is rounded, so their order shows. Pillow 13 goes down first where that leaves much less to go across.
  const less = picture.height - height;
  const downFirst = less > 0 && less > 2 * (picture.width - width);
  const data = downFirst
    ? across(down(picture.data, picture.width), height)
    : down(across(picture.data, picture.height), width);
  return { width, height, data };
}

function taps(from: number, to: number, filter: Filter): Taps {
  const scale = from / to;
  const wide = Math.max(scale, 1);
  const support = filter.support * wide;
  const most = Math.ceil(support) * 2 + 1;
  const firsts = new Int32Array(to);
  const counts = new Int32Array(to);
  const weights = new Int32Array(to * most);
  const exact = new Float64Array(most);
  for (let place = 0; place < to; place++) {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(from, Math.trunc(center + support + 0.5)) - first;
    let sum = 0;
    for (let i = 0; i < count; i++) {
      exact[i] = filter.at((i + first - center + 0.5) * (1 / wide));
      sum += exact[i];
    }
    for (let i = 0; i < count; i++) {
      const weight = sum === 0 ? exact[i] : exact[i] / sum;
      weights[place * most + i] = Math.trunc(weight < 0 ? -0.5 + weight * ONE : 0.5 + weight * ONE);
    }
    firsts[place] = first;
    counts[place] = count;
  }
  return { firsts, counts, weights, most };
}

function clip(sum: number): number {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function acrossRows(
  data: Picture["data"],
  from: number,
  rows: number,
  to: number,
  { firsts, counts, weights, most }: Taps,
): Uint8Array {
  const made = new Uint8Array(rows * to * 3);
  for (let row = 0, out = 0; row < rows; row++) {
    const begin = row * from * 3;
    for (let place = 0; place < to; place++, out += 3) {
      let red = ONE / 2;
      let green = ONE / 2;
      let blue = ONE / 2;
      let at = begin + firsts[place] * 3;
      for (let i = 0, k = place * most; i < counts[place]; i++, k++, at += 3) {
        const weight = weights[k];
        red += data[at] * weight;
        green += data[at + 1] * weight;
        blue += data[at + 2] * weight;
      }
      made[out] = clip(red);
      made[out + 1] = clip(green);
      made[out + 2] = clip(blue);
    }
  }
  return made;
}

function downColumns(
  data: Picture["data"],
  width: number,
  to: number,
  { firsts, counts, weights, most }: Taps,
): Uint8Array {
  const line = width * 3;
  const made = new Uint8Array(to * line);
  const sums = new Float64Array(line);
  for (let place = 0; place < to; place++) {
    sums.fill(ONE / 2);
    for (let i = 0; i < counts[place]; i++) {
      const weight = weights[place * most + i];
      const begin = (firsts[place] + i) * line;
      for (let x = 0; x < line; x++) sums[x] += data[begin + x] * weight;
    }
    for (let x = 0, out = place * line; x < line; x++, out++) made[out] = clip(sums[x]);
  }
  return made;
}

function nearest(picture: Picture, width: number, height: number): Picture {
  const places = (from: number, to: number): Int32Array => {
    const step = from / to;
    let at = step * 0.5;
    // Added up as Pillow does it, whose rounding decides where a place lies between two.
    const found = new Int32Array(to);
    for (let i = 0; i < to; i++, at += step) found[i] = Math.min(from - 1, Math.trunc(at));
    return found;
  };
  const [columns, rows] = [places(picture.width, width), places(picture.height, height)];
  const made = new Uint8Array(width * height * 3);
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0; x < width; x++, out += 3) {
      const at = (rows[y] * picture.width + columns[x]) * 3;
      made[out] = picture.data[at];
      made[out + 1] = picture.data[at + 1];
      made[out + 2] = picture.data[at + 2];
    }
  }
  return { width, height, data: made };
}

/** A part of a picture; what lies outside of it is black. */
export function cropped(picture: Picture, left: number, top: number, width: number, height: number): Picture {
  const made = new Uint8Array(width * height * 3);
  const from = Math.max(0, left);
  const until = Math.min(picture.width, left + width);
  for (let y = Math.max(0, top); y < Math.min(picture.height, top + height); y++) {
    if (until <= from) break;
    const row = picture.data.subarray((y * picture.width + from) * 3, (y * picture.width + until) * 3);
    made.set(row, ((y - top) * width + from - left) * 3);
  }
  return { width, height, data: made };
}

/** Turned clockwise, so that what was on its side stands. */
export function turned(picture: Picture): Picture {
  const { width: height, height: width } = picture;
  const made = new Uint8Array(width * height * 3);
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0; x < width; x++, out += 3) {
      const at = ((width - 1 - x) * picture.width + y) * 3;
      made.set(picture.data.subarray(at, at + 3), out);
    }
  }
  return { width, height, data: made };
}
