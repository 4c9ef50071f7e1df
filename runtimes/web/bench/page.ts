/** The page that a phone opens: it asks for its settings, measures, shows what it found, and sends it back. */

import type { PlainError } from "../src/errors.js";
import { hasSimd } from "../src/sessions/onnxruntime_web.js";
import type { Device, Golden, Measured, News, Result, Settings } from "./contract.js";
import { plainError, quantile, run } from "./measure.js";

const base = new URL("./", location.href);
const at = (id: string): HTMLElement => document.getElementById(id)!;
let over = false;

addEventListener("pagehide", () => {
  if (!over) navigator.sendBeacon(new URL("progress", base), json({ stage: "closed" }));
});

function json(value: unknown): Blob {
  return new Blob([JSON.stringify(value)], { type: "application/json" });
}

let told = 0;
let stageTold = "";

/** Shown at once; told to the server a few times a second at most. */
function progress(stage: string, done: number): void {
  at("stage").textContent = stage;
  at("bar").style.setProperty("--done", String(done));
  at("bar").setAttribute("aria-valuenow", String(Math.round(done * 100)));
  const now = performance.now();
  if (stage === stageTold && now - told < 400) return;
  told = now;
  stageTold = stage;
  fetch(new URL("progress", base), { method: "POST", body: json({ stage, done }), keepalive: true }).catch(
    () => undefined,
  );
}

async function main(): Promise<void> {
  const settings = await settingsOf();
  if (settings === null) return;
  const manifest = await (await fetch(new URL("bundle/bundle.json", base))).json().catch(() => null);
  at("name").textContent = manifest?.name ?? "a bundle";
  at("what").textContent = manifest
    ? `${manifest.tasks?.[0]?.name}, ${manifest.target?.format} ${manifest.target?.scheme}`
    : "";
  await keepAwake();
  const device = await describe();
  let result: Result;
  try {
    const { golden, measured } = await measuredIn(settings, manifest?.target?.format !== "tflite");
    progress("memory", 1);
    result = { ok: true, device, golden, measured: { ...measured, memory_bytes: await remembered(measured) } };
  } catch (error) {
    result = { ok: false, error: isPlain(error) ? error : plainError(error), device };
  }
  show(result);
  try {
    const answer = await fetch(new URL("result", base), { method: "POST", body: json(result) });
    at("sent").textContent = answer.ok
      ? "Sent. You can close this page."
      : `The server did not take it (${answer.status}).`;
  } catch {
    at("sent").textContent = "The server is gone: the result is only here.";
  }
  over = true;
}

async function settingsOf(): Promise<Settings | null> {
  let answer: Response;
  try {
    answer = await fetch(new URL("settings.json", base), { cache: "no-store" });
  } catch {
    fail({
      what: "The server does not answer.",
      why: "the link was for another time, or another network",
      fix: "run satchel bench again",
    });
    return null;
  }
  const said = await answer.json().catch(() => null);
  if (answer.ok && said !== null) return said;
  fail(
    said?.error ?? {
      what: "There is nothing to measure.",
      why: `the server answers ${answer.status}`,
      fix: "run satchel bench again for a new link",
    },
  );
  over = true; // nobody waits for this page
  return null;
}

/** In a worker where the engine runs in one: LiteRT's loader needs a page. */
function measuredIn(settings: Settings, inWorker: boolean): Promise<{ golden: Golden; measured: Measured }> {
  return new Promise((resolve, reject) => {
    const hear = (news: News): void => {
      if ("stage" in news) {
        if (news.stage === "golden samples") askMemory();
        progress(news.stage, news.done);
      }
      if ("error" in news) reject(news.error);
      if ("golden" in news) resolve(news);
    };
    const job = { base: base.href, settings };
    if (!inWorker) {
      run(job, hear).catch(reject);
      return;
    }
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<News>) => hear(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message || "the worker does not start: this browser is too old"));
    };
    worker.postMessage(job);
  });
}

function isPlain(error: unknown): error is PlainError {
  return typeof error === "object" && error !== null && "what" in error && "code" in error && !(error instanceof Error);
}

