/** ONNX bundles in a browser: onnxruntime-web, on WebAssembly or WebGPU. */

import { SupportError, ToolchainError } from "../errors.js";
import { openOrtSession, type OrtModule } from "./ort.js";
import type { EngineAdapter } from "./session.js";

export interface OnnxWebOptions {
  /**
   * The folder from which the page serves onnxruntime-web's `ort-wasm-simd-threaded.mjs` and `.wasm`. By default the
   * engine looks beside its own script.
   */
  readonly wasm?: string | URL;
  /** "webgpu" runs on the graphics processor, and loads a larger engine. */
  readonly backend?: "wasm" | "webgpu";
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

/** The engine of this page or worker. Its threads are started with its first session, and are as many ever after. */
let loaded: { backend: string; module: WebModule; threads: number | null } | null = null;

/** An engine for `load`; nothing of it is fetched before a bundle needs it. */
export function onnxRuntimeWeb(options: OnnxWebOptions = {}): EngineAdapter {
  const backend = options.backend ?? "wasm";
  return {
    format: "onnx",
    async openSession(bundle, graphs, { threads }) {
      checkSimd();
      if (backend === "webgpu" && !("gpu" in (globalThis.navigator ?? {}))) {
        throw new SupportError(`Cannot run ${bundle.path} on WebGPU.`, {
          why: "this browser has none, or the page is not served by https",
          fix: 'leave backend out: "wasm" runs everywhere',
        });
      }
      const ort = await moduleOf(backend, options);
      const wanted = loaded?.threads ?? threadsHere(threads);
      if (options.wasm !== undefined) {
        const base = new URL(options.wasm, globalThis.location?.href).href;
        ort.env.wasm.wasmPaths = base.endsWith("/") ? base : `${base}/`;
      }
      ort.env.wasm.numThreads = wanted;
      ort.env.logLevel = "error";
      const version = ort.env.versions.web ?? ort.env.versions.common;
      const engine = `onnxruntime-web ${version}`;
      const opened = await openOrtSession(bundle, graphs, {
        ort,
        name: engine,
        used: { engine, threads: wanted, delegate: backend === "webgpu" ? "webgpu" : null },
        providers: backend === "webgpu" ? ["webgpu"] : ["wasm"],
        threads: null, // of the module as a whole
      });
      if (loaded !== null) loaded.threads = wanted;
      return opened;
    },
  };
}

async function moduleOf(backend: string, options: OnnxWebOptions): Promise<WebModule> {
  if (loaded !== null && loaded.backend === backend) return loaded.module;
  try {
    const module = options.module
      ? await options.module()
      : backend === "webgpu"
        ? await import("onnxruntime-web/webgpu")
        : await import("onnxruntime-web/wasm");
    loaded = { backend, module: module as WebModule, threads: null };
    return loaded.module;
  } catch (error) {
    throw new ToolchainError("Cannot run an ONNX bundle.", {
      why: `onnxruntime-web cannot be loaded (${(error as Error).message})`,
      fix: "npm install onnxruntime-web, and serve its files with the page",
    });
  }
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
