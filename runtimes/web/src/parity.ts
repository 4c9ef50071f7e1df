/**
 * Whether two sets of answers are the same, as the task means them: the limits, distances and messages of the Python
 * runtime's `parity`, for records that travelled in a bundle.
 */

import { norm } from "./numbers.js";
import { floats, type Tensor } from "./tensor.js";
import { WIDE, type Kind } from "./tasks/task.js";

/** How far an artifact may be from the reference. null: not judged by this. */
export interface Limits {
  readonly cosineMean: number;
  readonly cosineP05: number;
  readonly variationMean: number;
  readonly variationP95: number;
  readonly margin: number;
  readonly numberError: number;
  readonly relativeError: number | null;
  readonly nextTokensChanged: number;
  readonly perplexityRise: number;
  readonly soundMean: number;
  readonly soundP95: number;
}

function limits(
  cosineMean: number,
  cosineP05: number,
  variationMean: number,
  variationP95: number,
  margin: number,
  numberError: number,
  relativeError: number | null,
  nextTokensChanged = 0,
  perplexityRise = 1e-3,
  soundMean = 0.05,
  soundP95 = 0.1,
): Limits {
  return {
    cosineMean,
    cosineP05,
    variationMean,
    variationP95,
    margin,
    numberError,
    relativeError,
    nextTokensChanged,
    perplexityRise,
    soundMean,
    soundP95,
  };
}

/** By numeric class, with the reasons in runtimes/satchel_runtimes/parity.py; a test compares the numbers. */
export const CLASSES: Readonly<Record<string, Limits>> = {
  fp32: limits(0.9999, 0.9999, 1e-3, 1e-3, 2e-3, 1e-3, 1e-4),
  fp16: limits(0.999, 0.999, 1e-2, 2e-2, 3e-2, 1e-2, 1e-2, 0, 0.01, 0.25, 0.5),
  bf16: limits(0.9995, 0.999, 2e-2, 4e-2, 5e-2, 3e-2, 4e-2, 0.01, 0.02, 0.5, 1),
  int8: limits(0.985, 0.975, 0.1, 0.25, 0.25, 0.15, null, 0.02, 0.05, 1, 2),
  int4: limits(0.95, 0.91, 0.2, 0.4, 0.4, 0.3, null, 0.1, 0.12, 2, 4),
};

/** The same artifact on another device. */
export const SAME_ARTIFACT: Readonly<Record<string, Limits>> = {
  fp32: CLASSES.fp32,
  fp16: CLASSES.fp16,
  bf16: CLASSES.bf16,
  int8: limits(0.995, 0.99, 0.05, 0.15, 0.15, 0.08, null, 0.02, 0.03, 0.5, 1),
  int4: limits(0.995, 0.99, 0.05, 0.15, 0.15, 0.08, null, 0.02, 0.03, 0.5, 1),
};

/** fp32, fp16, bf16, int8 or int4, from a scheme's name. */
export function numericClass(scheme: string): string {
  return scheme.split("-")[0];
}

/** One array of one sample, whole or in part. */
export interface Recorded {
  readonly kind: Kind;
  readonly shape: readonly number[];
  /** All values, flat, or those at `positions`. */
  readonly values: Float32Array;
  readonly positions: ArrayLike<number> | null;
  readonly peak: number;
  /** Of a distribution: the largest entry of each row, and how far it leads the second. */
  readonly top: Int32Array | null;
  readonly lead: Float32Array | null;
}

export type Sample = Readonly<Record<string, Recorded>>;
export type Answers = Readonly<Record<string, Tensor>>;

/** What a comparison found. `why` is empty when it passed. */
export interface Parity {
  readonly passed: boolean;
  readonly figures: Readonly<Record<string, number>>;
  readonly limits: Readonly<Record<string, number>>;
  readonly samples: number;
  readonly why: string;
  readonly where: string;
}

/**
 * One position out of each of `keep` equal parts of `0 … size - 1`, ascending. Whole numbers alone (Knuth's multiplicative
 * hash), so every runtime finds the same ones.
 */
export function spreadPositions(size: number, keep: number, seed: number): Float64Array {
  if (keep >= size) return Float64Array.from({ length: size }, (_, i) => i);
  const found = new Float64Array(keep);
  let begin = 0;
  for (let i = 0; i < keep; i++) {
    const end = Math.floor(((i + 1) * size) / keep);
    const hashed = Number((BigInt(i + seed * 7919 + 1) * 2654435761n) % 4294967296n);
    found[i] = begin + (hashed % (end - begin));
    begin = end;
  }
  return found;
}

