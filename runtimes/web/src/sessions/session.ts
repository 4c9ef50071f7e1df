/** One small contract for every engine: a loaded graph with named inputs and outputs. */

import type { Bundle } from "../bundle.js";
import { SupportError } from "../errors.js";
import type { Graph, TensorSpec } from "../manifest.js";
import type { Tensors } from "../tensor.js";

/** What really runs. */
export interface Used {
  readonly engine: string;
  readonly threads: number | null;
  /** An accelerator; null: the engine's plain kernels. */
  readonly delegate: string | null;
}

/** What a session keeps between calls: a cache of attention. */
export interface State {
  readonly batch: number;
  readonly capacity: number;
  /** Make room for so many tokens in all. */
  hold(tokens: number): Promise<void>;
  dispose(): void;
}

/** One loaded graph on one engine. What `run` returns belongs to the caller and is never written again. */
export interface Session {
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  readonly used: Used;
  /** A cache for so many texts of at most so many tokens; null where a graph keeps nothing between calls. */
  newState(batch: number, capacity: number): State | null;
  /** `only` names the outputs that are wanted; an engine may answer with more. */
  run(tensors: Tensors, state?: State | null, only?: readonly string[]): Promise<Tensors>;
  close(): Promise<void>;
}

export interface SessionOptions {
  /** Intra-op; null takes what the bundle prefers. */
  readonly threads: number | null;
}

/** An engine that is brought to `load`: the core imports none. */
export interface EngineAdapter {
  /** The bundle format that it runs. */
  readonly format: string;
  /** Open the entries of one component; a format of static shapes has one for each length. */
  openSession(bundle: Bundle, graphs: readonly Graph[], options: SessionOptions): Promise<Session>;
}

/** The one that runs a bundle's format. */
export function engineFor(bundle: Bundle, engines: readonly EngineAdapter[]): EngineAdapter {
  const { format } = bundle.manifest.target;
  const found = engines.find((each) => each.format === format);
  if (found !== undefined) return found;
  throw new SupportError(`Cannot load the bundle ${bundle.path}.`, {
    why: `it holds '${format}'; the engines given here run ${engines.map((each) => each.format).join(", ") || "nothing"}`,
    fix: "pass another engine to load(), or convert with --format onnx",
  });
}

/** Calls that wait for each other. */
export type Turn = <T>(call: () => Promise<T>) => Promise<T>;

/** A queue of calls, for an engine that takes one at a time. */
export function inTurn(): Turn {
  let last: Promise<unknown> = Promise.resolve();
  return (call) => {
    const turn = last.then(call, call);
    last = turn.catch(() => undefined);
    return turn;
  };
}
