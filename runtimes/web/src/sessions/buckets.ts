/**
 * Graphs of fixed shapes behind the contract of a session: several lengths, the smallest that fits, pad and slice back.
 */

import { UsageError } from "../errors.js";
import type { Graph, TensorSpec } from "../manifest.js";
import { copyBlock, cropped, sizeOf, zeros, type Tensor, type Tensors } from "../tensor.js";
import { cast } from "./ort.js";
import { inTurn, type Session, type Turn, type Used } from "./session.js";

/** One compiled shape: the axes that it fixes (none: it takes any), and a call on tensors of exactly that shape. */
export interface Bucket {
  readonly axes: Readonly<Record<string, number>>;
  call(tensors: Tensors): Promise<Tensors>;
}

export class BucketSession implements Session {
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  readonly used: Used;
  #buckets: Bucket[];
  readonly #free: () => void;
  readonly #axes = new Map<string, [name: string, place: number]>();
  readonly #turn: Turn;

  constructor(graph: Graph, buckets: readonly Bucket[], used: Used, free: () => void, turn: Turn = inTurn()) {
    this.inputs = graph.inputs;
    this.outputs = graph.outputs;
    this.used = used;
    this.#free = free;
    this.#turn = turn;
    const order = (bucket: Bucket): number[] => Object.values(bucket.axes);
    this.#buckets = [...buckets].sort((a, b) => {
      const [one, other] = [order(a), order(b)];
      const differs = one.findIndex((size, i) => size !== other[i]);
      return differs < 0 ? 0 : one[differs] - other[differs];
    });
    for (const spec of [...graph.inputs].reverse()) {
      spec.shape.forEach((axis, place) => {
        if (typeof axis === "string") this.#axes.set(axis, [spec.name, place]);
      });
    }
  }

  newState(): null {
    return null;
  }

  run(tensors: Tensors): Promise<Tensors> {
    return this.#turn(() => this.#run(tensors));
  }

  async #run(tensors: Tensors): Promise<Tensors> {
    if (!this.#buckets.length) {
      throw new UsageError("Cannot run the session.", { why: "it was closed", fix: "load the bundle again" });
    }
    const sizes: Record<string, number> = {};
    for (const [axis, [name, place]] of this.#axes) sizes[axis] = tensors[name].shape[place];
    const bucket = this.#smallest(sizes);
    const batch = sizes.batch ?? 1;
    const compiled = bucket.axes.batch ?? batch;
    const parts: Tensors[] = [];
    for (let start = 0; start < batch; start += compiled)
      parts.push(await bucket.call(this.#slice(tensors, bucket, start, compiled)));
    const joined: Tensors = {};
    for (const spec of this.outputs)
      joined[spec.name] = join(
        spec,
        parts.map((part) => part[spec.name]),
        sizes,
      );
    return joined;
  }

  #smallest(sizes: Readonly<Record<string, number>>): Bucket {
    const fits = (bucket: Bucket): boolean =>
      Object.entries(bucket.axes).every(([axis, size]) => axis === "batch" || !(axis in sizes) || sizes[axis] <= size);
    const found = this.#buckets.find(fits);
    if (found !== undefined) return found;
    const largest = Object.entries(this.#buckets[this.#buckets.length - 1].axes).filter(([axis]) => axis !== "batch");
    throw new UsageError(`Cannot run an input of ${largest.map(([axis]) => `${axis} ${sizes[axis]}`).join(", ")}.`, {
      why: `the graph was compiled for at most ${largest.map(([axis, size]) => `${axis} ${size}`).join(", ")}`,
      fix: "shorten the input, or convert again with a larger --sequence-length",
    });
  }

  /** Rows `start` and on, padded to the compiled shape with each input's padding value. */
  #slice(tensors: Tensors, bucket: Bucket, start: number, compiled: number): Tensors {
    const made: Tensors = {};
    for (const spec of this.inputs) {
      const whole = tensors[spec.name];
      const row = sizeOf(whole.shape.slice(1));
      const count = Math.min(compiled, whole.shape[0] - start);
      const rows = [count, ...whole.shape.slice(1)];
      const given = cast(whole.data.subarray(start * row, (start + count) * row), whole.dtype, spec.dtype);
      const shape = spec.shape.map((axis, place) =>
        typeof axis === "number" ? axis : (bucket.axes[axis] ?? rows[place]),
      );
      if (shape.every((size, i) => size === rows[i])) {
        made[spec.name] = { dtype: spec.dtype, shape, data: given };
        continue;
      }
      const data = zeros(spec.dtype, sizeOf(shape));
      if (spec.padding)
        (data as Float32Array).fill((data instanceof BigInt64Array ? BigInt(spec.padding) : spec.padding) as never);
      copyBlock(given, rows, data, shape, rows);
      made[spec.name] = { dtype: spec.dtype, shape, data };
    }
    return made;
  }

  async close(): Promise<void> {
    if (this.#buckets.length) this.#free();
    this.#buckets = [];
  }
}

function join(spec: TensorSpec, parts: readonly Tensor[], sizes: Readonly<Record<string, number>>): Tensor {
  let [whole] = parts;
  if (parts.length > 1) {
    const shape = [parts.reduce((sum, part) => sum + part.shape[0], 0), ...whole.shape.slice(1)];
    const data = zeros(whole.dtype, sizeOf(shape));
    let at = 0;
    for (const part of parts) {
      (data as Float32Array).set(part.data as Float32Array, at);
      at += part.data.length;
    }
    whole = { dtype: whole.dtype, shape, data };
  }
  const wanted = whole.shape.map((size, place) => {
    const axis = spec.shape[place];
    return typeof axis === "string" && axis in sizes ? sizes[axis] : size;
  });
  return cropped(whole, wanted);
}