/** Compare each answer with the reference's record of the same sample. */
export function judge(
  reference: readonly Sample[],
  answers: readonly Answers[],
  allowed: Limits,
  what = "single",
): Parity {
  const failed = (why: string, where: string): Parity => ({
    passed: false,
    figures: {},
    limits: {},
    samples: reference.length,
    why,
    where,
  });
  const broken = brokenReference(reference);
  if (broken) return failed(broken, "reference");
  if (
    reference.some((each) =>
      Object.values(each).some((record) => record.kind === "vector" && record.positions !== null),
    )
  ) {
    allowed = widened(allowed);
  }
  const found: Record<Kind, number[]> = {
    vector: [],
    distribution: [],
    next: [],
    independent: [],
    loss: [],
    number: [],
    sound: [],
    raw: [],
  };
  const changed: boolean[] = [];
  const before: number[] = [];
  const spread = spreads(reference);
  const flips: string[] = [];
  const worst: Partial<Record<Kind, [number, string]>> = {};
  for (let index = 0; index < reference.length; index++) {
    for (const [name, expected] of Object.entries(reference[index])) {
      const where = `sample ${index}, ${name}, ${what}`;
      const tensor = answers[index]?.[name];
      if (tensor === undefined) return failed(`the output '${name}' is missing`, where);
      if (tensor.shape.join() !== expected.shape.join()) {
        return failed(
          `the shape is (${tensor.shape.join(", ")}), the reference's is (${expected.shape.join(", ")})`,
          where,
        );
      }
      const actual = floats(tensor);
      if (actual.some(Number.isNaN)) return failed("the answer holds NaN", where);
      const distance = distanceOf(expected, actual, spread.get(name) ?? 0);
      found[expected.kind].push(distance);
      const bad = expected.kind === "vector" ? -distance : distance;
      const known = worst[expected.kind];
      if (known === undefined || bad > known[0]) worst[expected.kind] = [bad, where];
      if (expected.kind === "next") changed.push(...changedTops(expected, actual, allowed.margin));
      else if (flipped(expected, actual, allowed.margin)) flips.push(where);
      if (expected.kind === "loss") before.push(mean(expected.values));
    }
  }
  return verdict(found, flips, changed, before, worst, allowed, reference.length);
}

function widened(allowed: Limits): Limits {
  return {
    ...allowed,
    cosineMean: 1 - 1.1 * (1 - allowed.cosineMean),
    cosineP05: 1 - 1.5 * (1 - allowed.cosineP05),
  };
}

function verdict(
  found: Record<Kind, number[]>,
  flips: readonly string[],
  changed: readonly boolean[],
  before: readonly number[],
  worst: Partial<Record<Kind, [number, string]>>,
  allowed: Limits,
  samples: number,
): Parity {
  const figures: Record<string, number> = {};
  const limits: Record<string, number> = {};
  let why = "";
  let where = "";
  const hold = (name: string, value: number, limit: number | null, kind: Kind, least = false): void => {
    figures[name] = value;
    if (limit === null) return;
    limits[name] = limit;
    const good = least ? value >= limit : value <= limit; // false for NaN
    if (!good && !why) {
      const bound = least ? "at least" : "at most";
      why = `${name.replaceAll("_", " ")} is ${Number(value.toPrecision(4))}, ${bound} ${Number(limit.toPrecision(4))} is allowed`;
      where = worst[kind]?.[1] ?? "";
    }
  };
  if (flips.length) {
    why = "the top answer differs where the reference is not near a tie";
    where = flips[0];
  }
  figures.flipped_answers = flips.length;
  limits.flipped_answers = 0;
  if (found.vector.length) {
    hold("cosine_mean", mean(found.vector), allowed.cosineMean, "vector", true);
    hold("cosine_p05", percentile(found.vector, 5), allowed.cosineP05, "vector", true);
    hold("cosine_min", Math.min(...found.vector), null, "vector");
  }
  for (const kind of ["distribution", "next", "independent"] as const) {
    if (!found[kind].length) continue;
    const word = WIDE.has(kind) ? "total_variation" : "probability_error";
    hold(`${word}_mean`, mean(found[kind]), allowed.variationMean, kind);
    hold(`${word}_p95`, percentile(found[kind], 95), allowed.variationP95, kind);
  }
  if (found.next.length) {
    const share = changed.length ? changed.filter(Boolean).length / changed.length : 0;
    hold("next_tokens_changed", share, allowed.nextTokensChanged, "next");
  }
  if (found.loss.length) {
    hold("perplexity_rise", Math.expm1(mean(found.loss)), allowed.perplexityRise, "loss");
    figures.perplexity_reference = Math.exp(mean(before));
    figures.perplexity = Math.exp(mean(before) + mean(found.loss));
  }
  if (found.sound.length) {
    hold("decibels_mean", mean(found.sound), allowed.soundMean, "sound");
    hold("decibels_p95", percentile(found.sound, 95), allowed.soundP95, "sound");
  }
  if (found.number.length) hold("number_error", Math.max(...found.number), allowed.numberError, "number");
  if (found.raw.length) hold("relative_error", Math.max(...found.raw), allowed.relativeError, "raw");
  return { passed: !why, figures, limits, samples, why, where };
}

