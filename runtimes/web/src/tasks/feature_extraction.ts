/** feature-extraction: the last hidden states of every token, special tokens included, as the pipeline gives them. */

import { float32, floats, type Tensor, type Tensors } from "../tensor.js";
import type { Input, Kind, Row } from "./task.js";
import { TextTask } from "./text.js";

/** `predict("text")` is a float32 tensor of shape [1, tokens, hidden]; for a list, a list of such tensors. */
export class FeatureExtraction extends TextTask {
  readonly name = "feature-extraction";
  readonly judged: Readonly<Record<string, Kind>> = { features: "vector" };

  score(outputs: Tensors): Tensors {
    return { features: outputs.last_hidden_state };
  }

  answer(_item: Input, _rows: readonly Row[], [scores]: readonly Tensors[]): Tensor {
    // A row of a batch is a view of it: a copy lets the rest of the batch go.
    return float32([1, ...scores.features.shape], floats(scores.features).slice());
  }
}
