/** depth-estimation: how far away each pixel of a picture is. */

import { mapsResized } from "../image/maps.js";
import { float32, floats, type Tensor, type Tensors } from "../tensor.js";
import { ImageTask } from "./image.js";
import type { Answer, Input, Kind, Row } from "./task.js";

/**
 * `predict(file)` is an object, for a list one for each picture: `predicted_depth`, float32 [height, width] of the picture in the
 * model's own unit, and `depth`, the same as uint8 grey values, the smallest black and the largest white.
 */
export class DepthEstimation extends ImageTask {
  readonly name = "depth-estimation";
  readonly judged: Readonly<Record<string, Kind>> = { depth: "vector" };

  score(outputs: Tensors): Tensors {
    const whole = floats(outputs.predicted_depth);
    let sum = 0;
    for (const each of whole) sum += each;
    const mean = Math.fround(sum / whole.length);
    const { shape } = outputs.predicted_depth;
    // About its mean: a far wall is all that two pictures may have in common, and it would hide what differs.
    return {
      depth: float32(
        shape,
        whole.map((each) => each - mean),
      ),
      whole: float32(shape, whole),
    };
  }

  answer(_item: Input, [row]: readonly Row[], [scores]: readonly Tensors[]): Answer {
    const [height, width] = row.extra as [number, number];
    const [high, wide] = scores.whole.shape;
    const depth = mapsResized(floats(scores.whole), high, wide, height, width, "bicubic");
    let [least, most] = [Infinity, -Infinity];
    for (const each of depth) {
      if (each < least) least = each;
      if (each > most) most = each;
    }
    const range = Math.fround(most - least) || 1;
    const grey = Uint8Array.from(depth, (each) => Math.fround(Math.fround(Math.fround(each - least) / range) * 255));
    const picture: Tensor = { dtype: "uint8", shape: [height, width], data: grey };
    return { predicted_depth: float32([height, width], depth), depth: picture };
  }
}