function brokenReference(reference: readonly Sample[]): string {
  if (!reference.length) return "there is no sample to compare";
  for (const [index, records] of reference.entries()) {
    for (const [name, expected] of Object.entries(records)) {
      if (expected.values.some(Number.isNaN)) {
        return `the reference model itself answers NaN (sample ${index}, ${name}); nothing can be proved with it`;
      }
    }
  }
  const [first, ...others] = reference;
  if (others.length && others.every((other) => alike(first, other))) {
    return "the reference model gives the same answer to every sample; agreement would prove nothing";
  }
  return "";
}

function alike(first: Sample, other: Sample): boolean {
  const judged = Object.entries(first).filter(([, each]) => each.kind !== "raw");
  for (const [name, expected] of judged.length ? judged : Object.entries(first)) {
    const theirs = other[name];
    if (theirs === undefined) return false;
    if (expected.shape.join() !== theirs.shape.join() || expected.positions !== null) return false;
    const scale = Math.max(expected.peak, theirs.peak, 1e-30);
    for (let i = 0; i < expected.values.length; i++) {
      if (expected.values[i] === theirs.values[i]) continue;
      if (!(Math.abs(expected.values[i] - theirs.values[i]) <= 1e-6 * scale)) return false;
    }
  }
  return true;
}

/** Standard deviation of each number over all samples. */
function spreads(reference: readonly Sample[]): Map<string, number> {
  const values = new Map<string, number[]>();
  for (const records of reference) {
    for (const [name, expected] of Object.entries(records)) {
      if (expected.kind !== "number") continue;
      const known = values.get(name) ?? [];
      for (const each of expected.values) known.push(each);
      values.set(name, known);
    }
  }
  return new Map(
    [...values].map(([name, each]) => {
      const middle = mean(each);
      return [name, Math.sqrt(mean(each.map((value) => (value - middle) ** 2)))];
    }),
  );
}

function distanceOf(expected: Recorded, actual: Float32Array, spread: number): number {
  const { positions, values: theirs, kind } = expected;
  const count = theirs.length;
  const ours = new Float32Array(count);
  for (let i = 0; i < count; i++) ours[i] = actual[positions === null ? i : positions[i]];
  if (kind === "vector") return cosine(ours, theirs);
  let sum = 0;
  let largest = 0;
  let signed = 0;
  for (let i = 0; i < count; i++) {
    const difference = ours[i] === theirs[i] ? 0 : Math.abs(ours[i] - theirs[i]); // equal infinities are equal
    sum += difference;
    if (difference > largest) largest = difference;
    signed += ours[i] - theirs[i];
  }
  if (WIDE.has(kind)) {
    const width = expected.shape.length ? expected.shape[expected.shape.length - 1] : 1;
    let rows = count / width;
    if (positions !== null) rows = new Set(Array.from(positions, (each) => Math.floor(each / width))).size;
    return sum / 2 / Math.max(Math.floor(rows), 1);
  }
  if (kind === "loss") return count ? signed / count : 0;
  if (kind === "sound") return count ? sum / count : 0;
  if (kind === "number") return largest / Math.max(spread, 1e-12);
  if (kind === "raw") return largest / Math.max(expected.peak, 1e-30);
  return largest;
}

function cosine(ours: Float32Array, theirs: Float32Array): number {
  const finite = (value: number, other: number): number => (value === other && !Number.isFinite(value) ? 0 : value);
  let product = 0;
  const a = ours.map((value, i) => finite(value, theirs[i]));
  const b = theirs.map((value, i) => finite(value, ours[i]));
  for (let i = 0; i < a.length; i++) product += a[i] * b[i];
  const norms = norm(a) * norm(b);
  if (norms === 0) return a.every((each) => each === 0) && b.every((each) => each === 0) ? 1 : 0;
  return product / norms;
}

/** For each row whose top answer is clear, whether it is another one. */
function changedTops({ top, lead, shape }: Recorded, actual: Float32Array, margin: number): boolean[] {
  if (top === null || lead === null || !actual.length) return [];
  const width = shape[shape.length - 1];
  const found: boolean[] = [];
  for (let row = 0; row < top.length; row++) {
    if (lead[row] < margin) continue;
    let best = 0;
    for (let i = 1; i < width; i++) if (actual[row * width + i] > actual[row * width + best]) best = i;
    found.push(best !== top[row]);
  }
  return found;
}

function flipped(expected: Recorded, actual: Float32Array, margin: number): boolean {
  if (expected.kind === "distribution") return changedTops(expected, actual, margin).some(Boolean);
  if (expected.kind !== "independent") return false;
  return expected.values.some((theirs, i) => {
    const ours = actual[expected.positions === null ? i : expected.positions[i]];
    return ours > 0.5 !== theirs > 0.5 && Math.abs(theirs - 0.5) >= margin / 2;
  });
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return values.length ? sum / values.length : 0;
}

/** As numpy has it: between the two nearest, in proportion. */
export function percentile(values: ArrayLike<number>, q: number): number {
  const sorted = Float64Array.from(values).sort();
  const place = ((sorted.length - 1) * q) / 100;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}
