/** Pictures, sounds and comparisons are computed as the Python runtime computes them: tests/web_numbers.py writes what that says. */

import { describe, expect, test } from "vitest";
import { Sound } from "../src/audio/sound.js";
import { decodePng } from "../src/image/png.js";
import { resized } from "../src/image/resample.js";
import { resizedSize } from "../src/image/sizes.js";
import { randomOf } from "../src/generation/random.js";
import { CLASSES, SAME_ARTIFACT, spreadPositions, type Limits } from "../src/parity.js";
import { sha256, sha256Here } from "../src/sha256.js";
import { PictureReader } from "../src/tasks/image.js";
import { floats } from "../src/tensor.js";
import { vectors } from "./vectors.js";

const said = vectors("numbers");

const bytes = (text: string): Uint8Array => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const numbers = (text: string): Float32Array => new Float32Array(bytes(text).buffer);

function differing(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  let count = Math.abs(ours.length - theirs.length);
  for (let i = 0; i < theirs.length; i++) if (ours[i] !== theirs[i]) count++;
  return count;
}

function farthest(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  let most = ours.length === theirs.length ? 0 : Infinity;
  for (let i = 0; i < theirs.length; i++) most = Math.max(most, Math.abs(ours[i] - theirs[i]));
  return most;
}

test.each([
  ["classes", CLASSES],
  ["same", SAME_ARTIFACT],
])("the limits of parity are those of Python: %s", (name, ours) => {
  const order: (keyof Limits)[] = [
    ...([
      "cosineMean",
      "cosineP05",
      "variationMean",
      "variationP95",
      "margin",
      "numberError",
      "relativeError",
    ] as const),
    ...(["nextTokensChanged", "perplexityRise", "soundMean", "soundP95"] as const),
  ];
  const plain = Object.fromEntries(Object.entries(ours).map(([kind, each]) => [kind, order.map((key) => each[key])]));

  expect(plain).toEqual(said.limits[name]);
});

test.each(said.positions)(
  "positions spread over %i values are those of Python",
  (...[size, keep, seed, theirs]: any[]) => {
    expect([...spreadPositions(size, keep, seed).slice(0, 2000)]).toEqual(theirs);
  },
);

test.each(said.draws)("seed %i draws what numpy draws", (...[seed, theirs]: any[]) => {
  const random = randomOf(seed);

  expect((theirs as number[]).map(() => random())).toEqual(theirs);
});

describe.each<[string, any]>(said.pictures.map((each: any) => [`${each.width}x${each.height}`, each]))(
  "a picture of %s",
  (_, vector) => {
    const picture = { width: vector.width, height: vector.height, data: bytes(vector.data) };

    test("is resized as by Pillow, number for number", () => {
      for (const { filter, width, height, data } of vector.resized) {
        expect([filter, width, height, differing(resized(picture, width, height, filter).data, bytes(data))]).toEqual([
          filter,
          width,
          height,
          0,
        ]);
      }
    });

    test("goes through a processor's steps", () => {
      for (const { preprocess, shape, values } of vector.steps) {
        const reader = new PictureReader({ name: "image-classification", preprocess, postprocess: [] }, {
          path: "nowhere",
        } as never);
        const { pixel_values: found } = reader.tensors(picture);
        expect(found.shape).toEqual(shape);
        expect(farthest(floats(found), numbers(values))).toBeLessThan(1e-6);
      }
    });
  },
);

test.each(said.sizes)("%j makes of %i x %i", (...[size, height, width, theirs]: any[]) => {
  expect(resizedSize(size, height, width)).toEqual(theirs);
});

test.each<[number, any]>(said.sounds.map((each: any) => [each.rate, each]))(
  "a sound of %i Hz is resampled",
  (rate, { wanted, wave, parts }) => {
    const sound = new Sound("of a test", Number(rate), numbers(wave));
    for (const [start, stop, theirs] of parts) {
      expect(farthest(sound.samples(wanted, start, stop), numbers(theirs))).toBeLessThan(1e-6);
    }
  },
);

test.each<[string, any]>(said.png.map((each: any) => [each.mode, each]))(
  "a PNG of the mode %s is what Pillow reads in it",
  async (_, { file, shape, rgb }) => {
    const picture = await decodePng(bytes(file), "a test");

    expect([picture.height, picture.width, 3]).toEqual(shape);
    expect(differing(picture.data, bytes(rgb))).toBe(0);
  },
);

test("a hash without the browser's is the same", async () => {
  for (const length of [0, 1, 55, 56, 63, 64, 65, 1000, 100_000]) {
    const data = Uint8Array.from({ length }, (_, i) => (i * 131 + length) & 255);
    expect(sha256Here(data)).toBe(await sha256(data));
  }
});
