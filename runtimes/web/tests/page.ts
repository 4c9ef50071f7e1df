/** What the browser tests call in the page, and in a worker of it. */

import { load, verify, SatchelError } from "../src/index.js";
import { liteRt } from "../src/sessions/litert.js";
import { onnxRuntimeWeb } from "../src/sessions/onnxruntime_web.js";
import type { Json } from "../src/manifest.js";

export interface Asked {
  readonly folder: string;
  readonly cases: readonly { readonly input: Json; readonly options: Json }[];
  readonly verify: boolean;
  readonly threads: number | null;
  readonly zip?: boolean;
}

const here = new URL("./", import.meta.url);
const ENGINES = [onnxRuntimeWeb({ wasm: here }), liteRt({ wasm: new URL("litert/", here) })];

/** Load a bundle, prove it, and answer its cases; a SatchelError comes back as its parts. */
export async function ask({ folder, cases, verify: proves, threads, zip }: Asked): Promise<Json> {
  try {
    const predictor = await load(new URL(zip ? "bundle.zip" : "bundle/", folder), { engine: ENGINES, threads });
    const found = proves ? await verify(predictor) : null;
    const answers: Json[] = [];
    for (const { input, options } of cases)
      answers.push(plain(await predictor.predict(await given(input, folder), options)));
    const [session] = predictor.graphs.values();
    const { used } = session;
    await predictor.close();
    return { answers, findings: found, used };
  } catch (error) {
    if (error instanceof SatchelError) return { error: error.toPlain() };
    throw error;
  }
}

/** The pieces of the first case's text. */
export async function askPieces({ folder, cases: [{ input, options }] }: Asked): Promise<string[]> {
  const predictor = await load(new URL("bundle/", folder), { engine: ENGINES, threads: 1 });
  const pieces: string[] = [];
  for await (const piece of predictor.stream(input, options)) pieces.push(piece);
  await predictor.close();
  return pieces;
}

async function given(input: Json, folder: string): Promise<Json> {
  if (Array.isArray(input)) return Promise.all(input.map((each) => given(each, folder)));
  if (input?.$file) return (await fetch(new URL(input.$file, folder))).blob();
  if (input?.$wave) return new Float32Array(await (await fetch(new URL(input.$wave, folder))).arrayBuffer());
  return input;
}

/** Tensors as `{shape, data}`, as the Python side writes arrays. */
function plain(value: Json): Json {
  if (value instanceof Float32Array) return { shape: [value.length], data: [...value] };
  if (ArrayBuffer.isView(value)) return [...(value as Uint8Array)];
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === "object") {
    if ("dtype" in value) return { shape: [...value.shape], data: Array.from(value.data, Number) };
    if ("shape" in value && "data" in value) return { shape: [...value.shape], data: Array.from(value.data, Number) };
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
  }
  return value;
}

const inWorker = typeof document === "undefined";
if (inWorker) {
  self.onmessage = async ({ data }) => self.postMessage(await ask(data));
} else {
  Object.assign(globalThis, {
    ask,
    askPieces,
    askWorker: (asked: Asked) =>
      new Promise((resolve, reject) => {
        const worker = new Worker(import.meta.url, { type: "module" });
        worker.onmessage = ({ data }) => {
          worker.terminate();
          resolve(data);
        };
        worker.onerror = (event) => reject(new Error(event.message));
        worker.postMessage(asked);
      }),
  });
}
