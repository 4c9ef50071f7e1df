/** zero-shot-classification: labels that are chosen when it is asked, by what the text entails. */

import type { Bundle } from "../bundle.js";
import { UsageError } from "../errors.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import { softmax } from "../numbers.js";
import { float32, floats, type Tensors } from "../tensor.js";
import { chosenLabels, hypotheses } from "./labels.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";
import { TextTask, rowOfEncoding } from "./text.js";

/**
 * `predict("text", {candidate_labels: ["travel", "food"]})` is `{sequence, labels, scores}`, the likeliest first. Options as in
 * the pipeline: `candidate_labels`, a list or a string with commas; `hypothesis_template`; `multi_label`.
 */
export class ZeroShotClassification extends TextTask {
  readonly name = "zero-shot-classification";
  readonly judged: Readonly<Record<string, Kind>> = { scores: "distribution" };
  override readonly options = {
    candidate_labels: null,
    hypothesis_template: "This example is {}.",
    multi_label: false,
  };
  readonly #entailment: number;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.#entailment = Number(stepOption(entry, "entailment", "label"));
  }

  override encode(item: Input, options: Options): readonly Row[] {
    if (typeof item !== "string") throw this.wrongType(item);
    if (!item)
      throw new UsageError("Cannot classify the text.", { why: "it is empty", fix: "give a text that is not empty" });
    return hypotheses(options).map((hypothesis) => rowOfEncoding(this.reader.encode(item, hypothesis)));
  }

  score(outputs: Tensors): Tensors {
    return { scores: softmax(outputs.logits), logits: outputs.logits };
  }

  answer(item: Input, _rows: readonly Row[], scores: readonly Tensors[], options: Options): Answer {
    const labels = chosenLabels(options);
    const logits = scores.map((each) => floats(each.logits));
    let values: number[];
    if (options.multi_label || labels.length === 1) {
      const against = this.#entailment === 0 ? logits[0].length - 1 : 0;
      const pairs = Float32Array.from(logits.flatMap((each) => [each[against], each[this.#entailment]]));
      values = [...floats(softmax(float32([labels.length, 2], pairs)))].filter((_, i) => i % 2 === 1);
    } else {
      values = [
        ...floats(
          softmax(
            float32(
              [labels.length],
              Float32Array.from(logits, (each) => each[this.#entailment]),
            ),
          ),
        ),
      ];
    }
    // Of equal ones the last comes first, as in Python, which sorts upwards and turns round.
    const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a] || b - a);
    return { sequence: item, labels: order.map((i) => labels[i]), scores: order.map((i) => values[i]) };
  }
}
