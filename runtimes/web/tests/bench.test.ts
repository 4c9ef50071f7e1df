/** The measuring page, served as `satchel bench --on browser` serves it. */

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { extname, join, normalize } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { CACHE, ROOT, chromiumPath, openBrowser, openPhone } from "./browser.js";

const PAGE = join(ROOT, "runtimes/web/dist/bench");
const TOKEN = "a-token";
const CSP =
  "default-src 'self' blob:; script-src 'self' blob: 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; " +
  "img-src 'self' data: blob:; form-action 'none'; frame-ancestors 'none'";
const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

interface Site {
  server: Server;
  address: string;
  progress: any[];
  result: Promise<any>;
}

type Change = (name: string, bytes: Buffer) => Buffer | null;

async function site(
  bundle: string,
  settings: object,
  { isolated = true, change }: { isolated?: boolean; change?: Change } = {},
): Promise<Site> {
  const progress: any[] = [];
  let finish: (result: any) => void;
  const result = new Promise<any>((resolve) => (finish = resolve));
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url!, "http://x").pathname);
    const name = path.startsWith(`/${TOKEN}/`) ? path.slice(TOKEN.length + 2) : "/";
    if (isolated) {
      for (const [key, value] of [
        ["Opener", "same-origin"],
        ["Embedder", "require-corp"],
      ])
        response.setHeader(`Cross-Origin-${key}-Policy`, value);
    }
    response.setHeader("Cross-Origin-Resource-Policy", "same-origin");
    response.setHeader("Content-Security-Policy", CSP);
    if (request.method === "POST") {
      let body = "";
      request.on("data", (part) => (body += part));
      request.on("end", () => {
        if (name === "progress") progress.push(JSON.parse(body));
        else finish(JSON.parse(body));
        response.end("{}");
      });
      return;
    }
    const file = name.startsWith("bundle/") ? normalize(join(bundle, name.slice(7))) : join(PAGE, name || "index.html");
    if (name === "settings.json") {
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify(settings));
    } else if (!existsSync(file) || !statSync(file).isFile()) {
      response.statusCode = 404;
      response.end();
    } else {
      const bytes = change ? change(name, readFileSync(file)) : readFileSync(file);
      response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
      if (bytes === null) {
        response.setHeader("Content-Length", statSync(file).size);
        response.write(readFileSync(file).subarray(0, 1000), () => response.destroy());
      } else response.end(bytes);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    server,
    address: `http://127.0.0.1:${(server.address() as { port: number }).port}/${TOKEN}/`,
    progress,
    result,
  };
}

