/** automatic-speech-recognition by CTC: what was said, and when, by the likeliest token of every frame. */

import { soundOf, type Sound } from "../audio/sound.js";
import type { Bundle } from "../bundle.js";
import { IntegrityError, SupportError, UsageError, shown } from "../errors.js";
import type { Json, TaskEntry } from "../manifest.js";
import { argmax, rowView, softmax } from "../numbers.js";
import { roundEven } from "../image/sizes.js";
import { float32, int64, type Tensors } from "../tensor.js";
import { Task, forward, row, type Answer, type Graphs, type Input, type Kind, type Options, type Row } from "./task.js";
import { SPACES_TO_CLEAN, choice } from "./text.js";

const STEPS = ["mono", "resample", "normalize_wave", "frames"];
const MAX_SECONDS = 180; // of one row: attention takes memory by the square of it

/** Characters with the frames from and to. */
type Spoken = [text: string, from: number, to: number];

/**
 * `predict(file)` is `{text}`; with `return_timestamps` also `chunks`, `[{text, timestamp: [start, end]}]` in seconds.
 *
 * Options as in the pipeline: `return_timestamps` is "char" or "word"; `chunk_length_s` cuts a long sound into pieces that overlap by
 * `stride_length_s` (a number, or one for each side; a sixth of the piece by default).
 */
export class SpeechRecognition extends Task {
  readonly name = "automatic-speech-recognition";
  readonly judged: Readonly<Record<string, Kind>> = { probabilities: "distribution" };
  override readonly options = { return_timestamps: null, chunk_length_s: 0, stride_length_s: null };
  readonly #ctc: Json;
  readonly #rate: number;
  readonly #normalize: boolean;
  readonly #kernels: readonly number[];
  readonly #strides: readonly number[];
  readonly #least: number;
  readonly #step: number;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    const odd = entry.preprocess.find((step) => !STEPS.includes(step.step));
    const ctc = entry.postprocess.find((step) => step.step === "ctc");
    if (odd !== undefined || ctc === undefined) {
      throw new SupportError(`Cannot serve ${entry.name} from ${bundle.path} here.`, {
        why: odd
          ? `this runtime does not know the step '${odd.step}'`
          : "it writes with a decoder; this runtime serves CTC",
        fix: "run the bundle with the Python runtime, or take a model for CTC such as wav2vec2",
      });
    }
    const has = Object.fromEntries(entry.preprocess.map((step) => [step.step, step.options]));
    if (!has.resample?.rate || !Array.isArray(has.frames?.kernels)) {
      throw new IntegrityError(`Cannot serve ${entry.name} from ${bundle.path}.`, {
        why: "its steps are not complete",
        fix: "convert the model again",
      });
    }
    this.#ctc = ctc.options;
    this.#rate = has.resample.rate;
    this.#normalize = "normalize_wave" in has;
    this.#kernels = has.frames.kernels;
    this.#strides = has.frames.strides;
    let least: number = has.frames.least;
    for (let i = this.#kernels.length - 1; i >= 0; i--) least = (least - 1) * this.#strides[i] + this.#kernels[i];
    this.#least = least;
    this.#step = this.#strides.reduce((product, each) => product * each, 1);
  }

  override get shape(): string {
    return "1 s";
  }

  override get size(): number {
    return this.#rate; // the first built-in sound has a second
  }

  isSingle(inputs: Input): boolean {
    return !Array.isArray(inputs);
  }

  async encode(item: Input, options: Options): Promise<readonly Row[]> {
    return [...this.#pieces(await soundOf(item, this.#rate, this.bundle, this.name), options)];
  }

  score(outputs: Tensors): Tensors {
    return { probabilities: softmax(outputs.logits) };
  }

  answer(_item: Input, rows: readonly Row[], scores: readonly Tensors[], options: Options): Answer {
    return this.#text(
      rows.flatMap((each, i) => kept(each, scores[i])),
      options,
    );
  }

