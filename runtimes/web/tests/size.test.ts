/** What a page loads of the package: at most 60 kB gzipped in all, without the engines, and less for one task. */

import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build, type Metafile } from "esbuild";
import { expect, test } from "vitest";
import { buildPackage } from "../build.mjs";
import { CACHE, ROOT } from "./vectors.js";

const WEB = join(ROOT, "runtimes/web");
const MOST = 60_000;

function gzipped(metafile: Metafile): number {
  const scripts = Object.keys(metafile.outputs).filter((name) => name.endsWith(".js"));
  return scripts.reduce((sum, name) => sum + gzipSync(readFileSync(join(WEB, name)), { level: 9 }).length, 0);
}

test("the whole package stays below 60 kB", { timeout: 60_000 }, async () => {
  const metafile = await buildPackage(join(CACHE, "size"));

  const size = gzipped(metafile);

  console.log(`satchel-runtime: ${size} bytes gzipped, without engines`);
  expect(size).toBeGreaterThan(10_000); // it was built
  expect(size).toBeLessThan(MOST);
});

test("a page that only opens bundles is left without predictors, tasks and tokenizers", async () => {
  const out = join(CACHE, "shaken");
  rmSync(out, { recursive: true, force: true });
  const { metafile } = await build({
    stdin: {
      contents: 'import { openBundle } from "./src/index.js"; console.log(openBundle);',
      resolveDir: WEB,
      loader: "ts",
    },
    ...{ bundle: true, format: "esm", minify: true, metafile: true, outdir: out, absWorkingDir: WEB, write: true },
  });

  const [{ inputs }] = Object.values(metafile.outputs);
  const left = Object.entries(inputs).filter(([, { bytesInOutput }]) => bytesInOutput > 0);

  expect(left.map(([name]) => name).filter((name) => /tasks|tokenizers|predictor|golden/.test(name))).toEqual([]);
  expect(gzipped(metafile)).toBeLessThan(10_000);
});
