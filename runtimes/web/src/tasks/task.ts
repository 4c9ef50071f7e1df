/** What a task is: the way from an input to the graph, and from the graph's outputs to an answer. */

import type { Bundle } from "../bundle.js";
import { UsageError } from "../errors.js";
import type { Json, TaskEntry, TensorSpec } from "../manifest.js";
import type { Session } from "../sessions/session.js";
import { copyBlock, cropped, rowOf, sizeOf, zeros, type Tensor, type Tensors } from "../tensor.js";

/** How parity compares an array of what the user sees. */
export type Kind = "vector" | "distribution" | "independent" | "number" | "sound" | "next" | "loss" | "raw";

export const WIDE: ReadonlySet<string> = new Set(["distribution", "next"]); // those with a top answer

export type Input = any; // each task checks its own
export type Answer = any; // what `transformers.pipeline` returns for the task
export type Options = Readonly<Record<string, Json>>;
export type Graphs = ReadonlyMap<string, Session>;

/** Rows are sorted by length within blocks of this many batches. */
const BATCHES_PER_BLOCK = 64;
const COMPARED = 2 ** 16; // bytes of a row that is looked for among the others

/** One sequence for the model, before it is padded into a batch. */
export interface Row {
  /** Each without the batch axis. */
  readonly tensors: Tensors;
  readonly length: number;
  /** What the task needs again for the answer. */
  readonly extra?: any;
  /** The graph that takes it. */
  readonly component: string;
  /** Of axes of the outputs, by name, where padding is cut off. */
  readonly sizes: Readonly<Record<string, number>>;
}

export function row(tensors: Tensors, length: number, extra?: unknown, component = "model", sizes = {}): Row {
  return { tensors, length, extra, component, sizes };
}

/** The same for rows that a graph cannot tell apart. */
export function rowKey(row: Row): string {
  const parts = Object.keys(row.tensors)
    .sort()
    .map((name) => `${name}:${row.tensors[name].shape.join(",")}:${row.tensors[name].data.join(",")}`);
  return `${row.component}|${parts.join("|")}`;
}

export abstract class Task {
  abstract readonly name: string;
  /** The arrays that `score` returns, and how parity compares each. */
  abstract readonly judged: Readonly<Record<string, Kind>>;
  /** Those of `judged` that take all rows of an input, and that `join` returns. */
  readonly joint: readonly string[] = [];
  /** What `predict` takes beside the input, with the defaults. */
  readonly options: Options = {};
  readonly batchSize: number = 8;
  /** Whether it writes token by token, with a cache. */
  readonly generates: boolean = false;
  /** Options that end an answer as soon as one can: what is timed of it. */
  readonly brief: Options = {};
  /** Options of golden samples alone. */
  readonly begins: readonly string[] = [];
  /** Tokens that the model takes; 0 where inputs have no length. */
  readonly maxLength: number = 0;
  readonly entry: TaskEntry;
  readonly bundle: Bundle;

  constructor(entry: TaskEntry, bundle: Bundle) {
    this.entry = entry;
    this.bundle = bundle;
  }

  /** The one shape that the graph takes, in words; empty where inputs have a length. */
  get shape(): string {
    return "";
  }

  /** That shape as one number, under which its times are listed; 0 where inputs have a length. */
  get size(): number {
    return 0;
  }

  /** Whether this is one input; otherwise it is a list of them. */
  abstract isSingle(inputs: Input): boolean;

  /** The rows that one input needs. */
  abstract encode(item: Input, options: Options): Promise<readonly Row[]> | readonly Row[];

  /** What the user sees of one row's raw outputs, as the arrays that parity judges. */
  abstract score(outputs: Tensors, row: Row): Tensors;

  /** What the user sees of all rows of one input together, where the answer is more than that of its rows. */
  join(_rows: readonly Row[], _scores: readonly Tensors[]): Tensors {
    return {};
  }

  /** The task's result for one input in a list. */
  abstract answer(item: Input, rows: readonly Row[], scores: readonly Tensors[], options: Options): Answer;

  /** The result where the input was not in a list; some pipelines still wrap it. */
  wrapSingle(answer: Answer, _options: Options): Answer {
    return answer;
  }

