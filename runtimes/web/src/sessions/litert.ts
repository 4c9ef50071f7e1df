/** TFLite bundles in a browser: @litertjs/core, on WebAssembly with XNNPACK, or WebGPU. */

import type { CompiledModel } from "@litertjs/core";
import type { Bundle } from "../bundle.js";
import { IntegrityError, SupportError, ToolchainError } from "../errors.js";
import type { Graph } from "../manifest.js";
import type { DType, TensorData, Tensors } from "../tensor.js";
import { BucketSession, type Bucket } from "./buckets.js";
import { threadsHere } from "./onnxruntime_web.js";
import { inTurn, type EngineAdapter } from "./session.js";
import { Watch, openDevice } from "./webgpu.js";

export interface LiteRtOptions {
  /** The folder from which the page serves the files of @litertjs/core's `wasm`. */
  readonly wasm: string | URL;
  /** "webgpu" runs on the graphics processor, in float32 as on the processor, and takes graphs that run there as a whole. */
  readonly accelerator?: "wasm" | "webgpu";
}

type LiteRt = typeof import("@litertjs/core");

/** What LiteRT's JavaScript can hand over; graphs of other ends are run in Python. */
const TYPES: readonly string[] = ["float32", "int32", "uint8"];

let loading: Promise<LiteRt> | null = null;

/** Of all sessions on WebGPU: they share a device, and a call of the engine waits for it halfway. */
const gpuTurn = inTurn();

/** The one that LiteRT's shaders were made for first; it takes no other while the page is open, and answers zeros then. */
let gpuDevice: GPUDevice | null = null;

/** An engine for `load`; nothing of it is fetched before a bundle needs it. */
export function liteRt(options: LiteRtOptions): EngineAdapter {
  return {
    format: "tflite",
    async openSession(bundle, graphs, { threads }) {
      const [first] = graphs;
      check(bundle.path, graphs);
      const gpu = options.accelerator === "webgpu";
      const device = gpu ? await openDevice(bundle.path, "accelerator") : null;
      const litert = await engine(options);
      if (device !== null) takeDevice(litert, device, bundle.path);
      const wanted = threadsHere(threads);
      const turn = gpu ? gpuTurn : inTurn();
      const model = await turn(() => compiled(litert, bundle, first, gpu, wanted));
      bundle.release(first.file);
      const watch = device && new Watch(device, bundle.path, "accelerator");
      const buckets = graphs.map((graph): Bucket => {
        const call = caller(litert, model, graph);
        return { axes: graph.bind, call: watch ? watched(call, watch) : call };
      });
      const used = { engine: "litert.js", threads: wanted, delegate: gpu ? "webgpu" : "xnnpack" };
      const free = (): void => {
        watch?.end();
        model.delete();
      };
      return new BucketSession(first, buckets, used, free, turn);
    },
  };
}

function takeDevice(litert: LiteRt, device: GPUDevice, path: string): void {
  gpuDevice ??= device;
  if (gpuDevice !== device) {
    throw new SupportError(`Cannot run ${path} on WebGPU.`, {
      why: "the browser took the graphics processor away, and LiteRT takes no other while a page is open",
      fix: `reload the page, or leave accelerator out: "wasm" runs everywhere`,
    });
  }
  if (litert.getWebGpuDevice() !== device) litert.setWebGpuDevice(device);
}

