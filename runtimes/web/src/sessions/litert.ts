/** TFLite bundles in a browser: @litertjs/core, on WebAssembly with XNNPACK, or WebGPU. */

import type { CompiledModel } from "@litertjs/core";
import { IntegrityError, SupportError, ToolchainError } from "../errors.js";
import type { Graph } from "../manifest.js";
import type { DType, TensorData, Tensors } from "../tensor.js";
import { BucketSession, type Bucket } from "./buckets.js";
import { threadsHere } from "./onnxruntime_web.js";
import type { EngineAdapter } from "./session.js";

export interface LiteRtOptions {
  /** The folder from which the page serves the files of @litertjs/core's `wasm`. */
  readonly wasm: string | URL;
  readonly accelerator?: "wasm" | "webgpu";
}

type LiteRt = typeof import("@litertjs/core");

/** What LiteRT's JavaScript can hand over; graphs of other ends are run in Python. */
const TYPES: readonly string[] = ["float32", "int32", "uint8"];

let loading: Promise<LiteRt> | null = null;

/** An engine for `load`; nothing of it is fetched before a bundle needs it. */
export function liteRt(options: LiteRtOptions): EngineAdapter {
  return {
    format: "tflite",
    async openSession(bundle, graphs, { threads }) {
      const [first] = graphs;
      check(bundle.path, graphs);
      const litert = await engine(options);
      const wanted = threadsHere(threads);
      const accelerator = options.accelerator ?? "wasm";
      const bytes = bundle.read(first.file);
      if (String.fromCharCode(...bytes.subarray(4, 8)) !== "TFL3") {
        throw new IntegrityError(`Cannot load ${first.file} of the bundle ${bundle.path}.`, {
          why: "it is not a TFLite file",
          fix: "copy the bundle again",
        });
      }
      let model: CompiledModel;
      try {
        model = await litert.loadAndCompile(bytes, { accelerator, cpuOptions: { numThreads: wanted } });
      } catch (error) {
        throw new SupportError(`Cannot run ${first.file} of the bundle ${bundle.path}.`, {
          why: `LiteRT refuses it: ${String((error as Error)?.message ?? error)
            .trim()
            .split("\n")[0]
            .slice(0, 300)}`,
          fix: "update @litertjs/core in this app, or convert again with --format onnx",
        });
      }
      bundle.release(first.file);
      const buckets = graphs.map((graph): Bucket => ({ axes: graph.bind, call: caller(litert, model, graph) }));
      const used = { engine: "litert.js", threads: wanted, delegate: accelerator === "webgpu" ? "webgpu" : "xnnpack" };
      return new BucketSession(first, buckets, used, () => model.delete());
    },
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