  async run(graphs: Graphs, inputs: readonly Input[], options: Options, batchSize = 0): Promise<Answer[]> {
    const size = batchSize || this.batchSize;
    if (inputs.length === 1) {
      const rows = await this.encode(inputs[0], options);
      const scores = new Array<Tensors>(rows.length);
      for await (const [i, outputs] of forward(graphs, rows, size)) scores[i] = this.score(outputs, rows[i]);
      return [this.answer(inputs[0], rows, scores, options)];
    }
    const answers: Answer[] = [];
    const block = size * BATCHES_PER_BLOCK;
    for (let start = 0; start < inputs.length; start += block) {
      answers.push(...(await this.#runBlock(graphs, inputs.slice(start, start + block), options, size)));
    }
    return answers;
  }

  async #runBlock(graphs: Graphs, inputs: readonly Input[], options: Options, batchSize: number): Promise<Answer[]> {
    const rowsOf: (readonly Row[])[] = [];
    for (const item of inputs) rowsOf.push(await this.encode(item, options));
    const rows = rowsOf.flat();
    // Labels come again with every input, and texts in a list are often the same: the graph sees each once.
    const users = new Map<string, number[]>();
    rows.forEach((row, i) => {
      const bytes = Object.values(row.tensors).reduce((sum, each) => sum + each.data.byteLength, 0);
      const key = bytes <= COMPARED ? rowKey(row) : String(i);
      const known = users.get(key);
      if (known) known.push(i);
      else users.set(key, [i]);
    });
    const groups = [...users.values()];
    const scores = new Array<Tensors>(rows.length);
    for await (const [place, outputs] of forward(
      graphs,
      groups.map(([first]) => rows[first]),
      batchSize,
    )) {
      for (const i of groups[place]) scores[i] = this.score(outputs, rows[i]);
    }
    let first = 0;
    return inputs.map((item, i) => {
      const own = scores.slice(first, first + rowsOf[i].length);
      first += rowsOf[i].length;
      return this.answer(item, rowsOf[i], own, options);
    });
  }

  /** What the graphs answer to rows, as parity compares it. */
  forward(graphs: Graphs, rows: readonly Row[], batchSize: number): AsyncGenerator<[number, Tensors]> {
    return forward(graphs, rows, batchSize);
  }

  checkOptions(given: Options): Options {
    const unknown = Object.keys(given)
      .sort()
      .find((name) => !Object.hasOwn(this.options, name));
    if (unknown !== undefined) {
      throw new UsageError(`Cannot use the option '${unknown}'.`, {
        why: `${this.name} takes ${Object.keys(this.options).join(", ") || "none"}`,
        fix: "leave it out",
      });
    }
    return { ...this.options, ...given };
  }
}

export type TaskClass = new (entry: TaskEntry, bundle: Bundle) => Task;

/** Run rows in batches of similar length; each row's index and its outputs on its valid positions. */
export async function* forward(
  graphs: Graphs,
  rows: readonly Row[],
  batchSize: number,
): AsyncGenerator<[number, Tensors]> {
  if (rows.length === 1) {
    const [only] = rows;
    const session = graphs.get(only.component)!;
    const tensors: Tensors = {};
    for (const { name } of session.inputs) tensors[name] = batchOf(only.tensors[name]);
    yield [0, validRow(session, await session.run(tensors), 0, only.sizes)];
    return;
  }
  const groups = new Map<string, number[]>();
  rows.forEach((row, i) => {
    const key = `${row.component}|${unpadded(row)}`;
    const known = groups.get(key);
    if (known) known.push(i);
    else groups.set(key, [i]);
  });
  for (const places of groups.values()) {
    const order = [...places].sort((a, b) => rows[a].length - rows[b].length);
    const session = graphs.get(rows[order[0]].component)!;
    for (let start = 0; start < order.length; start += batchSize) {
      const batch = order.slice(start, start + batchSize);
      const tensors: Tensors = {};
      for (const spec of session.inputs)
        tensors[spec.name] = pad(
          batch.map((i) => rows[i].tensors[spec.name]),
          spec,
        );
      const outputs = await session.run(tensors);
      for (let place = 0; place < batch.length; place++) {
        const i = batch[place];
        yield [i, validRow(session, outputs, place, { sequence: rows[i].length, ...rows[i].sizes })];
      }
    }
  }
}

export function batchOf(tensor: Tensor): Tensor {
  return { dtype: tensor.dtype, shape: [1, ...tensor.shape], data: tensor.data };
}

/** The axes that are never padded, such as a picture's height and width: rows that differ there share no batch. */
function unpadded(row: Row): string {
  return Object.entries(row.tensors)
    .filter(([, value]) => value.shape.length > 1)
    .map(([name, value]) => `${name}${value.shape.slice(1).join(",")}`)
    .join("|");
}

/** One row of the outputs without what padding added to it. */
function validRow(session: Session, outputs: Tensors, place: number, sizes: Readonly<Record<string, number>>): Tensors {
  const found: Tensors = {};
  for (const spec of session.outputs) {
    const value = rowOf(outputs[spec.name], place);
    const wanted = value.shape.map((size, axis) => {
      const name = spec.shape[axis + 1];
      return typeof name === "string" && Object.hasOwn(sizes, name) ? sizes[name] : size;
    });
    found[spec.name] = cropped(value, wanted);
  }
  return found;
}

/** A batch of one input's rows, each filled up to the longest. */
export function pad(arrays: readonly Tensor[], spec: TensorSpec): Tensor {
  const { dtype, shape } = arrays[0];
  const longest = Math.max(...arrays.map((each) => each.shape[0]));
  const whole = [longest, ...shape.slice(1)];
  const size = sizeOf(whole);
  const data = zeros(dtype, arrays.length * size);
  if (spec.padding)
    (data as Float32Array).fill((data instanceof BigInt64Array ? BigInt(spec.padding) : spec.padding) as never);
  arrays.forEach((each, i) => copyBlock(each.data, each.shape, data, whole, each.shape, i * size));
  return { dtype, shape: [arrays.length, ...whole], data };
}
