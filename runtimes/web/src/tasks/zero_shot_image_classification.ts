/** zero-shot-image-classification: labels that are chosen when it is asked, by how near their text lies to the picture. */

import type { Bundle } from "../bundle.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import { norm, ranked, sigmoid, softmax } from "../numbers.js";
import { float32, floats, int64, type Tensors } from "../tensor.js";
import { PictureReader } from "./image.js";
import { chosenLabels, hypotheses } from "./labels.js";
import { Task, row, type Answer, type Input, type Kind, type Options, type Row } from "./task.js";
import { TextReader, rowOfIds } from "./text.js";

const IMAGES = "image_encoder";
const TEXTS = "text_encoder";

/**
 * `predict(file, {candidate_labels: ["a cat", "a dog"]})` is `[{score, label}, …]`, best first. Options as in the pipeline:
 * `candidate_labels`, a list or a string with commas; `hypothesis_template`. Scores of a CLIP add to 1; those of a SigLIP are each
 * label's own.
 */
export class ZeroShotImageClassification extends Task {
  readonly name = "zero-shot-image-classification";
  override readonly options = { candidate_labels: null, hypothesis_template: "This is a photo of {}." };
  override readonly joint = ["scores"];
  readonly judged: Readonly<Record<string, Kind>>;
  readonly #pictures: PictureReader;
  readonly #texts: TextReader;
  readonly #alone: boolean;
  readonly #factor: number;
  readonly #bias: number;
  readonly #fill: readonly [length: number, id: number];

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.#pictures = new PictureReader(entry, bundle, ["tokenize", "characters", "fill"]);
    this.#texts = new TextReader(entry, bundle);
    this.#alone = entry.postprocess.some((step) => step.step === "sigmoid");
    this.#factor = Math.fround(stepOption(entry, "similarity", "scale", 1));
    this.#bias = Math.fround(stepOption(entry, "similarity", "bias", 0));
    this.#fill = [stepOption(entry, "fill", "length", 0), stepOption(entry, "fill", "id", 0)];
    this.judged = {
      image_embeds: "vector",
      text_embeds: "vector",
      scores: this.#alone ? "independent" : "distribution",
    };
  }

  override get shape(): string {
    return this.#pictures.fixed ? this.#pictures.fixed.join("x") : "";
  }

  override get size(): number {
    return this.#pictures.fixed ? this.#pictures.fixed[0] : 1;
  }

  isSingle(inputs: Input): boolean {
    return !Array.isArray(inputs);
  }

  async encode(item: Input, options: Options): Promise<readonly Row[]> {
    const texts = hypotheses(options).map((text) => this.#textRow(text));
    const picture = await this.#pictures.picture(item);
    return [row(this.#pictures.tensors(picture), 1, undefined, IMAGES), ...texts];
  }

  #textRow(text: string): Row {
    const encoding = this.#texts.encode(text);
    const [length, pad] = this.#fill;
    const missing = Math.max(0, length - encoding.length);
    const made = rowOfIds(
      [...encoding.ids, ...new Array<number>(missing).fill(pad)],
      [...encoding.typeIds, ...new Array<number>(missing).fill(0)],
      undefined,
      TEXTS,
    );
    const mask = Array.from({ length: made.length }, (_, i) => (i < encoding.length ? 1 : 0));
    return { ...made, tensors: { ...made.tensors, attention_mask: int64(mask) } };
  }

  score(outputs: Tensors): Tensors {
    const [[name, vector]] = Object.entries(outputs);
    const values = floats(vector);
    const length = Math.fround(norm(values));
    return {
      [name]: float32(
        vector.shape,
        values.map((each) => each / length),
      ),
    };
  }

  override join(_rows: readonly Row[], scores: readonly Tensors[]): Tensors {
    const [given, ...texts] = scores.map((each) => floats(Object.values(each)[0]));
    const similar = Float32Array.from(texts, (text) => {
      let product = 0;
      for (let i = 0; i < text.length; i++) product += text[i] * given[i];
      return Math.fround(Math.fround(product) * this.#factor) + this.#bias;
    });
    const values = float32([similar.length], similar);
    return { scores: this.#alone ? sigmoid(values) : softmax(values) };
  }

  answer(_item: Input, rows: readonly Row[], scores: readonly Tensors[], options: Options): Answer {
    const values = floats(this.join(rows, scores).scores);
    const labels = chosenLabels(options);
    return ranked(values).map((i) => ({ score: values[i], label: labels[i] }));
  }
}
