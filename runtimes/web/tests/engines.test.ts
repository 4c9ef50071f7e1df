/** Engines by contract: what an adapter gives an engine, and what it says where there is none. */

import * as common from "onnxruntime-common";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Bundle } from "../src/bundle.js";
import type { Graph } from "../src/manifest.js";
import { nodesOf } from "../src/sessions/onnx_nodes.js";
import { onnxRuntimeWeb } from "../src/sessions/onnxruntime_web.js";
import { onnxRuntimeReactNative, type ReactNativeOrt } from "../src/sessions/react_native.js";
import { int64 } from "../src/tensor.js";

const GRAPH = {
  component: "model",
  file: "model.onnx",
  inputs: [{ name: "input_ids", dtype: "int32", shape: ["batch", "sequence"], padding: 0 }],
  outputs: [{ name: "logits", dtype: "float32", shape: ["batch", 2], padding: null }],
  ...{ entry: null, bind: {}, weights: null, state: {}, window: null },
} as Graph;

function bundle(options: Record<string, string> = {}, scheme = "fp32"): Bundle {
  const whole = new Uint8Array(16);
  return {
    path: "a test",
    manifest: { target: { format: "onnx", scheme, engine: { options } } },
    read: () => whole.subarray(4, 8), // a view of a larger buffer
    release: () => undefined,
  } as unknown as Bundle;
}

function native(found: { sizes: number[]; fed: unknown[]; options: unknown[] }, outputs = ["logits"]): ReactNativeOrt {
  const session = {
    inputNames: ["input_ids"],
    outputNames: outputs,
    run: async (feeds: Record<string, common.Tensor>) => {
      found.fed.push([feeds.input_ids.type, [...(feeds.input_ids.data as Int32Array)]]);
      return { logits: new common.Tensor("float32", new Float32Array([1, 2]), [1, 2]) };
    },
    release: async () => undefined,
  };
  return {
    InferenceSession: {
      create: async (buffer: ArrayBufferLike, options: unknown) => {
        found.sizes.push(buffer.byteLength);
        found.options.push(options);
        return session as unknown as common.InferenceSession;
      },
    },
    Tensor: common.Tensor as never,
  };
}

afterEach(() => vi.unstubAllGlobals());

test("React Native's module gets whole buffers, the graph's own dtypes, and the providers of the phone", async () => {
  const found = { sizes: [] as number[], fed: [] as unknown[], options: [] as any[] };
  const adapter = onnxRuntimeReactNative(native(found), ["coreml"]);

  const session = await adapter.openSession(bundle({ "session.disable_prepacking": "1" }), [GRAPH], { threads: 2 });
  const { logits } = await session.run({ input_ids: int64([5, 6], [1, 2]) });

  expect(found.sizes).toEqual([4]);
  expect(found.fed).toEqual([["int32", [5, 6]]]);
  expect(found.options[0]).toMatchObject({
    executionProviders: ["coreml"],
    intraOpNumThreads: 2,
    extra: { session: { disable_prepacking: "1" } },
  });
  expect([...(logits.data as Float32Array)]).toEqual([1, 2]);
  expect(session.used.delegate).toBe("coreml");
  await session.close();
  await expect(session.run({ input_ids: int64([5], [1, 1]) })).rejects.toThrow(/it was closed/);
});

test("the module of onnxruntime fits the adapter's types", () => {
  // React Native's package exports what onnxruntime-common does; the type checker reads this line.
  const adapter = onnxRuntimeReactNative(common as unknown as ReactNativeOrt);

  expect(adapter.format).toBe("onnx");
});

test("a graph of other names than the manifest's, and session options that are not on the list, are refused", async () => {
  const found = { sizes: [], fed: [], options: [] };
  const adapter = onnxRuntimeReactNative(native(found, ["other"]));

  await expect(adapter.openSession(bundle(), [GRAPH], { threads: null })).rejects.toThrow(
    /its outputs are other, the manifest says logits/,
  );
  const options = { "session.load_model_format": "ORT" };
  await expect(adapter.openSession(bundle(options), [GRAPH], { threads: null })).rejects.toThrow(
    /not on the allow-list/,
  );
});

test("a sliding window's cache is Python's", async () => {
  const adapter = onnxRuntimeReactNative(native({ sizes: [], fed: [], options: [] }));

  await expect(adapter.openSession(bundle(), [{ ...GRAPH, window: 64 }], { threads: null })).rejects.toThrow(
    /sliding window of 64 tokens/,
  );
});

test("a browser without SIMD is told what to do", async () => {
  vi.stubGlobal("WebAssembly", { validate: () => false });
  await expect(onnxRuntimeWeb().openSession(bundle(), [GRAPH], { threads: null })).rejects.toThrow(
    /no SIMD instructions, which onnxruntime-web needs\n {2}fix: update the browser: Chrome 91/,
  );
});

