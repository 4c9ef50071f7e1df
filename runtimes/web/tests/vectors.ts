/** What the Python runtime says, written by a script in tests/ and kept while that is the same. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

export const ROOT = new URL("../../../", import.meta.url).pathname;
export const CACHE = join(ROOT, ".cache", "web");

export function vectors(name: string): any {
  const file = join(CACHE, `${name}.json`);
  const script = join(ROOT, "tests", `web_${name}.py`);
  if (!existsSync(file) || statSync(file).mtimeMs < statSync(script).mtimeMs) {
    mkdirSync(CACHE, { recursive: true });
    execFileSync(join(ROOT, ".venv/bin/python"), ["-m", `tests.web_${name}`, file], {
      cwd: ROOT,
      stdio: ["ignore", "ignore", "inherit"],
    });
  }
  return JSON.parse(readFileSync(file, "utf8"));
}
