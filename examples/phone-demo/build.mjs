/**
 * Build the demo with two bundles:
 *
 *     node examples/phone-demo/build.mjs CLASSIFY EMBED [OUT]
 *
 * CLASSIFY is a bundle folder for text-classification and EMBED one for sentence-embedding, both ONNX. OUT (examples/phone-demo/dist by
 * default) is then a folder of plain files for any web server.
 */

import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { buildPage } from "../../runtimes/web/build.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));

export async function buildDemo(bundles, out) {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(join(out, "app"), { recursive: true });
  await buildPage(
    { app: join(HERE, "app.ts"), worker: join(HERE, "worker.ts") },
    join(out, "app"),
  );
  for (const name of ["index.html", "manifest.webmanifest", "icon.svg"])
    cpSync(join(HERE, name), join(out, name));
  for (const [model, folder] of Object.entries(bundles))
    cpSync(folder, join(out, "bundles", model), { recursive: true });
  const files = filesIn(out).sort();
  const hash = createHash("sha256");
  for (const file of files)
    hash.update(file).update(readFileSync(join(out, file)));
  const script = readFileSync(join(HERE, "sw.js"), "utf8")
    .replace("__BUILD__", `phone-demo-${hash.digest("hex").slice(0, 16)}`)
    .replace(
      '["__FILES__"]',
      JSON.stringify([
        "./",
        ...files.filter((file) => !file.startsWith("bundles/")),
      ]),
    );
  writeFileSync(join(out, "sw.js"), script);
}

function filesIn(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((each) => each.isFile())
    .map((each) =>
      relative(folder, join(each.parentPath ?? each.path, each.name)),
    );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [classify, embed, out = join(HERE, "dist")] = process.argv.slice(2);
  if (
    !classify ||
    !embed ||
    ![classify, embed].every((each) => existsSync(join(each, "bundle.json")))
  ) {
    console.error(
      "name two bundle folders: node build.mjs CLASSIFY EMBED [OUT]",
    );
    process.exit(2);
  }
  await buildDemo(
    { classify: resolve(classify), embed: resolve(embed) },
    resolve(out),
  );
  console.log(
    `${resolve(out)} is ready: python3 -m http.server -d ${relative(process.cwd(), resolve(out))} 8000`,
  );
}