async function compiled(
  litert: LiteRt,
  bundle: Bundle,
  { file }: Graph,
  gpu: boolean,
  threads: number,
): Promise<CompiledModel> {
  const bytes = bundle.read(file);
  if (String.fromCharCode(...bytes.subarray(4, 8)) !== "TFL3") {
    throw new IntegrityError(`Cannot load ${file} of the bundle ${bundle.path}.`, {
      why: "it is not a TFLite file",
      fix: "copy the bundle again",
    });
  }
  let model: CompiledModel;
  try {
    model = await litert.loadAndCompile(bytes, {
      accelerator: gpu ? "webgpu" : "wasm",
      cpuOptions: { numThreads: threads },
      gpuOptions: { precision: "fp32" }, // as the golden samples are; by itself LiteRT may take half of it
    });
  } catch (error) {
    throw new SupportError(`Cannot run ${file} of the bundle ${bundle.path}.`, {
      why: `LiteRT refuses it: ${firstLine(error)}`,
      fix: "update @litertjs/core in this app, or convert again with --format onnx",
    });
  }
  // LiteRT goes on with a part of the graph, or all of it, on the processor, and says so on the console alone.
  if (gpu && !(model.options.accelerator === "webgpu" && model.isFullyAccelerated)) {
    model.delete();
    throw new SupportError(`Cannot run ${file} of the bundle ${bundle.path} on WebGPU.`, {
      why: "LiteRT has not all of its operators there; the console names those that it lacks",
      fix: 'leave accelerator out: "wasm" runs everywhere; or convert with --format onnx',
    });
  }
  return model;
}

function firstLine(error: unknown): string {
  return String((error as Error)?.message ?? error)
    .trim()
    .split("\n")[0]
    .slice(0, 300);
}

function watched(call: Bucket["call"], watch: Watch): Bucket["call"] {
  return async (tensors) => {
    watch.check();
    try {
      return await call(tensors);
    } catch (error) {
      watch.fail(`LiteRT broke off: ${firstLine(error)}`);
      throw error;
    } finally {
      watch.check();
    }
  };
}

function check(path: string, graphs: readonly Graph[]): void {
  const [first] = graphs;
  if (Object.keys(first.state).length) {
    throw new SupportError(`Cannot run ${first.file} of the bundle ${path} here.`, {
      why: "it writes token by token, and this runtime keeps no cache for TFLite graphs",
      fix: "convert with --format onnx",
    });
  }
  const odd = [...first.inputs, ...first.outputs].find((spec) => !TYPES.includes(spec.dtype));
  if (odd !== undefined) {
    throw new SupportError(`Cannot run ${first.file} of the bundle ${path} here.`, {
      why: `its '${odd.name}' is ${odd.dtype}; LiteRT takes ${TYPES.join(", ")} from JavaScript`,
      fix: "convert with --io-dtype float32, or with --format onnx",
    });
  }
}

async function engine(options: LiteRtOptions): Promise<LiteRt> {
  loading ??= (async () => {
    const litert = await import("@litertjs/core");
    const base = new URL(options.wasm, globalThis.location?.href).href;
    await litert.loadLiteRt(base.endsWith("/") ? base : `${base}/`, {
      threads: globalThis.crossOriginIsolated === true,
    });
    return litert;
  })();
  try {
    return await loading;
  } catch (error) {
    loading = null;
    throw new ToolchainError("Cannot run a TFLite bundle.", {
      why: `@litertjs/core cannot be loaded (${String((error as Error)?.message ?? error)})`,
      fix: "npm install @litertjs/core, and serve its folder wasm/ with the page",
    });
  }
}

function caller(litert: LiteRt, model: CompiledModel, graph: Graph): (tensors: Tensors) => Promise<Tensors> {
  return async (tensors) => {
    const feeds: Record<string, InstanceType<LiteRt["Tensor"]>> = {};
    for (const spec of graph.inputs) {
      const { data, shape } = tensors[spec.name];
      feeds[spec.name] = new litert.Tensor(data as Float32Array, [...shape]);
    }
    try {
      const found = graph.entry === null ? await model.run(feeds) : await model.run(graph.entry, feeds);
      const made: Tensors = {};
      for (const spec of graph.outputs) {
        const tensor = found[spec.name];
        const data = (await tensor.data()) as TensorData;
        made[spec.name] = { dtype: tensor.type.dtype as DType, shape: [...tensor.type.layout.dimensions], data };
        tensor.delete();
      }
      return made;
    } finally {
      for (const each of Object.values(feeds)) each.delete();
    }
  };
}