test.each([
  ["no WebGPU", {}, true, /this browser has none/],
  ["plain http", {}, false, /served neither by https nor from localhost/],
  ["no adapter", { gpu: { requestAdapter: async () => null } }, true, /finds no graphics processor/],
])(
  "WebGPU in a page with %s is refused with a way out, before an engine is fetched",
  async (_, navigator, secure, why) => {
    vi.stubGlobal("navigator", navigator);
    vi.stubGlobal("isSecureContext", secure);
    const module = vi.fn();

    const opening = onnxRuntimeWeb({ backend: "webgpu", module }).openSession(bundle(), [GRAPH], { threads: null });

    await expect(opening).rejects.toThrow(why);
    await expect(opening).rejects.toThrow(/fix: leave backend out: "wasm" runs everywhere/);
    expect(module).not.toHaveBeenCalled();
  },
);

describe("on WebGPU", () => {
  const given = { input_ids: int64([5, 6], [1, 2]) };
  const calls: string[] = [];
  let lose: (info: object) => void;
  // The page's one device: it is made for the first bundle.
  const device = Object.assign(new EventTarget(), {
    features: new Set<string>(),
    lost: new Promise((resolve) => (lose = resolve)),
  });
  const adapter = { features: new Set(), limits: {}, requestDevice: async () => device };
  const engineSession = {
    inputNames: ["input_ids"],
    outputNames: ["logits"],
    run: async () => {
      calls.push("begin");
      await new Promise((resolve) => setTimeout(resolve, 1));
      calls.push("end");
      return { logits: new common.Tensor("float32", new Float32Array([1, 2]), [1, 2]) };
    },
    release: async () => undefined,
  };
  const module = async (): Promise<unknown> => ({
    InferenceSession: { create: async () => engineSession },
    Tensor: common.Tensor,
    env: { versions: { common: "1" }, wasm: {} },
  });
  const open = (scheme = "fp32") =>
    onnxRuntimeWeb({ backend: "webgpu", module }).openSession(bundle({}, scheme), [GRAPH], { threads: null });

  beforeEach(() => vi.stubGlobal("navigator", { gpu: { requestAdapter: async () => adapter } }));

  test("a bundle in float16 is refused where shaders have none", async () => {
    await expect(open("fp16")).rejects.toThrow(/its numbers are float16, and this graphics processor has none/);
  });

  test("calls of two sessions wait for each other", async () => {
    const [one, other] = [await open(), await open()];

    await Promise.all([one.run(given), other.run(given)]);

    expect(calls).toEqual(["begin", "end", "begin", "end"]);
  });

  test("a session whose device refused a step answers no more, and one that is opened then does", async () => {
    const session = await open();

    device.dispatchEvent(Object.assign(new Event("uncapturederror"), { error: { message: "too large\nand more" } }));

    await expect(session.run(given)).rejects.toThrow(/it refused a step \(too large\)\n {2}fix: load the bundle again/);
    await (await open()).run(given);
  });

  test("an answer that comes as the device is lost is refused", async () => {
    const session = await open();
    const running = session.run(given);

    lose({ message: "the driver crashed" });

    await expect(running).rejects.toThrow(/took it away \(the driver crashed\)/);
  });
});

test("nodes are named by their operator, whatever else is in the file", () => {
  const text = (field: number, value: string): number[] => part(field, [...new TextEncoder().encode(value)]);
  const part = (field: number, bytes: number[]): number[] => [
    field * 8 + 2,
    (bytes.length & 127) | 128,
    bytes.length >> 7,
    ...bytes,
  ];
  const node = (name: string, operator: string): number[] =>
    part(1, [...text(1, "x"), ...text(3, name), ...text(4, operator)]);
  const weights = part(5, new Array<number>(1000).fill(10));
  const graph = part(7, [...node("a", "Cos"), ...weights, ...node("b", "Add"), ...node("c", "Sin"), ...text(2, "Sin")]);
  const model = [8, 9, ...text(2, "torch"), ...graph, 25, 1, 2, 3, 4, 5, 6, 7, 8, 53, 1, 2, 3, 4];

  expect(nodesOf(new Uint8Array(model), ["Sin", "Cos"])).toEqual(["a", "c"]);
  expect(nodesOf(new Uint8Array(model.slice(0, 40)), ["Sin"])).toEqual([]);
  expect(nodesOf(new TextEncoder().encode("no model at all"), ["Sin"])).toEqual([]);
});

test("an engine that is not there is named with what installs it", async () => {
  const engine = onnxRuntimeWeb({ module: () => Promise.reject(new Error("404")) });

  await expect(engine.openSession(bundle(), [GRAPH], { threads: null })).rejects.toThrow(
    /cannot be loaded \(404\)\n {2}fix: npm install onnxruntime-web/,
  );
});
