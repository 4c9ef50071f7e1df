/**
 * What `predict` adds to a bare onnxruntime-web call with a tokenizer, in a headless Chromium:
 *
 *     node benchmarks/overhead.mjs BUNDLE [RUNS] [THREADS]
 *
 * BUNDLE is a folder of a sentence-embedding bundle in ONNX. One JSON object a line on stdout, with the median of each side, the median of
 * the ratios of neighbours in time, and the spread of both (10th to 90th percentile).
 */

import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { cpus, tmpdir } from "node:os";
import { extname, join, resolve } from "node:path";
import { chromium } from "playwright-core";
import { buildPage } from "../build.mjs";

const [folder, runs = "60", threads = "1"] = process.argv.slice(2);
if (!folder) {
  console.error("name a bundle's folder: node benchmarks/overhead.mjs BUNDLE [RUNS] [THREADS]");
  process.exit(2);
}
const page = mkdtempSync(join(tmpdir(), "satchel-overhead-"));
const TYPES = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

await buildPage({ overhead: "benchmarks/overhead.ts" }, page);
const server = createServer((request, response) => {
  const [, root, ...rest] = decodeURIComponent(request.url.split("?")[0]).split("/");
  response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
  response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
  const file = join({ page, bundle: resolve(folder) }[root] ?? "/nowhere", ...rest);
  if (!root)
    return response
      .setHeader("Content-Type", "text/html")
      .end("<!doctype html><script type=module src=page/overhead.js></script>");
  try {
    if (!statSync(file).isFile()) throw new Error(file);
    response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
    response.end(readFileSync(file));
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const address = `http://127.0.0.1:${server.address().port}/`;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
try {
  const tab = await browser.newPage();
  await tab.goto(address);
  await tab.waitForFunction("globalThis.compare !== undefined");
  const found = await tab.evaluate(
    ([at, count, many]) => globalThis.compare(at, [16, 64, 128], count, many),
    [`${address}bundle/`, Number(runs), Number(threads)],
  );
  for (const { tokens, bare, ours, theirTokenizer, ourTokenizer } of found) {
    const ratios = ours.map((each, i) => each / bare[i]);
    console.log(
      JSON.stringify({
        tokens,
        bare_ms: spread(bare),
        predict_ms: spread(ours),
        ratio: spread(ratios),
        their_tokenizer_ms: spread(theirTokenizer),
        our_tokenizer_ms: spread(ourTokenizer),
        runs: bare.length,
        threads: Number(threads),
        browser: browser.version(),
        processor: cpus()[0]?.model,
      }),
    );
  }
} finally {
  await browser.close();
  server.close();
  rmSync(page, { recursive: true });
}

/** The median, and the 10th and 90th percentile. */
function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (q) => Number(sorted[Math.round((sorted.length - 1) * q)].toPrecision(4));
  return { median: at(0.5), p10: at(0.1), p90: at(0.9) };
}
