/** image-classification: the labels of a picture, best first. */

import type { Bundle } from "../bundle.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import type { Tensors } from "../tensor.js";
import { ImageTask } from "./image.js";
import { KINDS, labelScores, rankedLabels } from "./ranked_labels.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";

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
    this.judged = { scores: KINDS[this.#function] };
  }

  score(outputs: Tensors): Tensors {
    return labelScores(this.#function, outputs);
  }

  answer(_item: Input, _rows: readonly Row[], [scores]: readonly Tensors[], options: Options): Answer {
    return rankedLabels(scores, stepOption(this.entry, "labels", "labels", []), options);
  }
}
