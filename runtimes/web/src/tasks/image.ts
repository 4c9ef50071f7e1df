/** Pictures in: the steps of a model's image processor, and rows of pixels. */

import type { Bundle } from "../bundle.js";
import { IntegrityError, SupportError, UsageError } from "../errors.js";
import { pictureOf } from "../image/picture.js";
import { cropped, resized, turned, type Picture } from "../image/resample.js";
import { imageSize, resizedSize, thumbnailSize } from "../image/sizes.js";
import type { Json, Step, TaskEntry } from "../manifest.js";
import { float32, int64, type Tensors } from "../tensor.js";
import { Task, row, type Input, type Options, type Row } from "./task.js";

const STEPS = [
  ...["rgb", "align_long_axis", "resize", "thumbnail", "frame", "center_crop", "flip_channels", "rescale", "normalize"],
  ...["pad", "quantize_colors"],
];
const MAX_PIXELS = 2 ** 26; // of a resized picture: a line of one pixel would otherwise grow to gigabytes

/** What turns pictures into what a graph takes; tasks of two modalities have one beside their reader of texts. */
export class PictureReader {
  readonly fixed: readonly [height: number, width: number] | null;
  readonly #steps: readonly Step[];
  readonly #table: readonly Float32Array[];
  readonly #flips: boolean;
  readonly #clusters: readonly (readonly number[])[] | null;
  readonly #bundle: Bundle;
  readonly #task: string;

