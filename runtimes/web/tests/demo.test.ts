/** The installable page of examples/phone-demo: it answers, and goes on answering without a network. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { Server } from "node:http";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildDemo } from "../../../examples/phone-demo/build.mjs";
import { CACHE, ROOT, chromiumPath, openBrowser, openPhone, serve } from "./browser.js";

const OUT = join(CACHE, "demo");
// Bundles of one's own show what the page is for: DEMO_CLASSIFY and DEMO_EMBED.
const CLASSIFY = process.env.DEMO_CLASSIFY ?? join(CACHE, "bundles", "classes", "bundle");
const EMBED = process.env.DEMO_EMBED ?? join(CACHE, "bundles", "vectors", "bundle");

describe.skipIf(chromiumPath() === null)("the demo", () => {
  let browser: Browser;
  let server: Server;
  let address: string;

  beforeAll(async () => {
    execFileSync(
      join(ROOT, ".venv/bin/python"),
      ["-m", "tests.web_bundles", join(CACHE, "bundles"), "classes", "vectors"],
      { cwd: ROOT, stdio: "ignore" },
    );
    await buildDemo({ classify: CLASSIFY, embed: EMBED }, OUT);
    [server, address] = await serve({ demo: OUT }, false); // a plain file server: its own worker isolates the page
    browser = await openBrowser();
  }, 600_000);

  afterAll(async () => {
    await browser?.close();
    server?.close();
  });

  test("can be installed", () => {
    const manifest = JSON.parse(readFileSync(join(OUT, "manifest.webmanifest"), "utf8"));

    expect(manifest).toMatchObject({ display: "standalone", start_url: "./" });
    expect(manifest.icons.length).toBeGreaterThan(0);
  });

  test.each(["light", "dark"] as const)(
    "answers, and offline after the first load: %s",
    { timeout: 300_000 },
    async (colorScheme) => {
      const page = await openPhone(browser, { colorScheme });
      const errors: string[] = [];
      page.on("pageerror", (error) => errors.push(String(error)));
      await page.goto(`${address}/demo/`);
      await page.waitForFunction("document.body.dataset.answered", null, { timeout: 40_000 });

      expect(await page.locator("#labels li").count()).toBeGreaterThan(0);
      expect(await page.locator("#near li").count()).toBe(4);
      expect(await page.locator("#classify-status").textContent()).toMatch(/answered in [\d.]+ ms/);
      expect(await page.evaluate("crossOriginIsolated")).toBe(true);
      expect(await page.evaluate("document.documentElement.scrollWidth - innerWidth")).toBeLessThanOrEqual(0);
      await page.screenshot({ path: join(CACHE, `demo-${colorScheme}.png`) });

      await page.context().setOffline(true);
      await page.reload();
      await page.waitForFunction("document.body.dataset.answered", null, { timeout: 40_000 });
      await page.getByLabel("A text").fill("The app does not start any more.");
      await page.getByRole("button", { name: "Ask" }).click();
      await page.waitForFunction("document.body.dataset.answered.startsWith('The app')");

      expect(await page.locator("#network").textContent()).toBe("offline");
      await page.getByRole("button", { name: "Verify" }).click();
      await page.getByText("this browser computes what the build machine did").first().waitFor({ timeout: 40_000 });
      expect(errors).toEqual([]);
      await page.context().close();
    },
  );
});
