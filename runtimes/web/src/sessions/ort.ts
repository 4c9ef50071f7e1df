/** ONNX graphs on any build of onnxruntime for JavaScript: they differ in how the module arrives, and in nothing here. */

import type { InferenceSession, Tensor as OrtTensor } from "onnxruntime-common";
import type { Bundle } from "../bundle.js";
import { IntegrityError, SatchelError, SizeError, SupportError, UsageError } from "../errors.js";
import { answered, caches, given, type Graph, type TensorSpec } from "../manifest.js";
import type { DType, TensorData, Tensors } from "../tensor.js";
import { OrtCache, POSITIONS } from "./cache.js";
import { inTurn, type Session, type State, type Turn, type Used } from "./session.js";
import type { Watch } from "./webgpu.js";

/** What is needed of the module. */
export interface OrtModule {
  readonly InferenceSession: {
    create(model: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
  readonly Tensor: new (type: never, data: never, dims: readonly number[]) => OrtTensor;
}

/** A bundle may set these and nothing else: the list of the Python runtime. */
const SESSION_OPTIONS = new Set([
  "optimization.disable_specified_optimizers",
  "session.disable_prepacking",
  "session.intra_op.allow_spinning",
  "session.inter_op.allow_spinning",
  "session.set_denormal_as_zero",
  "session.qdq_matmulnbits_accuracy_level",
]);

export interface OrtOpening {
  readonly ort: OrtModule;
  /** With its version, for messages. */
  readonly name: string;
  readonly used: Used;
  readonly providers?: readonly InferenceSession.ExecutionProviderConfig[];
  readonly threads: number | null;
  readonly gpu?: OrtGpu | null;
}

/** What a session on WebGPU needs beside one on the processor. */
export interface OrtGpu {
  /** Which all sessions of the engine share. */
  readonly turn: Turn;
  readonly watch: () => Watch;
  /** The option that asked for it, for messages. */
  readonly option: string;
}

/** Open one component's graph; dynamic axes, so one entry serves every length. */
export async function openOrtSession(bundle: Bundle, graphs: readonly Graph[], how: OrtOpening): Promise<Session> {
  const [graph] = graphs;
  if (graphs.length !== 1) {
    throw new IntegrityError(`Cannot load the bundle ${bundle.path}.`, {
      why: `it has ${graphs.length} ONNX graphs for one component`,
      fix: "convert the model again",
    });
  }
  if (graph.window !== null) {
    throw new SupportError(`Cannot run ${graph.file} of the bundle ${bundle.path}.`, {
      why: `its layers see a sliding window of ${graph.window} tokens, whose cache this runtime does not keep`,
      fix: "run it with the Python runtime, or take a model without one",
    });
  }
  const options: InferenceSession.SessionOptions = { logSeverityLevel: 3, graphOptimizationLevel: "all" };
  if (how.providers) options.executionProviders = how.providers;
  if (how.threads !== null) options.intraOpNumThreads = how.threads;
  options.extra = entriesOf(bundle);
  const gpu = how.gpu ?? null;
  // A cache goes back in with the next token: it stays where it was made.
  if (gpu !== null) {
    options.preferredOutputLocation = Object.fromEntries(
      Object.values(graph.state).map((name) => [name, "gpu-buffer" as const]),
    );
  }
  if (graph.weights !== null) {
    options.externalData = [{ path: graph.weights.split("/").pop()!, data: bundle.read(graph.weights) }];
  }
  const turn = gpu?.turn ?? inTurn();
  const watch = gpu?.watch() ?? null;
  let opened: InferenceSession;
  try {
    opened = await turn(() => how.ort.InferenceSession.create(bundle.read(graph.file), options));
  } catch (error) {
    watch?.end();
    throw openingError(error, how, graph, bundle);
  }
  bundle.release(graph.file);
  if (graph.weights !== null) bundle.release(graph.weights);
  checkNames(bundle, graph, opened);
  return new OrtSession(graph, opened, how, turn, watch);
}

/** Session options of a bundle as the nested object that onnxruntime's JavaScript takes. */
function entriesOf(bundle: Bundle): Record<string, unknown> {
  const nested: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(bundle.manifest.target.engine.options)) {
    if (!SESSION_OPTIONS.has(key)) {
      throw new IntegrityError(`Cannot load the bundle ${bundle.path}.`, {
        why: `it sets the session option '${key}', which is not on the allow-list`,
        fix: `convert again with options among ${[...SESSION_OPTIONS].join(", ")}`,
      });
    }
    let at = nested;
    const parts = key.split(".");
    for (const part of parts.slice(0, -1)) at = (at[part] ??= {}) as Record<string, unknown>;
    at[parts[parts.length - 1]] = value;
  }
  return nested;
}

function openingError(error: unknown, how: OrtOpening, graph: Graph, bundle: Bundle): Error {
  if (error instanceof SatchelError) return error;
  const said = error instanceof Error ? error.message : String(error);
  if (outOfMemory(said)) return memoryError(graph.file);
  return new SupportError(`Cannot run ${graph.file} of the bundle ${bundle.path}.`, {
    why: `${how.name} refuses it: ${firstLine(said)}`,
    fix: how.gpu
      ? `leave ${how.gpu.option} out: "wasm" may run it`
      : "update the engine in this app, or convert for a profile with this engine version",
  });
}

function firstLine(said: string): string {
  return said.trim().split("\n")[0].slice(0, 300);
}

function outOfMemory(said: string): boolean {
  return /bad_alloc|out of memory|allocat|memory access out of bounds|^\d+$/i.test(said);
}

function memoryError(what: string): SizeError {
  return new SizeError(`Cannot hold ${what} in memory.`, {
    why: "the browser gives this page no more of it",
    fix: "close other pages, or convert to a smaller scheme (--quantize int8-dynamic)",
  });
}

function checkNames(bundle: Bundle, graph: Graph, opened: InferenceSession): void {
  const sides: [string, readonly TensorSpec[], readonly string[]][] = [
    ["inputs", graph.inputs, opened.inputNames],
    ["outputs", graph.outputs, opened.outputNames],
  ];
  for (const [side, specs, has] of sides) {
    const says = specs
      .map((spec) => spec.name)
      .sort()
      .join(", ");
    const names = [...has].sort().join(", ");
    if (says !== names) {
      throw new IntegrityError(`Cannot load ${graph.file} of the bundle ${bundle.path}.`, {
        why: `its ${side} are ${names}, the manifest says ${says}`,
        fix: "convert the model again",
      });
    }
  }
}

class OrtSession implements Session {
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  readonly used: Used;
  readonly #graph: Graph;
  readonly #ort: OrtModule;
  readonly #names: readonly string[];
  readonly #watch: Watch | null;
  #engine: InferenceSession | null;
  // The engine takes one call at a time, and refuses a second one: calls wait for each other here.
  readonly #turn: Turn;

