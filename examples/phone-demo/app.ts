/** A page that classifies a text, finds the sentence that means the same, and says how long that took. */

import type { Asked, Told } from "./worker.js";

const at = <T extends HTMLElement>(id: string): T =>
  document.getElementById(id) as T;
const worker = new Worker(new URL("worker.js", import.meta.url), {
  type: "module",
});
const waiting = new Map<
  number,
  [
    (told: Told & { kind: "answer" }) => void,
    (error: Told & { kind: "error" }) => void,
  ]
>();
let asks = 0;

worker.onmessage = ({ data: told }: MessageEvent<Told>) => {
  if (told.kind === "progress") {
    at(`${told.model}-bar`).style.setProperty("--done", String(told.done));
    return;
  }
  const [resolve, reject] = waiting.get(told.id)!;
  waiting.delete(told.id);
  if (told.kind === "answer") resolve(told);
  else reject(told);
};

function ask(asked: Asked): Promise<Told & { kind: "answer" }> {
  return new Promise((resolve, reject) => {
    waiting.set(++asks, [resolve, reject]);
    worker.postMessage([asks, asked]);
  });
}

const SENTENCES = [
  "My parcel has not arrived yet.",
  "How do I change my password?",
  "I would like my money back.",
  "The app closes as soon as I open it.",
  "Can I pay by invoice?",
  "You were very helpful, thank you!",
];

interface About {
  readonly name: string;
  readonly scheme: string;
  readonly bytes: number;
  readonly engine: string;
  readonly threads: number;
}

const ms = (value: number): string =>
  `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;

/** Load a model into its card; the times of its answers come from the returned function. */
async function open(model: string): Promise<boolean> {
  const status = at(`${model}-status`);
  try {
    const { answer, ms: took } = await ask({
      kind: "load",
      model,
      at: new URL(`bundles/${model}/`, location.href).href,
    });
    const { name, scheme, bytes, engine, threads } = answer as About;
    at(`${model}-bar`).hidden = true;
    at(`${model}-name`).textContent =
      `${name}, ${scheme}, ${(bytes / 2 ** 20).toFixed(0)} MiB`;
    status.textContent = `loaded and checked in ${ms(took)}`;
    at("engine").textContent =
      `${engine}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
    return true;
  } catch (error) {
    failed(model, error);
    return false;
  }
}

function failed(model: string, error: unknown): void {
  const { what, why, fix } = error as {
    what: string;
    why: string;
    fix: string;
  };
  const status = at(`${model}-status`);
  at(`${model}-bar`).hidden = true;
  status.classList.add("bad");
  status.textContent = `${what} ${why}; ${fix}.`;
}

function bars(
  list: HTMLElement,
  rows: readonly (readonly [text: string, share: number])[],
): void {
  list.replaceChildren(
    ...rows.map(([text, share]) => {
      const row = document.createElement("li");
      row.style.setProperty("--share", String(Math.max(0, Math.min(1, share))));
      const number = document.createElement("span");
      number.textContent = share.toFixed(2);
      row.append(text, number);
      return row;
    }),
  );
}

let known: Float32Array[] | null = null;

async function classify(text: string): Promise<void> {
  const { answer, ms: took } = await ask({
    kind: "predict",
    model: "classify",
    input: text,
    options: { top_k: 4 },
  });
  const rows = (answer as { label: string; score: number }[]).map(
    ({ label, score }): [string, number] => [label, score],
  );
  bars(at("labels"), rows);
  at("classify-status").textContent = `answered in ${ms(took)}`;
}

async function compare(text: string): Promise<void> {
  known ??= (await ask({ kind: "predict", model: "embed", input: SENTENCES }))
    .answer as Float32Array[];
  const { answer, ms: took } = await ask({
    kind: "predict",
    model: "embed",
    input: text,
  });
  const vector = answer as Float32Array;
  const near = known.map((each, i): [string, number] => [
    SENTENCES[i],
    each.reduce((sum, value, k) => sum + value * vector[k], 0),
  ]);
  bars(at("near"), near.sort((a, b) => b[1] - a[1]).slice(0, 4));
  at("embed-status").textContent = `answered in ${ms(took)}`;
}

async function main(): Promise<void> {
  const form = at<HTMLFormElement>("form");
  const text = at<HTMLTextAreaElement>("text");
  const opened = {
    classify: await open("classify"),
    embed: await open("embed"),
  };
  const run = async (): Promise<void> => {
    const given = text.value.trim();
    if (!given) return;
    if (opened.classify)
      await classify(given).catch((error) => failed("classify", error));
    if (opened.embed)
      await compare(given).catch((error) => failed("embed", error));
    document.body.dataset.answered = given;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void run();
  });
  at<HTMLButtonElement>("ask").disabled = false;
  at<HTMLButtonElement>("prove").disabled = false;
  at("prove").addEventListener("click", async () => {
    for (const model of ["classify", "embed"] as const) {
      if (!opened[model]) continue;
      at(`${model}-status`).textContent = "replaying golden samples …";
      try {
        const { answer, ms: took } = await ask({ kind: "verify", model });
        at(`${model}-status`).textContent =
          `${answer} (${(took / 1e3).toFixed(1)} s)`;
      } catch (error) {
        failed(model, error);
      }
    }
  });
  await run();
}

const online = (): void => {
  at("network").textContent = navigator.onLine ? "" : "offline";
};
addEventListener("online", online);
addEventListener("offline", online);
online();

/** Offline after the first load. Service workers exist on https and localhost alone; without one the page works all the same. */
async function install(): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  const { installing, active } =
    await navigator.serviceWorker.register("sw.js");
  if (active === null && installing !== null) {
    await new Promise<void>((resolve) => {
      // "redundant": a file could not be kept; the page goes on without.
      const heard = (): void =>
        void (
          ["activated", "redundant"].includes(installing.state) && resolve()
        );
      installing.addEventListener("statechange", heard);
      heard();
    });
  }
  // Its headers isolate the page, so that the engine may have threads: from the second load on, which comes at once.
  if (!crossOriginIsolated && sessionStorage.getItem("isolated") === null) {
    sessionStorage.setItem("isolated", "tried");
    location.reload();
    await new Promise(() => undefined);
  }
}

await install().catch(() => undefined);
await main();
