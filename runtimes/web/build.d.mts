export const ENTRIES: Record<string, string>;
export function buildPackage(outdir?: string): Promise<import("esbuild").Metafile>;
export function buildPage(
  entryPoints: Record<string, string>,
  outdir: string,
  backends?: readonly ("wasm" | "webgpu")[],
): Promise<import("esbuild").Metafile>;
export function copyLiteRt(outdir: string): void;