  constructor(graph: Graph, engine: InferenceSession, how: OrtOpening, turn: Turn, watch: Watch | null) {
    this.#graph = graph;
    this.#engine = engine;
    this.#ort = how.ort;
    this.#turn = turn;
    this.#watch = watch;
    this.used = how.used;
    this.inputs = given(graph);
    this.outputs = answered(graph);
    this.#names = this.outputs.map((spec) => spec.name);
  }

  newState(batch: number, capacity: number): OrtCache | null {
    if (Object.keys(this.#graph.state).length === 0) return null;
    return new OrtCache(caches(this.#graph), this.#graph.state, batch, capacity, this.#ort);
  }

  /** A cache for one call alone. */
  #ownCache(tensors: Tensors): OrtCache | null {
    if (Object.keys(this.#graph.state).length === 0) return null;
    const positions = tensors[POSITIONS];
    return this.newState(positions.shape[0], Math.max(...Array.from(positions.data as BigInt64Array, Number)) + 1);
  }

  run(tensors: Tensors, state: State | null = null, only: readonly string[] = this.#names): Promise<Tensors> {
    return this.#turn(() => this.#run(tensors, state as OrtCache | null, only));
  }

  async #run(tensors: Tensors, state: OrtCache | null, only: readonly string[]): Promise<Tensors> {
    const engine = this.#engine;
    if (engine === null)
      throw new UsageError("Cannot run the session.", { why: "it was closed", fix: "load the bundle again" });
    this.#watch?.check();
    const feeds: Record<string, OrtTensor> = {};
    for (const spec of this.inputs) feeds[spec.name] = this.#given(spec, tensors);
    const asked = [...only];
    const cache = state ?? this.#ownCache(tensors);
    if (cache !== null) asked.push(...cache.bind(feeds, tensors));
    let found: InferenceSession.ReturnType;
    try {
      found = await engine.run(feeds, asked);
    } catch (error) {
      const said = error instanceof Error ? error.message : String(error);
      // Of a call that broke off the engine keeps what was bound for it, and would take that for the next one.
      this.#watch?.fail(`${this.used.engine} broke off: ${firstLine(said)}`);
      if (outOfMemory(said)) throw memoryError("an input of this size");
      this.#watch?.check();
      throw error;
    }
    this.#watch?.check();
    cache?.keep(found as Record<string, OrtTensor>);
    const answers: Tensors = {};
    for (const name of only) {
      const value = found[name] as OrtTensor;
      answers[name] = { dtype: value.type as DType, shape: value.dims, data: value.data as unknown as TensorData };
    }
    return answers;
  }

  #given(spec: TensorSpec, tensors: Tensors): OrtTensor {
    const tensor = tensors[spec.name];
    if (tensor === undefined) {
      throw new UsageError("Cannot run the session.", { why: `the input '${spec.name}' is missing`, fix: "give it" });
    }
    const data = cast(tensor.data, tensor.dtype, spec.dtype);
    return new this.#ort.Tensor(spec.dtype as never, data as never, tensor.shape);
  }

  async close(): Promise<void> {
    const engine = this.#engine;
    this.#engine = null;
    this.#watch?.end();
    if (engine !== null) await this.#turn(() => engine.release());
  }
}

/** Values in the dtype that a graph takes; tasks make int64 and float32. */
export function cast(data: TensorData, from: DType, to: DType): TensorData {
  if (from === to) return data;
  if (to === "int32") return Int32Array.from(data as Int32Array, Number);
  if (to === "int64") return BigInt64Array.from(data as Int32Array, (value: number | bigint) => BigInt(value));
  if (to === "float32") return Float32Array.from(data as Int32Array, Number);
  if (to === "bool") return Uint8Array.from(data as Int32Array, (value) => Number(Number(value) !== 0));
  if (to === "float16") return Uint16Array.from(data as Int32Array, (value) => floatToHalf(Number(value)));
  throw new SupportError(`Cannot give an engine ${to}.`, {
    why: `the input has ${from}`,
    fix: "convert the model again",
  });
}

const scratch = new DataView(new ArrayBuffer(4));

/** The nearest float16, as bits; ties to even. */
function floatToHalf(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const exponent = (bits >>> 23) & 255;
  const fraction = bits & 0x7fffff;
  if (exponent === 255) return sign | 0x7c00 | (fraction ? 0x200 : 0);
  const magnitude = Math.abs(value);
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | roundEven(magnitude * 2 ** 24);
  const rounded = roundEven((fraction | 0x800000) / 2 ** 13);
  return sign | (((exponent - 113) << 10) + rounded);
}

function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