async function describe(): Promise<Device> {
  const nav = navigator as Navigator & {
    deviceMemory?: number;
    gpu?: unknown;
    userAgentData?: {
      platform?: string;
      getHighEntropyValues?(names: string[]): Promise<{ model?: string; platformVersion?: string }>;
    };
  };
  const high = await nav.userAgentData?.getHighEntropyValues?.(["model", "platformVersion"]).catch(() => undefined);
  const platform = nav.userAgentData?.platform ?? null;
  return {
    user_agent: nav.userAgent,
    cores: nav.hardwareConcurrency ?? 1,
    memory_bytes: nav.deviceMemory ? nav.deviceMemory * 2 ** 30 : null, // rounded by the browser, 8 GiB at most
    platform: platform && `${platform} ${high?.platformVersion ?? ""}`.trim(),
    model: high?.model || null,
    screen: `${screen.width}x${screen.height} @${devicePixelRatio}`,
    webgpu: nav.gpu !== undefined,
    isolated: crossOriginIsolated === true,
    simd: hasSimd(),
  };
}

let asked: Promise<number | null> | null = null;

/**
 * Of the page and its worker, where the browser tells. It answers after its next collection, up to half a minute later, so it is
 * asked while the model is in use.
 */
function askMemory(): void {
  const { measureUserAgentSpecificMemory: measure } = performance as Performance & {
    measureUserAgentSpecificMemory?(): Promise<{ bytes: number }>;
  };
  if (asked !== null || measure === undefined || !crossOriginIsolated) return;
  asked = measure.call(performance).then(
    ({ bytes }) => bytes,
    () => null,
  );
}

/** What the browser says, if it says it soon, and otherwise what the engine has. */
async function remembered({ threads, memory_bytes: engine }: Measured): Promise<number | null> {
  if (asked === null || threads !== 1) return engine; // threads that sleep do not answer the browser
  const late = new Promise<null>((resolve) => setTimeout(() => resolve(null), 20_000));
  return (await Promise.race([asked, late])) ?? engine;
}

/** A phone that turns its screen off slows its processor down, or stops the page. */
async function keepAwake(): Promise<void> {
  const lock = (): Promise<unknown> | undefined => navigator.wakeLock?.request("screen").catch(() => undefined);
  await lock();
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && !over) void lock();
  });
}

function fail({ what, why, fix }: { what: string; why: string; fix: string }): void {
  document.body.classList.add("failed");
  at("stage").textContent = what;
  at("found").replaceChildren(line("why", why), line("fix", fix));
}

function show(result: Result): void {
  document.body.classList.add("done");
  if (!result.ok) return fail(result.error);
  const { golden, measured } = result;
  at("stage").textContent = "The golden samples are right.";
  at("bar").style.setProperty("--done", "1");
  const ms = (value: number): string => `${value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0)} ms`;
  const rows = Object.entries(measured.latency).map(([tokens, times]) => {
    const sorted = Float64Array.from(times).sort();
    return [
      measured.shape || `${tokens} tokens`,
      ms(quantile(sorted, 0.5)),
      ms(quantile(sorted, 0.95)),
      String(times.length),
    ];
  });
  const { cold } = measured;
  at("found").replaceChildren(
    table(["input", "median", "p95", "runs"], rows),
    line("cold", `${ms(cold.import_ms + cold.load_ms)} to load, ${ms(cold.predict_ms)} to the first answer`),
    line("engine", `${measured.engine}, ${measured.threads} ${measured.threads === 1 ? "thread" : "threads"}`),
    ...(measured.memory_bytes ? [line("memory", `${(measured.memory_bytes / 2 ** 20).toFixed(0)} MiB`)] : []),
    ...(measured.sustained ? [line("load", sustained(measured.sustained, ms))] : []),
    line("golden", `${golden.says} (${golden.seconds.toFixed(1)} s)`),
  );
}

function sustained({ windows, seconds }: NonNullable<Measured["sustained"]>, ms: (value: number) => string): string {
  const middle = ({ latency }: (typeof windows)[number]): number =>
    "p50_ms" in latency ? latency.p50_ms : quantile(Float64Array.from(latency).sort(), 0.5);
  return `${ms(middle(windows[0]))} at first, ${ms(middle(windows[windows.length - 1]))} after ${(seconds / 60).toFixed(1)} minutes`;
}

function line(name: string, text: string): HTMLElement {
  const made = document.createElement("p");
  const label = document.createElement("b");
  label.textContent = name;
  made.append(label, ` ${text}`);
  return made;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): HTMLElement {
  const made = document.createElement("table");
  for (const [i, cells] of [head, ...rows].entries()) {
    const row = made.insertRow();
    for (const text of cells) {
      const cell = document.createElement(i ? "td" : "th");
      cell.textContent = text;
      row.append(cell);
    }
  }
  return made;
}

void main();
