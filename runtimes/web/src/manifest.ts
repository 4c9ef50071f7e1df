/** `bundle.json`: the same file, checks and messages as in the Python runtime, by the JSON Schema that it derives. */

import schema from "../../satchel_runtimes/bundle.schema.json" with { type: "json" };
import { IntegrityError } from "./errors.js";
import type { DType } from "./tensor.js";

export const MANIFEST_NAME = "bundle.json";
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
const MAX_DEPTH = 32;
const MAX_DIGITS = 400;

/** What JSON holds; each step names its own options. */
export type Json = any; // as `Any` in the Python runtime

export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  /** A dynamic axis is its name, a fixed one its size. */
  readonly shape: readonly (number | string)[];
  /** What fills an input beyond its valid positions. */
  readonly padding: number | null;
}

/** One callable: a file, or a signature in one (`entry`), with the axes that it fixes (`bind`). */
export interface Graph {
  readonly component: string;
  readonly file: string;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  readonly entry: string | null;
  readonly bind: Readonly<Record<string, number>>;
  readonly weights: string | null;
  /** Each input that is cache, and the output that it comes out as. */
  readonly state: Readonly<Record<string, string>>;
  readonly window: number | null;
}

export interface Step {
  readonly step: string;
  readonly options: Readonly<Record<string, Json>>;
}

/** A task that the bundle serves: the way in and the way out. */
export interface TaskEntry {
  readonly name: string;
  readonly preprocess: readonly Step[];
  readonly postprocess: readonly Step[];
}

export interface Engine {
  readonly name: string;
  readonly version: string;
  readonly opset: number | null;
  readonly ir: number | null;
  readonly options: Readonly<Record<string, string>>;
  readonly also: readonly string[];
}

export interface Manifest {
  readonly name: string;
  readonly source: Readonly<Record<string, Json>>;
  readonly target: {
    readonly device: string;
    readonly format: string;
    readonly scheme: string;
    readonly engine: Engine;
    readonly threads: number | null;
  };
  readonly tasks: readonly TaskEntry[];
  readonly graphs: readonly Graph[];
  readonly golden: { readonly inputs: string; readonly reference: string; readonly artifact: string };
  readonly measured: Readonly<Record<string, Json>>;
  readonly toolchain: Readonly<Record<string, string>>;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
  readonly failed: boolean;
  readonly schema: number;
}

/** The option of the first step with that name. */
export function stepOption(entry: TaskEntry, step: string, name: string, fallback: Json = null): Json {
  for (const each of [...entry.preprocess, ...entry.postprocess]) {
    if (each.step === step) return Object.hasOwn(each.options, name) ? each.options[name] : fallback;
  }
  return fallback;
}

/** Inputs of each call, without what a session keeps. */
export function given(graph: Graph): readonly TensorSpec[] {
  return graph.inputs.filter((spec) => !Object.hasOwn(graph.state, spec.name));
}

export function caches(graph: Graph): readonly TensorSpec[] {
  return graph.inputs.filter((spec) => Object.hasOwn(graph.state, spec.name));
}

/** Outputs of each call, likewise. */
export function answered(graph: Graph): readonly TensorSpec[] {
  const kept = new Set(Object.values(graph.state));
  return graph.outputs.filter((spec) => !kept.has(spec.name));
}

/**
 * Read and check `bundle.json`.
 *
 * @throws IntegrityError: too large, not JSON, another schema, an unknown or missing key, a wrong type, or a path that
 *   leaves the bundle.
 */