  override async run(graphs: Graphs, inputs: readonly Input[], options: Options, batchSize = 0): Promise<Answer[]> {
    if (!options.chunk_length_s) return super.run(graphs, inputs, options, batchSize);
    const answers: Answer[] = [];
    const size = batchSize || this.batchSize;
    for (const item of inputs) {
      // A piece is gone when its tokens are known.
      const pieces = this.#pieces(await soundOf(item, this.#rate, this.bundle, this.name), options);
      const ids: number[] = [];
      for (let rows = taken(pieces, size); rows.length; rows = taken(pieces, size)) {
        const found = new Array<number[]>(rows.length);
        for await (const [i, outputs] of forward(graphs, rows, rows.length))
          found[i] = kept(rows[i], this.score(outputs));
        for (const each of found) for (const id of each) ids.push(id);
      }
      answers.push(this.#text(ids, options));
    }
    return answers;
  }

  /** Rows, each with how many of its frames at the left and at the right belong to its neighbours. */
  *#pieces(sound: Sound, options: Options): Generator<Row> {
    const whole = sound.lengthAt(this.#rate);
    const [length, left, right] = this.#cuts(options);
    if (!length) {
      yield this.#rowOf(sound, 0, whole);
      return;
    }
    for (let start = 0; start < whole; start += length - left - right) {
      const stop = Math.min(start + length, whole);
      const last = start + length >= whole;
      const [before, after] = [start ? left : 0, last ? 0 : right];
      if (stop - start > before && (stop - start >= this.#least || !start)) {
        // Rounded as the pipeline rounds, by the same expressions.
        const samples = stop - start;
        const frames = roundEven(samples * (1 / this.#step));
        const own = [roundEven((before / samples) * frames), frames - roundEven((after / samples) * frames)];
        yield this.#rowOf(sound, start, stop, own);
      }
      if (last) return;
    }
  }

  #rowOf(sound: Sound, start: number, stop: number, extra?: readonly number[]): Row {
    const length = stop - start;
    if (length < this.#least) {
      throw new UsageError(`Cannot use the sound ${sound.name}.`, {
        why: `it has ${length} samples at ${this.#rate} Hz, and the model's first answer takes ${this.#least}`,
        fix: "give a longer one, or add silence",
      });
    }
    if (length > MAX_SECONDS * this.#rate) {
      throw new UsageError(`Cannot use the sound ${sound.name} as a whole.`, {
        why: `it has ${Math.round(length / this.#rate)} seconds, and one run of the model takes at most ${MAX_SECONDS}`,
        fix: "pass chunk_length_s: 30: pieces of 30 seconds that overlap",
      });
    }
    let samples = sound.samples(this.#rate, start, stop);
    if (this.#normalize) samples = normalized(samples);
    let frames = length;
    this.#kernels.forEach((kernel, i) => (frames = Math.floor((frames - kernel) / this.#strides[i]) + 1));
    const mask = int64(new Uint8Array(length).fill(1));
    return row({ input_values: float32([length], samples), attention_mask: mask }, length, extra, "model", { frames });
  }

  /** Samples of a piece and of its overlaps, in whole frames. */
  #cuts(options: Options): [number, number, number] {
    const { chunk_length_s: length, stride_length_s: stride } = options;
    const sides = stride === null ? [length / 6, length / 6] : typeof stride === "number" ? [stride, stride] : stride;
    const given = Array.isArray(sides) ? [length, ...sides] : [];
    const made = given.map((each) => roundEven((Number(each) * this.#rate) / this.#step) * this.#step);
    const right = made.length === 3 && made.every((each) => each >= 0) && (!made[0] || made[0] > made[1] + made[2]);
    if (!right) {
      throw new UsageError(`Cannot use chunk_length_s=${shown(length)} with stride_length_s=${shown(stride)}.`, {
        why: "both are seconds, and a piece must be longer than its two overlaps",
        fix: "pass chunk_length_s: 30, and leave stride_length_s out",
      });
    }
    return made as [number, number, number];
  }

  #text(ids: readonly number[], options: Options): Answer {
    const ctc = this.#ctc;
    const spoken: Spoken[] = [];
    for (let place = 0; place < ids.length;) {
      const token = this.#token(ids[place]);
      const begin = place;
      while (place < ids.length && this.#token(ids[place]) === token) place++;
      if (token !== ctc.blank) spoken.push([token === ctc.delimiter ? ctc.space : token, begin, place]);
    }
    let text = spoken
      .map(([each]) => each)
      .join("")
      .trim();
    if (ctc.lower) text = text.toLowerCase();
    if (ctc.clean_up) for (const each of SPACES_TO_CLEAN) text = text.replaceAll(each, each.trim());
    if (options.return_timestamps === null) return { text };
    const wanted = choice(options, "return_timestamps", ["char", "word"]);
    const found = wanted === "word" ? words(spoken, ctc.space) : spoken;
    const seconds = (frames: number): number => (frames * this.#step) / this.#rate;
    return { text, chunks: found.map(([each, a, b]) => ({ text: each, timestamp: [seconds(a), seconds(b)] })) };
  }

  #token(id: number): string {
    return this.#ctc.tokens[id] ?? this.#ctc.unknown;
  }
}

function taken(pieces: Generator<Row>, count: number): Row[] {
  const rows: Row[] = [];
  while (rows.length < count) {
    const next = pieces.next();
    if (next.done) break;
    rows.push(next.value);
  }
  return rows;
}

/** With the mean 0 and the deviation 1. */
function normalized(samples: Float32Array): Float32Array {
  let sum = 0;
  for (const each of samples) sum += each;
  const mean = Math.fround(sum / samples.length);
  let squares = 0;
  for (const each of samples) squares += (each - mean) ** 2;
  const deviation = Math.fround(Math.sqrt(squares / samples.length + 1e-7));
  return samples.map((each) => Math.fround(each - mean) / deviation);
}

/** The likeliest token of each frame that is this piece's own. */
function kept({ extra }: Row, { probabilities }: Tensors): number[] {
  const ids = Array.from({ length: probabilities.shape[0] }, (_, i) => argmax(rowView(probabilities, i)));
  return extra === undefined ? ids : ids.slice(extra[0], extra[1]);
}

function words(spoken: readonly Spoken[], space: string): Spoken[] {
  const found: Spoken[] = [];
  let open = false;
  for (const [text, from, to] of spoken) {
    if (text === space) open = false;
    else if (open) {
      const last = found[found.length - 1];
      last[0] += text;
      last[2] = to;
    } else {
      found.push([text, from, to]);
      open = true;
    }
  }
  return found;
}

export const TASKS = { "automatic-speech-recognition": SpeechRecognition };
