/** text-classification: a label per text (softmax), any number of labels (sigmoid), or a number (regression). */

import type { Bundle } from "../bundle.js";
import type { TaskEntry } from "../manifest.js";
import { FUNCTIONS, ranked } from "../numbers.js";
import { floats, type Tensors } from "../tensor.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";
import { TextTask, choice, isMapping, rowOfEncoding, wholeNumber } from "./text.js";

const KINDS: Readonly<Record<string, Kind>> = { softmax: "distribution", sigmoid: "independent", none: "number" };

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
    return { scores: FUNCTIONS[this.#function](outputs.logits), logits: outputs.logits };
  }

  answer(_item: Input, _rows: readonly Row[], [scores]: readonly Tensors[], options: Options): Answer {
    let values = floats(scores.scores);
    if (options.function_to_apply !== null) {
      values = floats(FUNCTIONS[choice(options, "function_to_apply", Object.keys(FUNCTIONS))](scores.logits));
    }
    const labels = this.labels();
    const found = ranked(values).map((i) => ({ label: labels[i], score: values[i] }));
    if (options.top_k === "") return found[0];
    return options.top_k === null ? found : found.slice(0, wholeNumber(options, "top_k"));
  }

  override wrapSingle(answer: Answer, options: Options): Answer {
    return options.top_k === "" ? [answer] : answer;
  }
}
