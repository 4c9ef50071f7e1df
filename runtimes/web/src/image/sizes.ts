/** The sizes that the steps of an image processor make, with the roundings of transformers. */

import { UsageError } from "../errors.js";
import type { Json, Step } from "../manifest.js";

type Size = readonly [height: number, width: number];

/** Height and width of what the steps make of any picture; null where each picture has its own. */
export function imageSize(steps: readonly Step[]): Size | null {
  if (steps.some((step) => step.step === "pad")) return null;
  const fixed = steps.filter((step) => ["resize", "frame", "center_crop"].includes(step.step));
  const last = fixed[fixed.length - 1]?.options;
  if (last === undefined || !("height" in last) || "keep_aspect" in last) return null;
  return [last.height, last.width];
}

/** Python's `round`: half to even. */
export function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** Height and width that a resize step gives to a picture. */
export function resizedSize(size: Json, height: number, width: number): Size {
  const multiple: number = size.multiple ?? 1;
  const down = (value: number): number => Math.floor(value / multiple) * multiple;
  if (size.round === "half up") return withinEdges(size, height, width);
  if ("most" in size) return withinPixels(size, height, width);
  if ("longest_edge" in size) {
    const [high, wide] = betweenEdges(size.shortest_edge, size.longest_edge, height, width, size.round === "down");
    if (size.round === "up") return [Math.ceil(high / multiple) * multiple, Math.ceil(wide / multiple) * multiple];
    return [down(high), down(wide)];
  }
  if ("shortest_edge" in size) {
    const [short, long] = [Math.min(width, height), Math.max(width, height)];
    const edge = Math.trunc((size.shortest_edge * long) / short);
    return height <= width ? [size.shortest_edge, edge] : [edge, size.shortest_edge];
  }
  if ("keep_aspect" in size) {
    const [high, wide] = [size.height / height, size.width / width];
    const kept = Math.abs(1 - wide) < Math.abs(1 - high) ? wide : high; // what changes the picture less
    return [roundEven((kept * height) / multiple) * multiple, roundEven((kept * width) / multiple) * multiple];
  }
  if ("height" in size) return [size.height, size.width];
  return [down(height), down(width)];
}

/** As ViLT does. */
function withinEdges(size: Json, height: number, width: number): Size {
  let scale = size.shortest_edge / Math.min(height, width);
  let [high, wide] = height < width ? [size.shortest_edge, scale * width] : [scale * height, size.shortest_edge];
  if (Math.max(high, wide) > size.longest_edge) {
    scale = size.longest_edge / Math.max(high, wide);
    [high, wide] = [scale * high, scale * wide];
  }
  const whole = (value: number): number => Math.floor(Math.trunc(value + 0.5) / size.multiple) * size.multiple;
  return [whole(high), whole(wide)];
}

const STRIP = 200; // times that one side is longer, at most

/** As Qwen2-VL does. */
function withinPixels(size: Json, height: number, width: number): Size {
  if (Math.max(height, width) > STRIP * Math.min(height, width)) {
    throw new UsageError(`Cannot use a picture of ${width}x${height} pixels.`, {
      why: `one side is more than ${STRIP} times the other, and the model's processor refuses that`,
      fix: "crop it to what there is to see",
    });
  }
  const unit: number = size.multiple;
  const made: Size = [roundEven(height / unit) * unit, roundEven(width / unit) * unit];
  if (made[0] * made[1] > size.most) {
    const scale = Math.sqrt((height * width) / size.most);
    const fit = (value: number): number => Math.max(unit, Math.floor(value / scale / unit) * unit);
    return [fit(height), fit(width)];
  }
  if (made[0] * made[1] < size.least) {
    const scale = Math.sqrt(size.least / (height * width));
    const fit = (value: number): number => Math.ceil((value * scale) / unit) * unit;
    return [fit(height), fit(width)];
  }
  return made;
}

/** The short edge as asked for, or what the long edge leaves of it. */
function betweenEdges(shortest: number, longest: number, height: number, width: number, again: boolean): Size {
  const [short, long] = [Math.min(height, width), Math.max(height, width)];
  let exact: number | null = null;
  if ((long / short) * shortest > longest) {
    exact = (longest * short) / long;
    shortest = roundEven(exact);
  }
  const asItIs = (height <= width && height === shortest) || (width <= height && width === shortest);
  if (asItIs && !(again && width < height)) return [height, width];
  const edge = exact ?? shortest;
  return width < height
    ? [Math.trunc((edge * height) / width), shortest]
    : [shortest, Math.trunc((edge * width) / height)];
}

/** Height and width of a picture that is made to fit, as Donut's processor rounds them. */
export function thumbnailSize(size: Json, height: number, width: number): Size {
  const [high, wide] = [Math.min(height, size.height), Math.min(width, size.width)];
  if (high === height && wide === width) return [high, wide];
  if (height > width) return [high, Math.trunc((width * high) / height)];
  if (width > height) return [Math.trunc((height * wide) / width), wide];
  return [high, wide];
}
