/** ONNX bundles in a browser: onnxruntime-web, on WebAssembly or WebGPU. */

import type { InferenceSession } from "onnxruntime-common";
import type { Bundle } from "../bundle.js";
import { SupportError, ToolchainError } from "../errors.js";
import { nodesOf } from "./onnx_nodes.js";
import { openOrtSession, type OrtModule } from "./ort.js";
import { inTurn, type EngineAdapter } from "./session.js";
import { Watch, openDevice } from "./webgpu.js";

type Backend = "wasm" | "webgpu";

export interface OnnxWebOptions {
  /**
   * The folder from which the page serves onnxruntime-web's `ort-wasm-simd-threaded.mjs` and `.wasm`; for WebGPU
   * `ort-wasm-simd-threaded.asyncify.mjs` and `.wasm`. By default the engine looks beside its own script.
   */
  readonly wasm?: string | URL;
  /** "webgpu" runs on the graphics processor, and loads a larger engine; operators that it lacks run on the processor. */
  readonly backend?: Backend;
  /** The engine's module, where the app has loaded it already. */
  readonly module?: () => Promise<unknown>;
}

interface WebModule extends OrtModule {
  readonly env: {
    readonly versions: { readonly web?: string; readonly common: string };
    readonly wasm: { wasmPaths?: string | Record<string, string>; numThreads?: number; proxy?: boolean };
    logLevel?: string;
  };
}

/** The engines of this page or worker. Threads are started with the first session, and are as many ever after. */
const loaded = new Map<Backend, { readonly module: WebModule; threads: number | null }>();

/** Of all sessions: WebGPU is waited for in the middle of a call, and the engine's one stack holds no second call then. */
const gpuTurn = inTurn();

/**
 * WGSL promises of these an error of 2^-11 at most, between -π and π (https://www.w3.org/TR/WGSL/#floating-point-accuracy), and a
 * model turns its positions with them: on Chromium's software adapter a key was off by 1e-3. On the processor it is 1e-6.
 */
const ON_PROCESSOR = ["Sin", "Cos"];

/** An engine for `load`; nothing of it is fetched before a bundle needs it. */
export function onnxRuntimeWeb(options: OnnxWebOptions = {}): EngineAdapter {
  const backend = options.backend ?? "wasm";
  return {
    format: "onnx",
    async openSession(bundle, graphs, { threads }) {
      checkSimd();
      const device = backend === "webgpu" ? await openDevice(bundle.path, "backend") : null;
      if (device !== null) checkHalves(device, bundle);
      const engine = await engineOf(backend, options);
      const ort = engine.module;
      const wanted = engine.threads ?? threadsHere(threads);
      if (options.wasm !== undefined) {
        const base = new URL(options.wasm, globalThis.location?.href).href;
        ort.env.wasm.wasmPaths = base.endsWith("/") ? base : `${base}/`;
      }
      ort.env.wasm.numThreads = wanted;
      ort.env.logLevel = "error";
      const version = ort.env.versions.web ?? ort.env.versions.common;
      const name = `onnxruntime-web ${version}`;
      const create = served(ort, backend);
      const forced = device ? nodesOf(bundle.read(graphs[0].file), ON_PROCESSOR) : [];
      const provider = device && {
        ...{ name: "webgpu", device },
        ...(forced.length ? { forceCpuNodeNames: forced } : {}), // the engine refuses an empty list
      };
      const opened = await openOrtSession(bundle, graphs, {
        ort: { InferenceSession: { create }, Tensor: ort.Tensor },
        name,
        used: { engine: name, threads: wanted, delegate: backend === "webgpu" ? "webgpu" : null },
        providers: [provider ?? "wasm"],
        threads: null, // of the module as a whole
        gpu: device && { turn: gpuTurn, watch: () => new Watch(device, bundle.path, "backend"), option: "backend" },
      });
      engine.threads = wanted;
      return opened;
    },
  };
}

/** A shader of float16 needs the processor's own; the engine finds out in the first call. */
function checkHalves(device: GPUDevice, { path, manifest }: Bundle): void {
  if (manifest.target.scheme !== "fp16" || device.features.has("shader-f16")) return;
  throw new SupportError(`Cannot run ${path} on WebGPU.`, {
    why: "its numbers are float16, and this graphics processor has none in shaders",
    fix: 'convert with --quantize fp32, or leave backend out: "wasm" runs everywhere',
  });
}

async function engineOf(
  backend: Backend,
  options: OnnxWebOptions,
): Promise<{ readonly module: WebModule; threads: number | null }> {
  const known = loaded.get(backend);
  if (known !== undefined) return known;
  try {
    const module = options.module
      ? await options.module()
      : backend === "webgpu"
        ? await import("onnxruntime-web/webgpu")
        : await import("onnxruntime-web/wasm");
    const engine = loaded.get(backend) ?? { module: module as WebModule, threads: null };
    loaded.set(backend, engine);
    return engine;
  } catch (error) {
    throw notServed(error, "npm install onnxruntime-web, and serve its files with the page");
  }
}

/** The engine fetches its WebAssembly with the first session, and says of a file that is not there what no user can read. */
function served(ort: WebModule, backend: Backend): OrtModule["InferenceSession"]["create"] {
  return async (model: Uint8Array, options?: InferenceSession.SessionOptions) => {
    try {
      return await ort.InferenceSession.create(model, options);
    } catch (error) {
      if (!/no available backend found/.test((error as Error)?.message ?? "")) throw error;
      const files = `ort-wasm-simd-threaded${backend === "webgpu" ? ".asyncify" : ""}`;
      throw notServed(error, `serve ${files}.mjs and ${files}.wasm of onnxruntime-web, name their folder, and reload`);
    }
  };
}

function notServed(error: unknown, fix: string): ToolchainError {
  return new ToolchainError("Cannot run an ONNX bundle.", {
    why: `onnxruntime-web cannot be loaded (${(error as Error).message})`,
    fix,
  });
}

/** As many as asked for, where the page may have threads: they share memory, which only an isolated page may do. */
export function threadsHere(wanted: number | null): number {
  if (!globalThis.crossOriginIsolated) return 1;
  const cores = globalThis.navigator?.hardwareConcurrency ?? 1;
  return Math.max(1, Math.min(wanted ?? 1, cores));
}

// (module (func (result v128) i32.const 0 i8x16.splat)): what every browser since 2021 (Safari: 2023) takes.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

export function hasSimd(): boolean {
  return typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(SIMD));
}

function checkSimd(): void {
  if (hasSimd()) return;
  const none = typeof WebAssembly !== "object";
  throw new SupportError("Cannot run a model in this browser.", {
    why: none ? "it has no WebAssembly" : "its WebAssembly has no SIMD instructions, which onnxruntime-web needs",
    fix: "update the browser: Chrome 91, Firefox 89 and Safari 16.4 are the first that have them",
  });
}