describe.skipIf(chromiumPath() === null)("the measuring page", () => {
  let browser: Browser;
  let page: Page;
  let open: Site | null = null;
  const noise: string[] = [];

  beforeAll(async () => {
    execFileSync(
      join(ROOT, ".venv/bin/python"),
      ["-m", "tests.web_bundles", join(CACHE, "bundles"), "classes", "tflite"],
      { cwd: ROOT, stdio: ["ignore", "ignore", "ignore"] },
    );
    execFileSync("npm", ["run", "build"], { cwd: join(ROOT, "runtimes/web"), stdio: "ignore" });
    browser = await openBrowser();
  }, 900_000);

  afterEach(async () => {
    await page?.context().close();
    open?.server.close();
    open = null;
    noise.length = 0;
  });

  afterAll(() => browser?.close());

  const visit = async (
    bundle: string,
    settings: object,
    how: Parameters<typeof site>[2] & { phone?: object } = {},
  ): Promise<Site> => {
    open = await site(join(CACHE, "bundles", bundle, "bundle"), settings, how);
    page = await openPhone(browser, how.phone);
    page.on("console", (message) => noise.push(message.text()));
    page.on("pageerror", (error) => noise.push(String(error)));
    await page.goto(open.address);
    return open;
  };

  const SHORT = {
    threads: null,
    seconds: 0.2,
    runs: 50,
    warmup: 2,
    lengths: [16, 64],
    sustain_minutes: 0,
    engine: null,
  };

  test.each([
    ["classes", "onnxruntime-web", 2],
    ["classes", "onnxruntime-web", 1],
    ["tflite", "litert", 1],
  ])("proves %s and sends what it measured", { timeout: 120_000 }, async (bundle, engine, threads) => {
    const { result, progress } = await visit(bundle, { ...SHORT, threads, sustain_minutes: 0.03 });

    const { ok, device, golden, measured, error } = await result;

    expect(error).toBeUndefined();
    expect(ok).toBe(true);
    expect(golden.finding).toBe("same");
    expect(golden.parity.every((each: any) => each.passed)).toBe(true);
    expect(device).toMatchObject({ isolated: true, simd: true });
    expect(measured.engine).toContain(engine);
    expect(measured.threads).toBe(threads);
    expect(Object.keys(measured.latency)).toEqual(["16", "64"]);
    expect(measured.latency["16"].length).toBeGreaterThanOrEqual(10);
    for (const each of ["download_ms", "load_ms", "predict_ms"]) expect(measured.cold[each]).toBeGreaterThan(0);
    expect(measured.memory_bytes).toBeGreaterThan(2 ** 20);
    expect(measured.sustained.windows.length).toBeGreaterThan(0);
    expect(progress.map((each) => each.stage)).toContain("golden samples");
    await page.getByText("Sent. You can close this page.").waitFor();
    expect(noise.filter((each) => /Content Security|Uncaught|Failed to load/.test(each))).toEqual([]); // LiteRT itself talks
  });

  test("measures on a page that is not isolated, with one thread", { timeout: 60_000 }, async () => {
    const { result } = await visit("classes", { ...SHORT, threads: 4 }, { isolated: false });

    const { ok, device, measured } = await result;

    expect(ok).toBe(true);
    expect([device.isolated, measured.threads]).toEqual([false, 1]);
  });

  test("an altered file is refused in the words of the runtime", { timeout: 60_000 }, async () => {
    const flip: Change = (name, bytes) =>
      name.endsWith("model.onnx") ? Buffer.concat([bytes.subarray(0, -1), Buffer.from([bytes.at(-1)! ^ 1])]) : bytes;
    const { result } = await visit("classes", SHORT, { change: flip });

    const { ok, error } = await result;

    expect([ok, error.kind, error.code]).toEqual([false, "IntegrityError", 16]);
    expect(error.why).toContain("'model.onnx' was altered");
    await page.getByText("Cannot read the bundle").waitFor();
  });

  test("a connection that breaks in the middle of a file is named", { timeout: 60_000 }, async () => {
    const { result } = await visit("classes", SHORT, {
      change: (name, bytes) => (name.endsWith("model.onnx") ? null : bytes),
    });

    const { error } = await result;

    expect(error.kind).toBe("IntegrityError");
    expect(error.why).toMatch(/connection ended after \d+ of \d+ bytes/);
  });

  test("a browser without SIMD is told to be updated", { timeout: 60_000 }, async () => {
    open = await site(join(CACHE, "bundles", "classes", "bundle"), SHORT);
    page = await openPhone(browser);
    // What is validated lies in the worker, which an older browser would have without these instructions too.
    await page.route("**/app/worker.js", async (route) => {
      const answer = await route.fetch();
      await route.fulfill({ response: answer, body: `WebAssembly.validate = () => false;\n${await answer.text()}` });
    });
    await page.goto(open.address);

    const { error } = await open.result;

    expect([error.kind, error.code]).toEqual(["SupportError", 14]);
    expect(error.why).toContain("no SIMD");
    await page.getByText("Cannot run a model in this browser.").waitFor();
  });

  test("a page that goes in the middle says so", { timeout: 60_000 }, async () => {
    const { progress } = await visit("classes", { ...SHORT, sustain_minutes: 5 });
    await page.getByText("load for").waitFor();

    await page.goto("about:blank");

    await expect.poll(() => progress.at(-1)?.stage).toBe("closed");
  });

  test("is readable in the light and in the dark", { timeout: 120_000 }, async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const { result, server } = await visit("classes", SHORT, { phone: { colorScheme } });
      await result;
      await page.getByText("Sent.").waitFor();
      await page.screenshot({ path: join(CACHE, `bench-${colorScheme}.png`) });
      const wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth");
      expect(wide).toBeLessThanOrEqual(0);
      server.close();
      await page.context().close();
    }
  });
});
