/** The measurement, which runs in a worker or in the page: a cold load, the golden samples, latency, minutes of load. */

import { ParityError, SatchelError, findings, openBundle, replay, Predictor, type Findings } from "../src/index.js";
import type { PlainError } from "../src/errors.js";
import { readItems, type GoldenItem } from "../src/golden.js";
import type { Json } from "../src/manifest.js";
import { liteRt } from "../src/sessions/litert.js";
import { onnxRuntimeWeb } from "../src/sessions/onnxruntime_web.js";
import type { Task } from "../src/tasks/task.js";
import type { Golden, Job, Latency, Measured, News } from "./contract.js";

const SENTENCE =
  "the small red car went over the old bridge and then down to the river where we had lunch with her".split(" ");
const FEWEST = 10; // runs of each length, however slow they are
const TOLD = 250; // ms between two words about one stage: drawing takes a core from what is measured
const WINDOW = 10_000; // ms of one point of the curve under load
const SENT = 1_000; // runs of a window that are sent one by one; beyond, what they come to

type Tell = (news: News) => void;

/** Measure the bundle beside the page; everything that goes wrong is told as an error. */
export async function run({ base, settings }: Job, tell: Tell): Promise<void> {
  try {
    await measure({ base, settings }, tell);
  } catch (error) {
    tell({ error: plainError(error) });
  }
}

export function plainError(error: unknown): PlainError {
  if (error instanceof SatchelError) return error.toPlain();
  const why = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return {
    kind: "SatchelError",
    code: 1,
    what: "The page could not measure.",
    why: why.slice(0, 500),
    fix: "reload the page; if it comes again, report it with the browser's name and version",
  };
}

async function measure({ base, settings }: Job, tell: Tell): Promise<void> {
  const app = new URL("app/", base);
  const clock = (): number => performance.now();
  const began = clock();
  const bundle = await openBundle(new URL("bundle/", base), {
    onProgress: (done, total) =>
      tell({ stage: "fetching the bundle and checking its files", done: total ? done / total : 1 }),
  });
  const downloaded = clock();
  const { target } = bundle.manifest;

  tell({ stage: "loading the engine", done: 0 });
  const heaps = watchMemory();
  const modules = target.format === "tflite" ? await import("@litertjs/core") : await import("onnxruntime-web/wasm");
  const engines = [
    onnxRuntimeWeb({ wasm: app, module: async () => modules }),
    liteRt({ wasm: new URL("litert/", app) }),
  ];
  const imported = clock();
  const cores = globalThis.navigator.hardwareConcurrency ?? 1;
  const threads = settings.threads ?? target.threads ?? Math.min(4, cores);
  const predictor = await Predictor.open(bundle, engines, undefined, threads);
  const loaded = clock();
  const main = predictor.tasks[0];
  const task = await predictor.openTask(main);
  const first = firstSample(bundle, task, main);
  const options = { ...first.options, ...task.brief };
  await predictor.predict(first.input, options);
  const cold = {
    download_ms: downloaded - began,
    import_ms: imported - downloaded,
    load_ms: loaded - imported,
    predict_ms: clock() - loaded,
  };

  const golden = await prove(predictor, tell);

  const seconds = settings.seconds ?? 2;
  const most = settings.runs ?? 500;
  const lengths = task.size ? [task.size] : [...new Set(settings.lengths ?? [16, 64, 128])].sort((a, b) => a - b);
  const latency: Record<string, number[]> = {};
  const inputs: [GoldenItem, number][] = [];
  for (const [place, length] of lengths.entries()) {
    const made = await ofLength(task, first, length);
    if (made === null || String(made[1]) in latency) continue;
    inputs.push(made);
    const stage = `latency at ${task.shape || `${made[1]} tokens`}`;
    const call = (): Promise<unknown> => predictor.predict(made[0].input, options);
    for (let i = 0; i < (settings.warmup ?? 5); i++) await call();
    const times: number[] = [];
    const start = clock();
    let told = -Infinity;
    while (times.length < most && (times.length < FEWEST || clock() - start < seconds * 1e3)) {
      const before = clock();
      await call();
      const after = clock();
      times.push(after - before);
      if (after - told < TOLD) continue;
      told = after;
      const part = Math.min(1, Math.max((clock() - start) / (seconds * 1e3), times.length / most));
      tell({ stage, done: (place + part) / lengths.length });
    }
    latency[String(made[1])] = times;
  }

  const [item, tokens] = inputs[Math.floor(inputs.length / 2)] ?? [first, 0];
  const minutes = settings.sustain_minutes ?? 0;
  const sustained =
    minutes > 0 ? await sustain(() => predictor.predict(item.input, options), minutes * 60_000, tokens, tell) : null;

  const [session] = predictor.graphs.values();
  const { engine, threads: used, delegate } = session.used;
  const [name, version] = [engine.replace(/ [^ ]*$/, ""), / ([^ ]*)$/.exec(engine)?.[1] ?? ""];
  const measured: Measured = {
    engine: delegate ? `${engine} with ${delegate}` : engine,
    threads: used,
    task: main,
    shape: task.shape,
    versions: version ? { [name]: version } : {},
    latency,
    cold,
    memory_bytes: heaps.reduce((sum, heap) => sum + heap.buffer.byteLength, 0) || null,
    sustained,
  };
  tell({ golden, measured });
  await predictor.close();
}

