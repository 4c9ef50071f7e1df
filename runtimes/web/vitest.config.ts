import { defineConfig } from "vitest/config";

// One file at a time: a browser and an engine with threads want the processor for themselves.
export default defineConfig({ test: { include: ["tests/**/*.test.ts"], fileParallelism: false } });
