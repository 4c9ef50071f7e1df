/** text-classification: a label per text (softmax), any number of labels (sigmoid), or a number (regression). */

import type { Bundle } from "../bundle.js";
import type { TaskEntry } from "../manifest.js";
import type { Tensors } from "../tensor.js";
import { KINDS, labelScores, rankedLabels } from "./ranked_labels.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";
import { TextTask, isMapping, rowOfEncoding } from "./text.js";

/**
 * `predict("text")` is `[{label, score}]`, for a list one such object per text.
 *
 * Options as in the pipeline: `top_k` (a number, or null for all labels) makes each result a list of labels, best first;
 * `function_to_apply` is "softmax", "sigmoid" or "none". A pair is `{text, text_pair}`.
 */
export class TextClassification extends TextTask {
  readonly name = "text-classification";
  override readonly textKind = "a string or {text, text_pair}";
  override readonly options = { top_k: "", function_to_apply: null };
  readonly judged: Readonly<Record<string, Kind>>;
  readonly #function: string;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.#function = entry.postprocess[0].step;
    this.judged = { scores: KINDS[this.#function] };
  }

  override encode(item: Input, _options: Options): readonly Row[] {
    if (isMapping(item) && Object.keys(item).every((key) => key === "text" || key === "text_pair")) {
      const { text, text_pair: pair = null } = item;
      if (typeof text === "string" && (pair === null || typeof pair === "string")) {
        return [rowOfEncoding(this.reader.encode(text, pair))];
      }
    }
    if (typeof item !== "string") throw this.wrongType(item);
    return [rowOfEncoding(this.reader.encode(item))];
  }

  score(outputs: Tensors): Tensors {
    return labelScores(this.#function, outputs);
  }

  answer(_item: Input, _rows: readonly Row[], [scores]: readonly Tensors[], options: Options): Answer {
    if (options.top_k === "") return rankedLabels(scores, this.labels(), { ...options, top_k: 1 })[0];
    return rankedLabels(scores, this.labels(), options);
  }

  override wrapSingle(answer: Answer, options: Options): Answer {
    return options.top_k === "" ? [answer] : answer;
  }
}