/**
 * The engine's memory, which only grows: its size at the end is the most that it was. A browser's own measurement gets no
 * answer while an engine has threads that sleep.
 */
function watchMemory(): WebAssembly.Memory[] {
  const heaps: WebAssembly.Memory[] = [];
  WebAssembly.Memory = new Proxy(WebAssembly.Memory, {
    construct(kind, given: [WebAssembly.MemoryDescriptor]) {
      const heap = new kind(...given);
      heaps.push(heap);
      return heap;
    },
  });
  return heaps;
}

/** What is wrong is not worth measuring. */
async function prove(predictor: Predictor, tell: Tell): Promise<Golden> {
  const start = performance.now();
  const stage = "golden samples";
  tell({ stage, done: 0 });
  const found: Findings = findings(
    await replay(predictor, { onProgress: (done) => tell({ stage, done }) }),
    predictor.manifest.target.scheme,
  );
  if (found.finding !== "same") {
    const bad = found.parity.find((each) => !each.passed)!;
    throw new ParityError(`${predictor.bundle.manifest.name}: ${found.says}`, {
      why: `against ${bad.against}, ${bad.task}: ${bad.why} (${bad.where})`,
      fix: found.fix,
    });
  }
  return { finding: found.finding, says: found.says, seconds: (performance.now() - start) / 1e3, parity: found.parity };
}

async function sustain(
  call: () => Promise<unknown>,
  whole: number,
  tokens: number,
  tell: Tell,
): Promise<Measured["sustained"]> {
  const windows: { seconds: number; latency: number[] | Latency }[] = [];
  const begun = performance.now();
  while (performance.now() - begun < whole) {
    const end = Math.min(performance.now() + WINDOW, begun + whole);
    const times: number[] = [];
    let told = 0;
    while (!times.length || performance.now() < end) {
      const before = performance.now();
      await call();
      const after = performance.now();
      times.push(after - before);
      if (after - told > 1_000) {
        told = after;
        const left = Math.max(0, whole - (after - begun)) / 60_000;
        tell({ stage: `load for ${left.toFixed(1)} more minutes`, done: Math.min(1, (after - begun) / whole) });
      }
    }
    windows.push({ seconds: (performance.now() - begun) / 1e3, latency: times.length > SENT ? summary(times) : times });
  }
  return { seconds: (performance.now() - begun) / 1e3, tokens, windows };
}

export function quantile(sorted: ArrayLike<number>, q: number): number {
  const place = (sorted.length - 1) * q;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

/** With the interval of the median at 95 % by its rank, which needs no resampling. */
function summary(times: readonly number[]): Latency {
  const sorted = Float64Array.from(times).sort();
  const n = sorted.length;
  const half = 0.98 * Math.sqrt(n);
  return {
    n,
    p50_ms: quantile(sorted, 0.5),
    p90_ms: quantile(sorted, 0.9),
    p99_ms: quantile(sorted, 0.99),
    low_ms: sorted[Math.max(0, Math.floor(n / 2 - half))],
    high_ms: sorted[Math.min(n - 1, Math.ceil(n / 2 + half))],
  };
}

/** Without what parity fixed for it: what is measured is what a user calls. */
function firstSample(bundle: Parameters<typeof readItems>[0], task: Task, name: string): GoldenItem {
  const found = readItems(bundle).find((each) => each.task === name)!;
  const options = Object.fromEntries(Object.entries(found.options).filter(([key]) => !task.begins.includes(key)));
  return { ...found, options };
}

/**
 * An input of so many tokens, and how many they are; null where the model takes fewer. As the Python runtime makes it, from
 * the first word of the first golden sample, plain words, and single letters to meet the number.
 */
async function ofLength(task: Task, first: GoldenItem, tokens: number): Promise<[GoldenItem, number] | null> {
  if (task.size) return [first, task.size];
  if (task.maxLength && tokens > task.maxLength) return null;
  const plain = Array.from({ length: tokens }, (_, i) => SENTENCE[i % SENTENCE.length]);
  for (let count = tokens; count >= 0; count--) {
    const item = withWords(first, plain.slice(0, count));
    const found = await tokensOf(task, item);
    if (found > tokens) continue;
    const filled = withWords(first, [...plain.slice(0, count), ...new Array<string>(tokens - found).fill("a")]);
    return (await tokensOf(task, filled)) === tokens ? [filled, tokens] : [item, found];
  }
  return null;
}

function withWords(item: GoldenItem, words: readonly string[]): GoldenItem {
  const grown = (text: string): string => [...text.trim().split(/\s+/).slice(0, 1), ...words].join(" ");
  if (typeof item.input === "string") return { ...item, input: grown(item.input) };
  const last = Object.keys(item.input).at(-1)!; // the context of a question, the second text of a pair
  return { ...item, input: { ...item.input, [last]: grown(item.input[last]) } };
}

async function tokensOf(task: Task, item: GoldenItem): Promise<number> {
  const rows = await task.encode(item.input as Json, task.checkOptions(item.options));
  return Math.max(...rows.map((row) => row.length));
}
