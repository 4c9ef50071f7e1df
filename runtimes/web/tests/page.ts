/** What the browser tests call in the page, and in a worker of it. */

import { load, verify, SatchelError, type Predictor } from "../src/index.js";
import { liteRt } from "../src/sessions/litert.js";
import { onnxRuntimeWeb } from "../src/sessions/onnxruntime_web.js";
import type { Json } from "../src/manifest.js";

export interface Asked {
  readonly folder: string;
  readonly cases: readonly { readonly input: Json; readonly options: Json }[];
  readonly verify: boolean;
  readonly threads: number | null;
  readonly zip?: boolean;
  readonly gpu?: boolean;
}

const here = new URL("./", import.meta.url);
const litert = new URL("litert/", here);
const ON_PROCESSOR = [onnxRuntimeWeb({ wasm: here }), liteRt({ wasm: litert })];
const ON_GPU = [onnxRuntimeWeb({ wasm: here, backend: "webgpu" }), liteRt({ wasm: litert, accelerator: "webgpu" })];

function opened({ folder, zip, gpu, threads }: Asked): Promise<Predictor> {
  return load(new URL(zip ? "bundle.zip" : "bundle/", folder), { engine: gpu ? ON_GPU : ON_PROCESSOR, threads });
}

async function answered(predictor: Predictor, { folder, cases }: Asked): Promise<Json[]> {
  const answers: Json[] = [];
  for (const { input, options } of cases)
    answers.push(plain(await predictor.predict(await given(input, folder), options)));
  return answers;
}

/** What is asked, or a SatchelError as its parts. */
async function told(asks: () => Promise<Json>): Promise<Json> {
  try {
    return await asks();
  } catch (error) {
    if (error instanceof SatchelError) return { error: error.toPlain() };
    throw error;
  }
}

/** Load a bundle, prove it, and answer its cases; a SatchelError comes back as its parts. */
export function ask(asked: Asked): Promise<Json> {
  return told(async () => {
    const predictor = await opened(asked);
    const found = asked.verify ? await verify(predictor) : null;
    const answers = await answered(predictor, asked);
    const [session] = predictor.graphs.values();
    const { used } = session;
    await predictor.close();
    return { answers, findings: found, used };
  });
}

const held = new Map<string, Predictor>();

/** Answer with a bundle that is left open. */
export function askHeld(asked: Asked): Promise<Json> {
  return told(async () => {
    const predictor = held.get(asked.folder) ?? (await opened(asked));
    held.set(asked.folder, predictor);
    return { answers: await answered(predictor, asked) };
  });
}

/** Several bundles, of which none waits for another. */
export function askTogether(several: readonly Asked[]): Promise<Json[]> {
  return Promise.all(several.map(ask));
}

/** The pieces of the first case's text. */
export async function askPieces(asked: Asked): Promise<string[]> {
  const [{ input, options }] = asked.cases;
  const predictor = await opened(asked);
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
    askHeld,
    askPieces,
    askTogether,
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