export function parseManifest(bytes: Uint8Array, where: string): Manifest {
  const raw = parseJson(bytes, where);
  const schemas: readonly number[] = schema.properties.schema.enum;
  if (typeof raw.schema !== "number" || !schemas.includes(raw.schema)) {
    throw new IntegrityError(`Cannot read the bundle ${where}.`, {
      why: `it has schema ${JSON.stringify(raw.schema) ?? "None"}; this runtime reads ${schemas.join(", ")}`,
      fix: "convert again with the satchel version that runs on the device, or update satchel-runtime there",
    });
  }
  check(schema as Schema, raw, MANIFEST_NAME, where);
  const manifest = withDefaults(raw);
  const members = Object.keys(manifest.files);
  for (const graph of manifest.graphs) members.push(graph.file, ...(graph.weights ? [graph.weights] : []));
  members.push(manifest.golden.inputs, manifest.golden.reference, manifest.golden.artifact);
  for (const member of members) {
    checkMemberName(member, where);
    if (!Object.hasOwn(manifest.files, member)) {
      throw altered(where, `it names '${member}', which \`files\` does not list`);
    }
  }
  for (const [name, digest] of Object.entries(manifest.files)) {
    if (digest.bytes < 0 || !/^[0-9a-f]{64}$/.test(digest.sha256))
      throw altered(where, `the digest of '${name}' is not one`);
  }
  for (const graph of manifest.graphs) {
    if (graph.weights && folderOf(graph.weights) !== folderOf(graph.file)) {
      throw altered(where, `the weights '${graph.weights}' do not lie beside their graph '${graph.file}'`);
    }
    const inputs = new Set(graph.inputs.map((spec) => spec.name));
    const outputs = new Set(graph.outputs.map((spec) => spec.name));
    if (!Object.entries(graph.state).every(([input, output]) => inputs.has(input) && outputs.has(output))) {
      throw altered(where, `the cache of '${graph.file}' is not among its inputs and outputs`);
    }
  }
  return manifest;
}

/** Refuse a path that could leave the bundle on any system that reads it. */
export function checkMemberName(name: string, where: string): void {
  const leaves =
    name.startsWith("/") ||
    name.split("/").some((part) => part === "" || part === "." || part === "..") ||
    /[\x00-\x1f\\:\x7f]/.test(name);
  if (leaves) {
    throw new IntegrityError(`Cannot read the bundle ${where}.`, {
      why: `it names the path '${name}', which leaves the bundle`,
      fix: "do not use this bundle; convert the model again",
    });
  }
}

export function altered(where: string, why: string): IntegrityError {
  return new IntegrityError(`Cannot read the bundle ${where}.`, {
    why,
    fix: "copy the bundle again, or convert the model again",
  });
}

function folderOf(name: string): string {
  return name.slice(0, name.lastIndexOf("/") + 1);
}

function parseJson(bytes: Uint8Array, where: string): Record<string, Json> {
  if (bytes.length > MAX_MANIFEST_BYTES) {
    throw altered(where, `${MANIFEST_NAME} has ${bytes.length} bytes; at most ${MAX_MANIFEST_BYTES} are read`);
  }
  let raw: Json;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    raw = JSON.parse(text);
    checkTokens(text);
    checkTree(raw);
  } catch (error) {
    throw altered(where, `${MANIFEST_NAME} is not valid JSON: ${(error as Error).message}`);
  }
  if (typeof raw !== "object" || raw === null || Array.isArray(raw))
    throw altered(where, `${MANIFEST_NAME} is not a JSON object`);
  return raw;
}

/** What `JSON.parse` takes in silence: a key that stands twice, on which two readers could disagree, and endless numbers. */
function checkTokens(text: string): void {
  const keys: (Set<string> | null)[] = [];
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]]|-?\d[\d.eE+-]*/g;
  for (let found = token.exec(text); found !== null; found = token.exec(text)) {
    const [word] = found;
    if (word === "{") keys.push(new Set());
    else if (word === "[") keys.push(null);
    else if (word === "}" || word === "]") keys.pop();
    else if (word[0] === '"') {
      const known = keys[keys.length - 1];
      if (
        !known ||
        !/^\s*:/.test(
          text
            .slice(token.lastIndex, token.lastIndex + 64)
            .trimStart()
            .slice(0, 1),
        )
      )
        continue;
      const key = JSON.parse(word) as string;
      if (known.has(key)) throw new Error("a key stands twice");
      known.add(key);
    } else if (word.length > MAX_DIGITS) throw new Error(`a number has ${word.length} digits`);
    else if (!Number.isFinite(Number(word))) throw new Error(`${word} is too large for a number`);
    if (keys.length > MAX_DEPTH) throw new Error(`it is nested deeper than ${MAX_DEPTH} levels`);
  }
}

