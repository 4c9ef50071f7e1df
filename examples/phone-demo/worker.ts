/** The models, apart from the page: it stays smooth while they run. */

import { load, verify, SatchelError, type Predictor } from "satchel-runtime";
import { onnxRuntimeWeb } from "satchel-runtime/onnxruntime-web";

export type Asked =
  | { readonly kind: "load"; readonly model: string; readonly at: string }
  | {
      readonly kind: "predict";
      readonly model: string;
      readonly input: string | readonly string[];
      readonly options?: object;
    }
  | { readonly kind: "verify"; readonly model: string };

export type Told =
  | { readonly kind: "progress"; readonly model: string; readonly done: number }
  | {
      readonly kind: "answer";
      readonly id: number;
      readonly answer: unknown;
      readonly ms: number;
    }
  | {
      readonly kind: "error";
      readonly id: number;
      readonly what: string;
      readonly why: string;
      readonly fix: string;
    };

const engine = onnxRuntimeWeb({ wasm: new URL("./", import.meta.url) });
const models = new Map<string, Predictor>();

async function answer(asked: Asked): Promise<unknown> {
  if (asked.kind === "load") {
    const { model, at } = asked;
    let told = 0;
    const onProgress = (done: number, total: number): void => {
      const part = total ? done / total : 1;
      if (part < 1 && part - told < 0.01) return;
      told = part;
      self.postMessage({ kind: "progress", model, done: part } satisfies Told);
    };
    const threads = Math.min(4, navigator.hardwareConcurrency ?? 1);
    const predictor = await load(new URL(at), { engine, threads, onProgress });
    models.set(model, predictor);
    const [session] = predictor.graphs.values();
    const { name, target, files } = predictor.manifest;
    const bytes = Object.values(files).reduce(
      (sum, each) => sum + each.bytes,
      0,
    );
    return { name, scheme: target.scheme, bytes, ...session.used };
  }
  const predictor = models.get(asked.model)!;
  if (asked.kind === "verify") return (await verify(predictor)).says;
  return predictor.predict(asked.input, asked.options);
}

self.onmessage = async ({
  data: [id, asked],
}: MessageEvent<[number, Asked]>) => {
  const start = performance.now();
  try {
    const found = await answer(asked);
    self.postMessage({
      kind: "answer",
      id,
      answer: found,
      ms: performance.now() - start,
    } satisfies Told);
  } catch (error) {
    const parts =
      error instanceof SatchelError
        ? error
        : {
            what: "Something went wrong.",
            why: String(error),
            fix: "reload the page",
          };
    self.postMessage({
      kind: "error",
      id,
      what: parts.what,
      why: parts.why,
      fix: parts.fix,
    } satisfies Told);
  }
};
