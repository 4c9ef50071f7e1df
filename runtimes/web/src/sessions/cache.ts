/**
 * The cache of a decoder: keys and values of the tokens so far. A token's place in the arrays is its position in the text,
 * and the graph writes it there, so texts of different lengths stand side by side without holes.
 */

import type { Tensor as OrtTensor } from "onnxruntime-common";
import { UsageError } from "../errors.js";
import type { TensorSpec } from "../manifest.js";
import { copyBlock, sizeOf, zeros, type TensorData, type Tensors } from "../tensor.js";
import type { OrtModule } from "./ort.js";
import type { State } from "./session.js";

/** The axis of cache tensors that tokens lie along. */
const CAPACITY = "capacity";
/** The input that says where a token is written. */
export const POSITIONS = "position_ids";

export class OrtCache implements State {
  readonly batch: number;
  capacity: number;
  readonly #specs: readonly TensorSpec[];
  readonly #outputs: Readonly<Record<string, string>>;
  readonly #ort: OrtModule;
  #arrays: Record<string, OrtTensor> = {};

  constructor(
    specs: readonly TensorSpec[],
    outputs: Readonly<Record<string, string>>,
    batch: number,
    capacity: number,
    ort: OrtModule,
  ) {
    this.#specs = specs;
    this.#outputs = outputs;
    this.#ort = ort;
    this.batch = batch;
    this.capacity = capacity;
    for (const spec of specs) this.#arrays[spec.name] = this.#made(spec, zeros(spec.dtype, sizeOf(this.#shape(spec))));
  }

  /** Make room for so many tokens in all; at least double, so that a long text is copied few times. */
  async hold(tokens: number): Promise<void> {
    if (tokens <= this.capacity) return;
    const before = this.#specs.map((spec) => this.#shape(spec));
    // Where the arrays are on a graphics processor, they come from there.
    const held = await Promise.all(this.#specs.map((spec) => this.#arrays[spec.name].getData()));
    this.capacity = Math.max(tokens, 2 * this.capacity);
    this.#specs.forEach((spec, i) => {
      const shape = this.#shape(spec);
      const data = zeros(spec.dtype, sizeOf(shape));
      copyBlock(held[i] as unknown as TensorData, before[i], data, shape, before[i]);
      this.#arrays[spec.name].dispose();
      this.#arrays[spec.name] = this.#made(spec, data);
    });
  }

  /** Give the graph its caches; the names of the outputs that they come out as. */
  bind(feeds: Record<string, OrtTensor>, tensors: Tensors): string[] {
    const positions = tensors[POSITIONS].data as BigInt64Array;
    let last = 0;
    for (const each of positions) last = Math.max(last, Number(each));
    if (last >= this.capacity || tensors[POSITIONS].shape[0] !== this.batch) {
      throw new UsageError(`Cannot write token ${last} of ${tensors[POSITIONS].shape[0]} texts into the cache.`, {
        why: `it holds ${this.capacity} tokens of ${this.batch} texts`,
        fix: "make room with `hold`, or a cache that holds more",
      });
    }
    Object.assign(feeds, this.#arrays);
    return Object.values(this.#outputs);
  }

  /** What came out is what goes in next. */
  keep(found: Record<string, OrtTensor>): void {
    for (const [input, output] of Object.entries(this.#outputs)) {
      this.#arrays[input].dispose();
      this.#arrays[input] = found[output];
    }
  }

  dispose(): void {
    for (const each of Object.values(this.#arrays)) each.dispose();
    this.#arrays = {};
  }

  #made(spec: TensorSpec, data: TensorData): OrtTensor {
    return new this.#ort.Tensor(spec.dtype as never, data as never, this.#shape(spec));
  }

  #shape(spec: TensorSpec): number[] {
    return spec.shape.map((axis) => (typeof axis === "number" ? axis : axis === CAPACITY ? this.capacity : this.batch));
  }
}
