/** A headless Chromium with the size of a phone, and a server that isolates its pages. */

import { createReadStream, existsSync, mkdirSync, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { extname, join, normalize } from "node:path";
import { chromium, type Browser, type Page } from "playwright-core";
import { buildPage, copyLiteRt } from "../build.mjs";
import { CACHE } from "./vectors.js";

export { CACHE, ROOT } from "./vectors.js";

const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

/** Chromium where Debian, or the environment, has it. */
export function chromiumPath(): string | null {
  const places = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  return places.find((each) => each && existsSync(each)) ?? null;
}

/** Serve folders, each under its name; `isolated` pages may have threads. */
export async function serve(folders: Record<string, string>, isolated = true): Promise<[Server, string]> {
  const server = createServer((request, response) => {
    const [, first, ...rest] = decodeURIComponent(new URL(request.url!, "http://x").pathname).split("/");
    const root = folders[first];
    const file = root === undefined ? "" : normalize(join(root, ...rest.slice(0, -1), rest.at(-1) || "index.html"));
    if (isolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
      response.setHeader("Cross-Origin-Resource-Policy", "same-origin");
    }
    if (first === "" || first === "blank") {
      response.setHeader("Content-Type", "text/html");
      response.end("<!doctype html><title>tests</title>");
    } else if (!file.startsWith(root) || !existsSync(file) || !statSync(file).isFile()) {
      response.statusCode = 404;
      response.end();
    } else {
      response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
      response.setHeader("Content-Length", statSync(file).size);
      createReadStream(file).pipe(response);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return [server, `http://127.0.0.1:${(server.address() as { port: number }).port}`];
}

/** `webgpu` gives pages an adapter that computes on the processor, which is slow and the same everywhere. */
export async function openBrowser({ webgpu = false } = {}): Promise<Browser> {
  return chromium.launch({
    executablePath: chromiumPath()!,
    headless: true,
    args: [
      ...["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"],
      ...["--disable-component-update", "--disable-sync"],
      ...(webgpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu"]),
    ],
  });
}

export async function openPhone(browser: Browser, options: object = {}): Promise<Page> {
  const context = await browser.newContext({
    viewport: { width: 390, height: 844 },
    deviceScaleFactor: 3,
    isMobile: true,
    hasTouch: true,
    ...options,
  });
  return context.newPage();
}

/** The page of the tests, built into the cache. */
export async function buildTestPage(): Promise<string> {
  const out = join(CACHE, "page");
  mkdirSync(out, { recursive: true });
  await buildPage({ page: "tests/page.ts" }, out, ["wasm", "webgpu"]);
  copyLiteRt(out);
  return out;
}
