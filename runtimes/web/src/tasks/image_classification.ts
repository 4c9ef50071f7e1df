/** image-classification: the labels of a picture, best first. */

import type { Bundle } from "../bundle.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import { FUNCTIONS, ranked } from "../numbers.js";
import { floats, type Tensors } from "../tensor.js";
import { ImageTask } from "./image.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";
import { choice, wholeNumber } from "./text.js";

/**
 * `predict(file)` is `[{label, score}, …]`, best first; for a list one such list per picture. Options as in the pipeline: `top_k`
 * (a number, or null for all labels); `function_to_apply`.
 */
export class ImageClassification extends ImageTask {
  readonly name = "image-classification";
  override readonly options = { top_k: 5, function_to_apply: null };
  readonly judged: Readonly<Record<string, Kind>>;
  readonly #function: string;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.#function = entry.postprocess[0].step;
    this.judged = { scores: this.#function === "sigmoid" ? "independent" : "distribution" };
  }

  score(outputs: Tensors): Tensors {
    return { scores: FUNCTIONS[this.#function](outputs.logits), logits: outputs.logits };
  }

  answer(_item: Input, _rows: readonly Row[], [scores]: readonly Tensors[], options: Options): Answer {
    let values = floats(scores.scores);
    if (options.function_to_apply !== null) {
      values = floats(FUNCTIONS[choice(options, "function_to_apply", Object.keys(FUNCTIONS))](scores.logits));
    }
    const labels: readonly string[] = stepOption(this.entry, "labels", "labels", []);
    const found = ranked(values).map((i) => ({ label: labels[i], score: values[i] }));
    return options.top_k === null ? found : found.slice(0, wholeNumber(options, "top_k"));
  }
}