function checkTree(raw: Json): void {
  if (typeof raw === "string") {
    // Half a surrogate pair, which no file name can hold.
    if (/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(raw))
      throw new Error("half a character");
  } else if (Array.isArray(raw)) raw.forEach(checkTree);
  else if (raw !== null && typeof raw === "object") {
    for (const [key, value] of Object.entries(raw)) {
      checkTree(key);
      checkTree(value);
    }
  }
}

interface Schema {
  type?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  items?: Schema;
  anyOf?: Schema[];
  enum?: Json[];
}

const WORDS: Record<string, string> = { integer: "int", number: "float", string: "str", boolean: "bool", null: "null" };

/** The part of JSON Schema that the Python runtime's dataclasses need. */
function check(kind: Schema, raw: Json, at: string, where: string): void {
  if (kind.anyOf) {
    const fitting = kind.anyOf.find((each) => isOf(each, raw));
    if (fitting === undefined) throw altered(where, `${at} is ${wordFor(raw)}`);
    check(fitting, raw, at, where);
    return;
  }
  if (kind.enum) {
    if (!kind.enum.includes(raw)) throw altered(where, `${at} is ${wordFor(raw)}`);
    return;
  }
  if (!isOf(kind, raw)) {
    if (kind.properties) throw altered(where, `${at} is not an object`);
    throw altered(where, `${at} is ${wordFor(raw)}, expected ${WORDS[kind.type!] ?? kind.type}`);
  }
  if (kind.items) (raw as Json[]).forEach((each, i) => check(kind.items!, each, `${at}[${i}]`, where));
  if (kind.type !== "object") return;
  if (kind.properties) {
    const unknown = Object.keys(raw)
      .sort()
      .find((key) => !Object.hasOwn(kind.properties!, key));
    const missing = kind.required?.find((key) => !Object.hasOwn(raw, key));
    if (unknown !== undefined) throw altered(where, `${at} has the unknown key '${unknown}'`);
    if (missing !== undefined) throw altered(where, `${at} lacks the key '${missing}'`);
    for (const [key, value] of Object.entries(raw)) check(kind.properties[key], value, `${at}: ${key}`, where);
  } else if (typeof kind.additionalProperties === "object") {
    for (const [key, value] of Object.entries(raw)) check(kind.additionalProperties, value, `${at}['${key}']`, where);
  }
}

function isOf(kind: Schema, raw: Json): boolean {
  switch (kind.type) {
    case undefined:
      return true;
    case "null":
      return raw === null;
    case "array":
      return Array.isArray(raw);
    case "object":
      return typeof raw === "object" && raw !== null && !Array.isArray(raw);
    case "integer":
      return Number.isInteger(raw);
    default:
      return typeof raw === kind.type;
  }
}

function wordFor(raw: Json): string {
  return raw === null ? "null" : Array.isArray(raw) ? "list" : typeof raw;
}

function withDefaults(raw: Json): Manifest {
  const spec = (each: Json): TensorSpec => ({ padding: null, ...each });
  return {
    failed: false,
    ...raw,
    target: {
      threads: null,
      ...raw.target,
      engine: { opset: null, ir: null, options: {}, also: [], ...raw.target.engine },
    },
    tasks: raw.tasks.map((task: Json) => ({
      ...task,
      preprocess: task.preprocess.map((step: Json) => ({ options: {}, ...step })),
      postprocess: task.postprocess.map((step: Json) => ({ options: {}, ...step })),
    })),
    graphs: raw.graphs.map((graph: Json) => ({
      entry: null,
      bind: {},
      weights: null,
      state: {},
      window: null,
      ...graph,
      inputs: graph.inputs.map(spec),
      outputs: graph.outputs.map(spec),
    })),
  };
}
