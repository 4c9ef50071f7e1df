/** Bundles of every task: golden samples are replayed, and answers are those of the Python runtime. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { Server } from "node:http";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { differences } from "./answers.js";
import { CACHE, ROOT, buildTestPage, chromiumPath, openBrowser, openPhone, serve } from "./browser.js";

const BUNDLES = join(CACHE, "bundles");
const NAMES = process.env.BUNDLES?.split(",") ?? [
  ...[
    "minilm",
    "classes",
    "classes-bpe",
    "classes-unigram",
    "vectors",
    "features",
    "names",
    "names-unigram",
    "answers",
    "masks",
    "masks-bpe",
  ],
  ...[
    "zero",
    "pictures",
    "pictures-cropped",
    "pictures-convnext",
    "labelled",
    "labelled-alone",
    "objects",
    "objects-any",
  ],
  ...["objects-alone", "depths", "depths-any", "speech", "writer", "writer-gpt2", "tflite", "pictures-tflite", "int8"],
];

/** float32 in another order of sums; MiniLM, which is real, is held closer. */
const TOLERANCE: Record<string, number> = { minilm: 1e-5, int8: 0.05, tflite: 1e-4 };

if (chromiumPath() === null)
  console.log("There is no Chromium here (CHROMIUM=…): bundles are not replayed in a browser.");

describe.skipIf(chromiumPath() === null)("in a browser of a phone's size", () => {
  let browser: Browser;
  let page: Page;
  let server: Server;
  let address: string;

  beforeAll(async () => {
    if (!process.env.BUNDLES_AS_THEY_ARE) {
      execFileSync(join(ROOT, ".venv/bin/python"), ["-m", "tests.web_bundles", BUNDLES, ...NAMES], {
        cwd: ROOT,
        stdio: ["ignore", "ignore", "inherit"],
      });
    }
    execFileSync("python3", ["-c", ZIP], { cwd: join(BUNDLES, "classes") });
    [server, address] = await serve({ page: await buildTestPage(), bundles: BUNDLES });
    browser = await openBrowser();
    page = await openPhone(browser);
    page.on("pageerror", (error) => console.error(error));
    await page.goto(`${address}/blank`);
    await page.addScriptTag({ url: `${address}/page/page.js`, type: "module" });
    await page.waitForFunction("globalThis.ask !== undefined");
  }, 900_000);

  afterAll(async () => {
    await browser?.close();
    server?.close();
  });

  const ask = (name: string, how: object, call = "ask"): Promise<any> => {
    const { cases } = JSON.parse(readFileSync(join(BUNDLES, name, "cases.json"), "utf8"));
    const asked = { folder: `${address}/bundles/${name}/`, cases, verify: false, threads: 1, ...how };
    return page.evaluate(([fn, given]: any) => (globalThis as any)[fn](given), [call, asked]);
  };

  test.each(NAMES)("%s", { timeout: 300_000 }, async (name) => {
    const { cases } = JSON.parse(readFileSync(join(BUNDLES, name, "cases.json"), "utf8"));

    const found = await ask(name, { verify: true });

    expect(found.error).toBeUndefined();
    expect(found.findings.finding).toBe("same");
    const differing = cases.flatMap((each: any, i: number) =>
      differences(found.answers[i], each.answer, TOLERANCE[name] ?? 1e-4, `case ${i}`),
    );
    expect(differing.slice(0, 8)).toEqual([]);
  });

  test("text comes in pieces, which make the whole", async () => {
    const { cases } = JSON.parse(readFileSync(join(BUNDLES, "writer", "cases.json"), "utf8"));
    const { input, options, answer } = cases.find((each: any) => each.options.seed === 7);

    const pieces = await ask("writer", { cases: [{ input, options }] }, "askPieces");

    expect(pieces.length).toBeGreaterThan(5);
    expect(input + pieces.join("")).toBe(answer[0].generated_text);
  });

  test("a zip, and files that were picked, are the same bundle", { timeout: 60_000 }, async () => {
    const { cases } = JSON.parse(readFileSync(join(BUNDLES, "classes", "cases.json"), "utf8"));

    const found = await ask("classes", { zip: true });

    expect(
      cases.flatMap((each: any, i: number) => differences(found.answers[i], each.answer, 1e-4, `case ${i}`)),
    ).toEqual([]);
  });

  test("in a worker, with threads", { timeout: 300_000 }, async () => {
    const { cases } = JSON.parse(readFileSync(join(BUNDLES, "minilm", "cases.json"), "utf8"));

    const found = await ask("minilm", { threads: 2 }, "askWorker");

    expect(found.used.threads).toBe(2);
    expect(
      cases.flatMap((each: any, i: number) => differences(found.answers[i], each.answer, 1e-5, `case ${i}`)),
    ).toEqual([]);
  });
});

const ZIP = `
import pathlib, zipfile
with zipfile.ZipFile("bundle.zip", "w") as out:
    for file in pathlib.Path("bundle").rglob("*"):
        if file.is_file():
            out.write(file, file.relative_to("bundle"))
`;
