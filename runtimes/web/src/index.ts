/** satchel-runtime: load a bundle that satchel made, predict, and prove that this device computes the same. */

export { Bundle, openBundle, type BundleFiles, type BundleSource, type OpenOptions } from "./bundle.js";
export {
  IntegrityError,
  ParityError,
  SatchelError,
  SizeError,
  SupportError,
  ToolchainError,
  UsageError,
  type PlainError,
} from "./errors.js";
export { findings, replay, verify, type Findings, type GoldenItem, type Replay } from "./golden.js";
export type { Graph, Manifest, Step, TaskEntry, TensorSpec } from "./manifest.js";
export type { Limits, Parity } from "./parity.js";
export { Predictor, load, type LoadOptions, type PredictOptions } from "./predictor.js";
export type { EngineAdapter, Session, SessionOptions, State, Used } from "./sessions/session.js";
export { listTasks } from "./tasks/index.js";
export type { DType, Tensor, Tensors } from "./tensor.js";
export { Tokenizer } from "./tokenizers/tokenizer.js";