  constructor(entry: TaskEntry, bundle: Bundle, otherSteps: readonly string[] = []) {
    this.#task = entry.name;
    this.#bundle = bundle;
    this.#steps = entry.preprocess.filter((step) => !otherSteps.includes(step.step));
    const unknown = this.#steps.find((step) => !STEPS.includes(step.step));
    if (unknown !== undefined) {
      throw new SupportError(`Cannot serve ${entry.name} from ${bundle.path} here.`, {
        why: `this runtime does not know the step '${unknown.step}'`,
        fix: "update satchel-runtime in this app, or run the bundle with the Python runtime",
      });
    }
    try {
      this.fixed = imageSize(this.#steps);
      this.#table = tableOf(this.#steps);
    } catch (error) {
      throw new IntegrityError(`Cannot serve ${entry.name} from ${bundle.path}.`, {
        why: `its steps are not complete (${(error as Error).message})`,
        fix: "convert the model again",
      });
    }
    this.#flips = this.#steps.some((step) => step.step === "flip_channels");
    this.#clusters = this.#steps.find((step) => step.step === "quantize_colors")?.options.clusters ?? null;
  }

  picture(item: Input): Promise<Picture> {
    return pictureOf(item, this.#bundle, this.#task);
  }

  /** What the graph takes of an RGB picture, without the batch axis. */
  tensors(given: Picture): Tensors {
    let picture = given;
    for (const { step, options } of this.#steps) {
      if (step === "resize")
        picture = this.#resized(picture, resizedSize(options, picture.height, picture.width), options);
      else if (step === "thumbnail")
        picture = this.#resized(picture, thumbnailSize(options, picture.height, picture.width), options);
      else if (step === "align_long_axis") picture = aligned(picture, options);
      else if (step === "frame") picture = framed(picture, options);
      else if (step === "center_crop") {
        const left = Math.floor((picture.width - options.width) / 2);
        const top = Math.floor((picture.height - options.height) / 2);
        picture = cropped(picture, left, top, options.width, options.height);
      }
    }
    checkSize(picture, picture.height, picture.width);
    let { width, height } = picture;
    const size = width * height;
    let values = new Float32Array(3 * size);
    for (let channel = 0; channel < 3; channel++) {
      const table = this.#table[channel];
      const from = this.#flips ? 2 - channel : channel;
      for (let i = 0, at = from, out = channel * size; i < size; i++, at += 3, out++)
        values[out] = table[picture.data[at]];
    }
    for (const { step, options } of this.#steps)
      if (step === "pad") [values, height, width] = mirrored(values, height, width, options.multiple);
    if (this.#clusters !== null) return { input_ids: nearest(values, this.#clusters) };
    return { pixel_values: float32([3, height, width], values) };
  }

  #resized(picture: Picture, [height, width]: readonly [number, number], { filter }: Json): Picture {
    checkSize(picture, height, width);
    return resized(picture, width, height, filter);
  }
}

/** A task whose input is a picture. */
export abstract class ImageTask extends Task {
  readonly reader: PictureReader;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.reader = new PictureReader(entry, bundle);
  }

  override get shape(): string {
    return this.reader.fixed ? this.reader.fixed.join("x") : "";
  }

  override get size(): number {
    return this.reader.fixed ? this.reader.fixed[0] : 1; // what was measured is the first golden picture
  }

  isSingle(inputs: Input): boolean {
    return !Array.isArray(inputs);
  }

  async encode(item: Input, _options: Options): Promise<readonly Row[]> {
    const picture = await this.reader.picture(item);
    return [row(this.reader.tensors(picture), 1, [picture.height, picture.width])];
  }
}

function checkSize(picture: Picture, height: number, width: number): void {
  if (height * width <= MAX_PIXELS && height && width) return;
  const limit = height && width ? `it takes at most ${MAX_PIXELS} pixels` : "nothing would be left";
  throw new UsageError(`Cannot use a picture of ${picture.width}x${picture.height} pixels.`, {
    why: `the model would see it as ${width}x${height}; ${limit}`,
    fix: height && width ? "crop it to what there is to see" : "give a larger one",
  });
}

/** On its side where it lies across the size. */
function aligned(picture: Picture, { height, width }: Json): Picture {
  const across =
    (width < height && picture.width > picture.height) || (width > height && picture.width < picture.height);
  return across ? turned(picture) : picture;
}

/** In the middle of black; an odd rest is below and to the right. */
function framed(picture: Picture, { height, width }: Json): Picture {
  const [top, left] = [Math.floor((height - picture.height) / 2), Math.floor((width - picture.width) / 2)];
  if (top < 0 || left < 0) {
    throw new UsageError(
      `Cannot put a picture of ${picture.width}x${picture.height} pixels into one of ${width}x${height}.`,
      {
        why: "the model's processor fits its longer side alone",
        fix: "crop it, or pad it to the proportions of a page",
      },
    );
  }
  return cropped(picture, -left, -top, width, height);
}

/** What becomes of each value of each channel, computed as transformers computes a picture. */
function tableOf(steps: readonly Step[]): Float32Array[] {
  const table = [0, 1, 2].map(() => Float32Array.from({ length: 256 }, (_, value) => value));
  for (const { step, options } of steps) {
    if (step === "rescale") {
      for (const channel of table) channel.forEach((value, i) => (channel[i] = value * options.factor));
      if (options.offset)
        for (const channel of table) channel.forEach((value, i) => (channel[i] = value + Math.fround(options.offset)));
    } else if (step === "normalize") {
      table.forEach((channel, c) => {
        const [mean, std] = [Math.fround(options.mean[c]), Math.fround(options.std[c])];
        channel.forEach((value, i) => (channel[i] = Math.fround(value - mean) / std));
      });
    }
  }
  return table;
}

/** Up to the next multiple below and to the right, a whole one where it is a multiple already. */
function mirrored(
  values: Float32Array<ArrayBuffer>,
  height: number,
  width: number,
  multiple: number,
): [Float32Array<ArrayBuffer>, number, number] {
  const [high, wide] = [height + multiple - (height % multiple), width + multiple - (width % multiple)];
  const place = (i: number, size: number): number => {
    const k = i % (2 * size);
    return k < size ? k : 2 * size - 1 - k;
  };
  const made = new Float32Array(3 * high * wide);
  for (let c = 0, out = 0; c < 3; c++) {
    for (let y = 0; y < high; y++) {
      for (let x = 0; x < wide; x++, out++)
        made[out] = values[(c * height + place(y, height)) * width + place(x, width)];
    }
  }
  return [made, high, wide];
}

/** The number of the nearest colour for each pixel, row by row; a tie goes to the first. */
function nearest(values: Float32Array, clusters: readonly (readonly number[])[]): Tensors[string] {
  const size = values.length / 3;
  const squares = clusters.map((each) => each.reduce((sum, value) => sum + value * value, 0));
  const ids = new Array<number>(size);
  for (let i = 0; i < size; i++) {
    let [best, least] = [0, Infinity];
    clusters.forEach((each, k) => {
      const distance =
        squares[k] - 2 * (values[i] * each[0] + values[size + i] * each[1] + values[2 * size + i] * each[2]);
      if (distance < least) [best, least] = [k, distance];
    });
    ids[i] = best;
  }
  return int64(ids);
}
