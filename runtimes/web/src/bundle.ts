/** Open a bundle from an address, a zip or a list of files, and check every byte before anything is loaded from it. */

import { IntegrityError, SatchelError, UsageError } from "./errors.js";
import { MANIFEST_NAME, MAX_MANIFEST_BYTES, altered, parseManifest, type Manifest } from "./manifest.js";
import { sha256 } from "./sha256.js";
import { openZip } from "./zip.js";

/** Where a bundle comes from: the address of its folder or of its zip, a zip, or the files of a folder. */
export type BundleSource = string | URL | Blob | Iterable<File> | BundleFiles;

/** The files of a bundle as anything can give them, for instance an app's own storage. */
export interface BundleFiles {
  readonly name: string;
  /** The bytes of a file, or null where there is none. `expected` is its size, where the manifest has been read. */
  read(file: string, expected?: number, onBytes?: (done: number) => void): Promise<Uint8Array | null>;
}

export interface OpenOptions {
  /** Open a bundle that its gates refused and `--keep-failed` kept. */
  readonly allowFailed?: boolean;
  /** Told how many bytes of all are there and checked. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** A bundle whose manifest was read and whose files were checked. */
export class Bundle {
  readonly path: string;
  readonly manifest: Manifest;
  readonly #files: Map<string, Uint8Array>;

  constructor(path: string, manifest: Manifest, files: Map<string, Uint8Array>) {
    this.path = path;
    this.manifest = manifest;
    this.#files = files;
  }

  read(name: string): Uint8Array {
    const found = this.#files.get(name);
    if (found === undefined) throw altered(this.path, `'${name}' is not one of its files`);
    return found;
  }

  text(name: string): string {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.read(name));
  }

  /** Let a file's bytes go, once an engine has its own copy of them: a model of 90 MB would lie in memory twice. */
  release(name: string): void {
    this.#files.delete(name);
  }
}

/**
 * Read `bundle.json` and check size and sha256 of every file that it lists.
 *
 * @throws UsageError: there is no bundle.
 * @throws IntegrityError: a missing or altered byte, a path that leaves the bundle, another schema.
 */
export async function openBundle(source: BundleSource, options: OpenOptions = {}): Promise<Bundle> {
  const files = await filesOf(source, options.signal);
  const head = await files.read(MANIFEST_NAME);
  if (head === null) {
    throw new UsageError(`Cannot open the bundle ${files.name}.`, {
      why: `there is no ${MANIFEST_NAME} in it`,
      fix: "name a folder or zip that satchel convert wrote",
    });
  }
  const manifest = parseManifest(head, files.name);
  const total = Object.values(manifest.files).reduce((sum, each) => sum + each.bytes, 0);
  const found = new Map<string, Uint8Array>();
  let before = 0;
  options.onProgress?.(0, total);
  for (const [name, digest] of Object.entries(manifest.files)) {
    options.signal?.throwIfAborted();
    const bytes = await files.read(name, digest.bytes, (done) => options.onProgress?.(before + done, total));
    if (bytes === null) throw altered(files.name, `the file '${name}' is missing`);
    if (bytes.length !== digest.bytes) {
      throw altered(files.name, `'${name}' has ${bytes.length} bytes, the manifest says ${digest.bytes}`);
    }
    const has = await sha256(bytes);
    if (has !== digest.sha256) {
      const why = `'${name}' was altered: its sha256 is ${has.slice(0, 12)}…, the manifest says ${digest.sha256.slice(0, 12)}…`;
      throw altered(files.name, why);
    }
    found.set(name, bytes);
    before += digest.bytes;
    options.onProgress?.(before, total);
  }
  if (manifest.failed && !options.allowFailed) {
    throw new IntegrityError(`Will not load the bundle ${files.name}.`, {
      why: "its gates refused it; it was kept with --keep-failed for a look",
      fix: "convert again, or inspect it with satchel inspect",
    });
  }
  return new Bundle(files.name, manifest, found);
}

