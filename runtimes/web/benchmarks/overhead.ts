/** `predict` beside the bare engine: the same model twice in one page, each call in turn, after settling runs of its own. */

import { Tokenizer as Theirs } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web/wasm";
import { load, openBundle, Predictor, Tokenizer } from "../src/index.js";
import { onnxRuntimeWeb } from "../src/sessions/onnxruntime_web.js";

const SENTENCE =
  "the small red car went over the old bridge and then down to the river where we had lunch with her".split(" ");
const SETTLE = 3; // runs of a call right after another's meet caches that the other has filled

export interface Compared {
  readonly tokens: number;
  readonly bare: readonly number[];
  readonly ours: readonly number[];
  readonly theirTokenizer: readonly number[];
  readonly ourTokenizer: readonly number[];
}

async function compare(folder: string, lengths: readonly number[], runs: number, threads: number): Promise<Compared[]> {
  const here = new URL("./", import.meta.url);
  ort.env.wasm.wasmPaths = here.href;
  ort.env.wasm.numThreads = threads;
  const bundle = await openBundle(folder);
  const graph = bundle.read("model.onnx").slice();
  const json = JSON.parse(bundle.text("tokenizer.json"));
  const engine = onnxRuntimeWeb({ wasm: here, module: async () => ort });
  const predictor: Predictor = await load(bundle, { engine, threads });
  const session = await ort.InferenceSession.create(graph, {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
  });
  const theirs = new Theirs(json, JSON.parse(bundle.text("tokenizer_config.json")));
  const own = new Tokenizer(json);

  const bare = async (text: string): Promise<unknown> => {
    const { ids } = theirs.encode(text);
    const shape = [1, ids.length];
    const tensor = (values: BigInt64Array): ort.Tensor => new ort.Tensor("int64", values, shape);
    const feeds: Record<string, ort.Tensor> = {
      input_ids: tensor(BigInt64Array.from(ids, BigInt)),
      attention_mask: tensor(new BigInt64Array(ids.length).fill(1n)),
      token_type_ids: tensor(new BigInt64Array(ids.length)),
    };
    const found = await session.run(Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]])));
    return found[session.outputNames[0]].data;
  };

  const compared: Compared[] = [];
  for (const tokens of lengths) {
    const text = Array.from({ length: tokens - 2 }, (_, i) => SENTENCE[i % SENTENCE.length]).join(" ");
    const calls = { bare: () => bare(text), ours: () => predictor.predict(text) };
    const times: Record<keyof typeof calls, number[]> = { bare: [], ours: [] };
    for (let i = 0; i < 10; i++) for (const call of Object.values(calls)) await call();
    for (let run = 0; run < runs; run++) {
      for (const [name, call] of Object.entries(calls) as [keyof typeof calls, () => Promise<unknown>][]) {
        for (let i = 0; i < SETTLE; i++) await call();
        const start = performance.now();
        await call();
        times[name].push(performance.now() - start);
      }
    }
    compared.push({
      tokens: own.encode(text).length,
      ...times,
      theirTokenizer: timed(() => theirs.encode(text), runs),
      ourTokenizer: timed(() => own.encode(text), runs),
    });
  }
  await predictor.close();
  await session.release();
  return compared;
}

/** Milliseconds of one call, each of many: a clock of 5 µs is too coarse for one. */
function timed(call: () => unknown, runs: number): number[] {
  const many = 50;
  return Array.from({ length: runs }, () => {
    const start = performance.now();
    for (let i = 0; i < many; i++) call();
    return (performance.now() - start) / many;
  });
}

Object.assign(globalThis, { compare });
