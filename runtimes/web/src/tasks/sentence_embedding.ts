/** sentence-embedding: one vector per text, pooled and normalized as the model's sentence-transformers modules say. */

import { SupportError } from "../errors.js";
import { norm } from "../numbers.js";
import { float32, floats, type Tensor, type Tensors } from "../tensor.js";
import type { Input, Kind, Row } from "./task.js";
import { TextTask } from "./text.js";

/** `predict("text")` is a Float32Array of the model's width, as `SentenceTransformer.encode` gives it. */
export class SentenceEmbedding extends TextTask {
  readonly name = "sentence-embedding";
  readonly judged: Readonly<Record<string, Kind>> = { embedding: "vector" };

  score(outputs: Tensors): Tensors {
    let vector = outputs.last_hidden_state;
    for (const step of this.entry.postprocess) {
      if (step.step === "pool") vector = pooled(vector, step.options.modes);
      else if (step.step === "normalize") {
        const values = floats(vector);
        const length = Math.max(norm(values), 1e-12); // the smallest norm as in torch.nn.functional.normalize
        vector = float32(
          vector.shape,
          values.map((each) => each / length),
        );
      }
    }
    return { embedding: float32(vector.shape, floats(vector)) };
  }

  answer(_item: Input, _rows: readonly Row[], [scores]: readonly Tensors[]): Float32Array {
    return floats(scores.embedding).slice();
  }
}

/** States [tokens, hidden] of one text to one vector; several modes stand side by side, in the library's order. */
function pooled(states: Tensor, modes: readonly string[]): Tensor {
  const [count, width] = states.shape;
  const values = floats(states);
  const made = new Float32Array(modes.length * width);
  modes.forEach((mode, i) => {
    const out = made.subarray(i * width, (i + 1) * width);
    if (mode === "cls") out.set(values.subarray(0, width));
    else if (mode === "lasttoken") out.set(values.subarray((count - 1) * width));
    else if (mode === "max") {
      out.fill(-Infinity);
      for (let at = 0; at < values.length; at++) out[at % width] = Math.max(out[at % width], values[at]);
    } else if (mode === "mean" || mode === "mean_sqrt_len" || mode === "weightedmean") {
      const sums = new Float64Array(width);
      for (let token = 0, at = 0; token < count; token++) {
        const weight = mode === "weightedmean" ? token + 1 : 1;
        for (let j = 0; j < width; j++, at++) sums[j] += weight * values[at];
      }
      const all = mode === "mean" ? count : mode === "mean_sqrt_len" ? Math.sqrt(count) : (count * (count + 1)) / 2;
      for (let j = 0; j < width; j++) out[j] = sums[j] / all;
    } else throw new SupportError(`Cannot pool by '${mode}'.`, { why: "no such mode", fix: "convert the model again" });
  });
  return float32([made.length], made);
}