async function filesOf(source: BundleSource, signal?: AbortSignal): Promise<BundleFiles> {
  if (typeof source === "string" || source instanceof URL) {
    const address = new URL(source, globalThis.location?.href);
    if (/\.zip$/i.test(address.pathname)) {
      const bytes = await download(address, nameOf(address), signal);
      if (bytes === null) {
        throw new UsageError(`Cannot open the bundle ${nameOf(address)}.`, {
          why: "there is nothing at that address",
          fix: "name the address of a bundle's folder or zip",
        });
      }
      return openZip(new Blob([bytes as Uint8Array<ArrayBuffer>]), nameOf(address));
    }
    return folderAt(address, signal);
  }
  if (source instanceof Blob) return openZip(source, "name" in source ? String(source.name) : "a zip");
  if ("read" in source) return source;
  return pickedFiles([...source]);
}

function nameOf(address: URL): string {
  return address.pathname.replace(/\/$/, "").split("/").pop() || address.href;
}

function folderAt(address: URL, signal?: AbortSignal): BundleFiles {
  const base = new URL(address);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return {
    name: nameOf(base),
    read(file, expected, onBytes) {
      const at = new URL(file.split("/").map(encodeURIComponent).join("/"), base);
      at.search = base.search; // a token, where the server wants one
      return download(at, file, signal, expected, onBytes);
    },
  };
}

async function download(
  address: URL,
  name: string,
  signal?: AbortSignal,
  expected?: number,
  onBytes?: (done: number) => void,
): Promise<Uint8Array | null> {
  let response: Response;
  try {
    response = await fetch(address, signal ? { signal } : undefined);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new SatchelError(`Cannot fetch ${name}.`, {
      why: `the server at ${address.host || address.href} does not answer (${(error as Error).message})`,
      fix: "look whether this device is on the network of the server, and load again",
    });
  }
  if (response.status === 404) return null;
  if (!response.ok) {
    throw new SatchelError(`Cannot fetch ${name}.`, {
      why: `the server answers ${response.status} ${response.statusText}`.trim(),
      fix: "open the link anew; a link may be meant for one device and one time",
    });
  }
  const limit = expected ?? (name.endsWith(".zip") ? Infinity : MAX_MANIFEST_BYTES);
  const chunks: Uint8Array[] = [];
  let done = 0;
  try {
    const reader = response.body!.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      chunks.push(part.value);
      done += part.value.length;
      onBytes?.(Math.min(done, limit));
      if (done > limit) {
        // One byte too many is enough to know; a server without an end would fill the memory.
        await reader.cancel();
        break;
      }
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    const whole = expected === undefined ? "" : ` of ${expected}`;
    throw new IntegrityError(`Cannot fetch ${name}.`, {
      why: `the connection ended after ${done}${whole} bytes (${(error as Error).message})`,
      fix: "load again, nearer to the network",
    });
  }
  const bytes = new Uint8Array(done);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** Files of a folder that a user picked: the folder's own name stands before each path. */
function pickedFiles(files: readonly File[]): BundleFiles {
  const pathOf = (file: File): string => file.webkitRelativePath || file.name;
  const manifest = files.map(pathOf).filter((path) => path.split("/").pop() === MANIFEST_NAME);
  const root = manifest.sort((one, other) => one.length - other.length)[0]?.slice(0, -MANIFEST_NAME.length) ?? "";
  const byPath = new Map(files.map((file) => [pathOf(file), file]));
  return {
    name: root.replace(/\/$/, "") || "of picked files",
    async read(name, expected) {
      const file = byPath.get(root + name);
      if (file === undefined) return null;
      const limit = expected ?? MAX_MANIFEST_BYTES;
      if (file.size > limit) throw altered(name, `it has ${file.size} bytes; ${limit} are expected`);
      try {
        return new Uint8Array(await file.arrayBuffer());
      } catch (error) {
        throw altered(name, `the file cannot be read (${(error as Error).message})`);
      }
    },
  };
}
