/** Build the package into dist/, and the measuring page into dist/bench/. */

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { minify } from "terser";

const HERE = dirname(fileURLToPath(import.meta.url));
const resolve = createRequire(import.meta.url).resolve;
const ENGINES = ["onnxruntime-web", "onnxruntime-common", "@litertjs/core"];

/** Entry points of the package, by the name that they are imported by. */
export const ENTRIES = {
  index: "src/index.ts",
  "onnxruntime-web": "src/sessions/onnxruntime_web.ts",
  litert: "src/sessions/litert.ts",
  "react-native": "src/sessions/react_native.ts",
};

const COMMON = {
  absWorkingDir: HERE,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  splitting: true,
  legalComments: "none",
  logLevel: "warning",
};

export async function buildPackage(outdir = join(HERE, "dist")) {
  const found = await build({
    ...COMMON,
    entryPoints: ENTRIES,
    outdir,
    chunkNames: "parts/[name]-[hash]",
    external: ENGINES.flatMap((each) => [each, `${each}/*`]),
    metafile: true,
  });
  // A second pass finds some 4 % more than esbuild, and the package promises its size.
  for (const name of Object.keys(found.metafile.outputs)) {
    const file = join(HERE, name);
    const { code } = await minify(readFileSync(file, "utf8"), { module: true, ecma: 2022, compress: { passes: 3 } });
    writeFileSync(file, code);
  }
  return found.metafile;
}

/**
 * What a page needs: its scripts with the engines in parts of their own, and the WebAssembly of onnxruntime-web beside them; `backends`
 * says for what, "webgpu" being 27 MB.
 */
export async function buildPage(entryPoints, outdir, backends = ["wasm"]) {
  const found = await build({
    ...COMMON,
    entryPoints,
    outdir,
    chunkNames: "parts/[name]-[hash]",
    // Pages outside of this folder name the package, and find what it needs here.
    alias: {
      "satchel-runtime": join(HERE, ENTRIES.index),
      "satchel-runtime/onnxruntime-web": join(HERE, ENTRIES["onnxruntime-web"]),
    },
    nodePaths: [join(HERE, "node_modules")],
    // Without this condition onnxruntime-web brings its loader inside, and its threads have no file to start from.
    conditions: ["onnxruntime-web-use-extern-wasm"],
    external: ["module", "node:*", "worker_threads"], // of the loader's other half, which runs in Node.js
    loader: { ".css": "text" },
    metafile: true,
  });
  const ort = dirname(resolve("onnxruntime-web/ort-wasm-simd-threaded.wasm"));
  for (const backend of backends) {
    for (const end of ["mjs", "wasm"]) {
      const name = `ort-wasm-simd-threaded${backend === "webgpu" ? ".asyncify" : ""}.${end}`;
      copyFileSync(join(ort, name), join(outdir, name));
    }
  }
  return found.metafile;
}

/** LiteRT's own files, which it chooses among by what the browser can do. */
export function copyLiteRt(outdir) {
  const litert = join(dirname(resolve("@litertjs/core/package.json")), "wasm");
  mkdirSync(join(outdir, "litert"), { recursive: true });
  for (const kind of ["", "_compat", "_threaded"]) {
    for (const end of ["js", "wasm"]) {
      const name = `litert_wasm${kind}_internal.${end}`;
      copyFileSync(join(litert, name), join(outdir, "litert", name));
    }
  }
}

async function main() {
  const dist = join(HERE, "dist");
  rmSync(dist, { recursive: true, force: true });
  await buildPackage(dist);
  execFileSync(join(HERE, "node_modules", ".bin", "tsc"), ["-p", "tsconfig.build.json"], {
    cwd: HERE,
    stdio: "inherit",
  });
  const app = join(dist, "bench", "app");
  mkdirSync(app, { recursive: true });
  await buildPage({ page: "bench/page.ts", worker: "bench/worker.ts" }, app);
  copyLiteRt(app);
  copyFileSync(join(HERE, "bench", "index.html"), join(dist, "bench", "index.html"));
  copyFileSync(join(HERE, "bench", "old.js"), join(app, "old.js"));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
