/** A bundle is read from everywhere, and one that is not whole is refused with a way out. */

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { describe, expect, test } from "vitest";
import {
  IntegrityError,
  SatchelError,
  SupportError,
  UsageError,
  load,
  openBundle,
  type BundleFiles,
} from "../src/index.js";

const GRAPH = new TextEncoder().encode("a graph");

function manifest(change: (plain: any) => void = () => undefined): any {
  const files = Object.fromEntries(
    ["model.onnx", "golden/inputs.json", "golden/reference", "golden/artifact"].map((name) => [
      name,
      { bytes: GRAPH.length, sha256: createHash("sha256").update(GRAPH).digest("hex") },
    ]),
  );
  const plain = {
    name: "a test",
    source: { id: "x", revision: null, license: null, model_type: "bert", architecture: "B", parameters: 1 },
    target: {
      device: "browser-mobile",
      format: "onnx",
      scheme: "fp32",
      engine: { name: "onnxruntime", version: ">=1.17" },
    },
    tasks: [{ name: "feature-extraction", preprocess: [], postprocess: [] }],
    graphs: [{ component: "model", file: "model.onnx", inputs: [], outputs: [] }],
    golden: { inputs: "golden/inputs.json", reference: "golden/reference", artifact: "golden/artifact" },
    measured: { size_bytes: 1, where: "here" },
    toolchain: {},
    files,
    schema: 1,
  };
  change(plain);
  return plain;
}

/** The bundle's files in memory. */
function members(plain: any, changed: Record<string, Uint8Array | null> = {}): Map<string, Uint8Array> {
  const text = typeof plain === "string" ? plain : JSON.stringify(plain);
  const found = new Map<string, Uint8Array>([["bundle.json", new TextEncoder().encode(text)]]);
  for (const name of Object.keys(manifest().files)) found.set(name, GRAPH);
  for (const [name, bytes] of Object.entries(changed)) bytes === null ? found.delete(name) : found.set(name, bytes);
  return found;
}

function inMemory(plain: any, changed: Record<string, Uint8Array | null> = {}): BundleFiles {
  const found = members(plain, changed);
  return { name: "in memory", read: async (file) => found.get(file) ?? null };
}

