/** object-detection: what is in a picture, and where. */

import type { Bundle } from "../bundle.js";
import { UsageError, shown } from "../errors.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import { argmax, ranked, rowView, sigmoid, softmax } from "../numbers.js";
import { float32, floats, type Tensors } from "../tensor.js";
import { ImageTask } from "./image.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";

/**
 * `predict(file)` is `[{score, label, box: {xmin, ymin, xmax, ymax}}, …]` in pixels of the picture; for a list one such list per
 * picture. Options as in the pipeline: `threshold`, the score that a detection must exceed.
 */
export class ObjectDetection extends ImageTask {
  readonly name = "object-detection";
  override readonly options = { threshold: 0.5 };
  readonly judged: Readonly<Record<string, Kind>>;
  /** Whether each class is scored by itself; otherwise against each other, the last of them "no object". */
  readonly #alone: boolean;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.#alone = entry.postprocess[0].step === "sigmoid";
    this.judged = { scores: this.#alone ? "independent" : "distribution", boxes: "number" };
  }

  score(outputs: Tensors): Tensors {
    const scores = this.#alone ? sigmoid(outputs.logits) : softmax(outputs.logits);
    const boxes = floats(outputs.pred_boxes);
    // A box counts as much as its score: where nothing is seen it lies anywhere.
    const weighted = boxes.map((value, i) => value * this.#likeliest(rowView(scores, Math.floor(i / 4))));
    const { shape } = outputs.pred_boxes;
    return { scores, boxes: float32(shape, weighted), places: float32(shape, boxes) };
  }

  #likeliest(row: Float32Array): number {
    let most = -Infinity;
    for (let i = 0; i < row.length - (this.#alone ? 0 : 1); i++) if (row[i] > most) most = row[i];
    return most;
  }

  answer(_item: Input, [row]: readonly Row[], [scores]: readonly Tensors[], options: Options): Answer {
    const threshold = share(options, "threshold");
    const [count, classes] = scores.scores.shape;
    const values = floats(scores.scores);
    let found: [query: number, label: number, score: number][];
    if (this.#alone) {
      // Of all queries and labels together, best first.
      const most: number = this.entry.postprocess[0].options.most ?? count;
      found = ranked(values)
        .slice(0, most)
        .map((i) => [Math.floor(i / classes), i % classes, values[i]]);
    } else {
      found = Array.from({ length: count }, (_, query) => {
        const label = argmax(values, query * classes, (query + 1) * classes - 1);
        return [query, label, values[query * classes + label]];
      });
    }
    const labels: readonly string[] = stepOption(this.entry, "labels", "labels", []);
    const [height, width] = row.extra as [number, number];
    return found
      .filter(([, , score]) => score > threshold)
      .map(([query, label, score]) => ({
        score,
        label: labels[label],
        box: boxOf(rowView(scores.places, query), height, width),
      }));
  }
}

/** From centre and size, as parts of the picture, to corners in pixels; in float32, as the Python runtime rounds. */
function boxOf([x, y, wide, high]: Float32Array, height: number, width: number): Record<string, number> {
  const f = Math.fround;
  const corner = (centre: number, size: number, sign: number, scale: number): number =>
    Math.trunc(f(f(centre + sign * f(0.5 * size)) * scale));
  return {
    xmin: corner(x, wide, -1, width),
    ymin: corner(y, high, -1, height),
    xmax: corner(x, wide, 1, width),
    ymax: corner(y, high, 1, height),
  };
}

function share(options: Options, name: string): number {
  const value = options[name];
  if (typeof value !== "number" || !(value >= 0 && value <= 1)) {
    throw new UsageError(`Cannot use ${name} ${shown(value)}.`, {
      why: "it takes a number from 0 to 1",
      fix: "pass one",
    });
  }
  return value;
}
