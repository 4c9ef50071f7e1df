/** What classifiers share: labels by their scores, best first. */

import { FUNCTIONS, ranked } from "../numbers.js";
import { floats, type Tensors } from "../tensor.js";
import type { Kind, Options } from "./task.js";
import { choice, wholeNumber } from "./text.js";

export const KINDS: Readonly<Record<string, Kind>> = {
  softmax: "distribution",
  sigmoid: "independent",
  none: "number",
};

export interface Label {
  readonly label: string;
  readonly score: number;
}

export function labelScores(name: string, outputs: Tensors): Tensors {
  return { scores: FUNCTIONS[name](outputs.logits), logits: outputs.logits };
}

/** Options as in the pipeline: `top_k` (a number, or null for all labels); `function_to_apply`. */
export function rankedLabels(scores: Tensors, labels: readonly string[], options: Options): readonly Label[] {
  let values = floats(scores.scores);
  if (options.function_to_apply !== null) {
    values = floats(FUNCTIONS[choice(options, "function_to_apply", Object.keys(FUNCTIONS))](scores.logits));
  }
  const found = ranked(values).map((i) => ({ label: labels[i], score: values[i] }));
  return options.top_k === null ? found : found.slice(0, wholeNumber(options, "top_k"));
}