/** A zip as Python's zipfile writes it without compression. */
function zipOf(found: Map<string, Uint8Array>, { method = 0, twice = "" } = {}): Blob {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let at = 0;
  const entries = [...found, ...(twice ? ([[twice, found.get(twice)!]] as [string, Uint8Array][]) : [])];
  for (const [name, bytes] of entries) {
    const text = new TextEncoder().encode(name);
    const fields = (view: DataView, place: number): void => {
      view.setUint16(place, method, true);
      view.setUint32(place + 10, bytes.length, true);
      view.setUint32(place + 14, bytes.length, true);
      view.setUint16(place + 18, text.length, true);
    };
    const local = new DataView(new ArrayBuffer(30));
    local.setUint32(0, 0x04034b50, true);
    fields(local, 8);
    const entry = new DataView(new ArrayBuffer(46));
    entry.setUint32(0, 0x02014b50, true);
    fields(entry, 10);
    entry.setUint32(42, at, true);
    parts.push(new Uint8Array(local.buffer), text, bytes);
    directory.push(new Uint8Array(entry.buffer), text);
    at += 30 + text.length + bytes.length;
  }
  const size = directory.reduce((sum, each) => sum + each.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(10, entries.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, at, true);
  return new Blob([...parts, ...directory, new Uint8Array(end.buffer)] as BlobPart[]);
}

async function refusal(source: Parameters<typeof openBundle>[0]): Promise<SatchelError> {
  const error = await openBundle(source).catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(SatchelError);
  return error as SatchelError;
}

test("a whole bundle is opened from memory, a zip, and picked files", async () => {
  const found = members(manifest());
  const picked = [...found].map(([name, bytes]) => {
    const file = new File([bytes as BlobPart], name.split("/").pop()!);
    Object.defineProperty(file, "webkitRelativePath", { value: `minilm.satchel/${name}` });
    return file;
  });
  for (const source of [inMemory(manifest()), zipOf(found), picked]) {
    const bundle = await openBundle(source);
    expect(bundle.manifest.graphs[0]).toMatchObject({ entry: null, bind: {}, state: {}, window: null });
    expect(bundle.read("model.onnx")).toEqual(GRAPH);
  }
});

test("progress counts the bytes that are checked", async () => {
  const told: number[] = [];

  await openBundle(inMemory(manifest()), { onProgress: (done, total) => told.push(done / total) });

  expect(told).toEqual([0, 0.25, 0.5, 0.75, 1]);
});

describe("what is not whole is refused", () => {
  const short = GRAPH.slice(0, 3);
  const other = new TextEncoder().encode("a grapx");
  const text = JSON.stringify(manifest());
  const unknown = manifest((plain) => (plain.graphs[0].code = "x"));
  const cases: [string, Parameters<typeof openBundle>[0], RegExp][] = [
    [
      "a truncated file",
      inMemory(manifest(), { "model.onnx": short }),
      /'model.onnx' has 3 bytes, the manifest says 7/,
    ],
    [
      "an altered file",
      inMemory(manifest(), { "model.onnx": other }),
      /'model.onnx' was altered: its sha256 is [0-9a-f]{12}…/,
    ],
    ["a missing file", inMemory(manifest(), { "model.onnx": null }), /'model.onnx' is missing/],
    ["another schema", inMemory(manifest((plain) => (plain.schema = 3))), /it has schema 3; this runtime reads 1/],
    ["an unknown key", inMemory(unknown), /bundle.json: graphs\[0\] has the unknown key 'code'/],
    ["a missing key", inMemory(manifest((plain) => delete plain.golden)), /bundle.json lacks the key 'golden'/],
    ["a wrong type", inMemory(manifest((plain) => (plain.target.threads = "2"))), /target: threads is string/],
    ["a key that stands twice", inMemory(text.replace('"schema":1', '"schema":1,"schema":1')), /a key stands twice/],
    ["no JSON", inMemory(text.slice(0, -1)), /is not valid JSON/],
    ["a number without end", inMemory(text.replace('"size_bytes":1', '"size_bytes":1e999')), /too large for a number/],
    [
      "deep nesting",
      inMemory(text.replace('"toolchain":{}', `"toolchain":{"a":${"[".repeat(40)}${"]".repeat(40)}}`)),
      /deeper than 32/,
    ],
    [
      "a path upwards",
      inMemory(manifest((plain) => (plain.golden.inputs = "../inputs.json"))),
      /'..\/inputs.json', which leaves/,
    ],
    ["a drive", inMemory(manifest((plain) => (plain.graphs[0].file = "C:model"))), /leaves the bundle/],
    [
      "a file that is not listed",
      inMemory(manifest((plain) => (plain.graphs[0].file = "other.onnx"))),
      /does not list/,
    ],
    ["a bundle that its gates refused", inMemory(manifest((plain) => (plain.failed = true))), /its gates refused it/],
    ["a compressed zip", zipOf(members(manifest()), { method: 8 }), /is compressed/],
    ["a zip with a file twice", zipOf(members(manifest()), { twice: "model.onnx" }), /holds 'model.onnx' twice/],
    ["half a zip", zipOf(members(manifest())).slice(0, 300), /whole zip/],
  ];

  test.each(cases)("%s", async (_, source, why) => {
    const error = await refusal(source);

    expect(error).toBeInstanceOf(IntegrityError);
    expect([error.kind, error.exitCode]).toEqual(["IntegrityError", 16]);
    expect(error.why).toMatch(why);
    expect(error.fix).not.toBe("");
    expect(error.message).toBe(`${error.what}\n  why: ${error.why}\n  fix: ${error.fix}`);
  });
});

test("where there is no bundle at all, it says so", async () => {
  const error = await refusal({ name: "nothing", read: async () => null });

  expect(error).toBeInstanceOf(UsageError);
  expect(error.why).toContain("there is no bundle.json in it");
});

describe("over a network", () => {
  const served = async (
    answer: (name: string, response: any) => void,
    run: (address: string) => Promise<void>,
  ): Promise<void> => {
    const server = createServer((request, response) =>
      answer(decodeURIComponent(request.url!.split("?")[0].slice(3)), response),
    );
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      await run(`http://127.0.0.1:${(server.address() as { port: number }).port}/b/`);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  };
  const found = members(manifest());

  test("a bundle comes from an address", () =>
    served(
      (name, response) => response.end(found.get(name)),
      async (address) => expect((await openBundle(address.slice(0, -1))).manifest.name).toBe("a test"),
    ));

  test("a connection that ends in the middle is named, with how far it came", () =>
    served(
      (name, response) => {
        if (name !== "model.onnx") response.end(found.get(name));
        else {
          response.writeHead(200, { "Content-Length": 7 });
          response.write("a g");
          setTimeout(() => response.destroy(), 50);
        }
      },
      async (address) => {
        const error = await refusal(address);
        expect([error.kind, error.what]).toEqual(["IntegrityError", "Cannot fetch model.onnx."]);
        expect(error.why).toMatch(/ended after 3 of 7 bytes/);
      },
    ));

  test("a file without an end is cut off", () =>
    served(
      (name, response) => {
        if (name !== "model.onnx") response.end(found.get(name));
        else {
          const pour = (): void => void (response.destroyed || (response.write("x".repeat(1000)), setTimeout(pour, 1)));
          pour();
        }
      },
      async (address) =>
        expect((await refusal(address)).why).toMatch(/'model.onnx' has \d+ bytes, the manifest says 7/),
    ));

  test("a server that refuses, and one that is not there", () =>
    served(
      (_, response) => {
        response.statusCode = 409;
        response.end();
      },
      async (address) => {
        expect((await refusal(address)).why).toContain("the server answers 409");
        expect((await refusal("http://127.0.0.1:9/")).why).toContain("does not answer");
      },
    ));
});

test("a bundle for another engine, or a task that is not here, says what would do", async () => {
  const tflite = manifest((plain) => (plain.target.format = "tflite"));
  const engine = {
    format: "onnx",
    openSession: async () => {
      throw new Error("not reached");
    },
  };
  const table = manifest((plain) => (plain.tasks[0].name = "table-question-answering"));

  await expect(load(inMemory(tflite), { engine })).rejects.toThrow(/holds 'tflite'; the engines given here run onnx/);
  await expect(load(inMemory(table), { engine })).rejects.toThrow(SupportError);
  await expect(load(inMemory(manifest()), { engine, task: "fill-mask" })).rejects.toThrow(
    /it serves feature-extraction/,
  );
});
