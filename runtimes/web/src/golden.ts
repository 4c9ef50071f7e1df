/**
 * Golden samples: inputs before preprocessing, what the reference model said, and what the artifact said where it was built.
 * A phone replays them alone: the first shows that the model was kept, the second that this browser computes the same.
 */

import type { Bundle } from "./bundle.js";
import { IntegrityError, ParityError } from "./errors.js";
import type { Json } from "./manifest.js";
import {
  CLASSES,
  SAME_ARTIFACT,
  judge,
  numericClass,
  spreadPositions,
  type Answers,
  type Limits,
  type Parity,
  type Recorded,
  type Sample,
} from "./parity.js";
import type { Predictor } from "./predictor.js";
import { WIDE, rowKey, type Graphs, type Kind, type Row, type Task } from "./tasks/task.js";
import { float32, floats, sizeOf, unpackTensors, type Tensors } from "./tensor.js";

/** One input as a user would give it, for one task. */
export interface GoldenItem {
  readonly task: string;
  readonly input: Json;
  readonly options: Readonly<Record<string, Json>>;
}

/** A bundle's golden samples, replayed here; each is by task. */
export interface Replay {
  /** Against the model that was converted. */
  readonly reference: ReadonlyMap<string, Parity>;
  /** Against the same artifact on the machine that built it. */
  readonly artifact: ReadonlyMap<string, Parity>;
  /** Lists, against the reference of single inputs. */
  readonly batched: ReadonlyMap<string, Parity>;
}

export type Finding = "same" | "device" | "conversion" | "lists";

const RAW_LIMIT = 65_536; // values of one raw output that are compared
const SPREAD = 1;
const LISTED = 2;

export function readItems(bundle: Bundle): GoldenItem[] {
  const name = bundle.manifest.golden.inputs;
  const damaged = (why: string): IntegrityError =>
    new IntegrityError(`Cannot read the golden samples of ${bundle.path}.`, {
      why: `${name}: ${why}`,
      fix: "convert the model again",
    });
  let raw: Json;
  try {
    raw = JSON.parse(bundle.text(name));
  } catch (error) {
    throw damaged((error as Error).message);
  }
  if (!Array.isArray(raw) || !raw.every((each) => typeof each?.task === "string" && "input" in each && each.options)) {
    throw damaged("it is no list of samples");
  }
  return raw.map(({ task, input, options }) => ({ task, input, options }));
}

/** One safetensors file: four arrays that hold the parts of all records in turn, and an index of the records. */
export function readRecords(bytes: Uint8Array, where: string): Sample[] {
  const tensors = unpackTensors(bytes, where);
  const samples: Record<string, Recorded>[] = [];
  const at: Record<string, number> = { values: 0, positions: 0, top: 0, lead: 0 };
  const take = <T extends Float32Array | Int32Array>(part: string, count: number): T => {
    const data = tensors[part]?.data as T | undefined;
    if (data === undefined || at[part] + count > data.length) throw new Error(`${part} ends early`);
    at[part] += count;
    return data.subarray(at[part] - count, at[part]) as T;
  };
  try {
    const index = JSON.parse(new TextDecoder().decode(tensors.index.data as Uint8Array<ArrayBuffer>));
    for (const [place, name, kind, shape, , peak, count, how, tops] of index as [
      number,
      string,
      Kind,
      number[],
      number,
      number,
      number,
      number,
      number,
    ][]) {
      while (samples.length <= place) samples.push({});
      const values = take<Float32Array>("values", count);
      let positions: ArrayLike<number> | null = null;
      if (how === SPREAD) positions = spreadPositions(sizeOf(shape), count, place);
      else if (how === LISTED) positions = take<Int32Array>("positions", count);
      const top = WIDE.has(kind) ? take<Int32Array>("top", tops) : null;
      const lead = WIDE.has(kind) ? take<Float32Array>("lead", tops) : null;
      samples[place][name] = { kind, shape, values, positions, peak, top, lead };
    }
  } catch (error) {
    if (error instanceof IntegrityError) throw error;
    throw new IntegrityError(`Cannot read the golden samples in ${where}.`, {
      why: (error as Error).message,
      fix: "convert the model again",
    });
  }
  return samples;
}

/** What is compared of one row: the arrays that the user sees, and the raw outputs. */
function answersOf(task: Task, outputs: Tensors, scores: Tensors, place: number): Answers {
  const answers: Record<string, Tensors[string]> = {};
  for (const name of Object.keys(task.judged)) if (name in scores) answers[`${place}/judged/${name}`] = scores[name];
  for (const [name, value] of Object.entries(outputs)) {
    let tensor = value;
    const size = sizeOf(value.shape);
    if (size > RAW_LIMIT) {
      const all = floats(value);
      tensor = float32(
        [RAW_LIMIT],
        Float32Array.from(spreadPositions(size, RAW_LIMIT, 0), (i) => all[i]),
      );
    } else tensor = { ...value, data: value.data.slice() as typeof value.data }; // the batch may be gone by then
    answers[`${place}/raw/${name}`] = tensor;
  }
  return answers;
}

/** The answers of some graphs to golden items. Tasks of one bundle share most rows: each is run once. */
export async function runItems(
  tasks: ReadonlyMap<string, Task>,
  graphs: Graphs,
  items: readonly GoldenItem[],
  batchSize = 1,
  onSample?: () => void,
): Promise<Answers[]> {
  const answers: Record<string, Tensors[string]>[] = items.map(() => ({}));
  const rows = new Map<string, Row>();
  const users = new Map<string, [item: number, place: number, row: Row][]>();
  const joined = new Map<number, [Row, Tensors][]>();
  for (const [i, item] of items.entries()) {
    const task = tasks.get(item.task)!;
    if (task.joint.length) joined.set(i, []);
    const encoded = await task.encode(item.input, task.checkOptions(item.options));
    encoded.forEach((row, place) => {
      const key = rowKey(row);
      rows.set(key, row);
      const known = users.get(key);
      if (known) known.push([i, place, row]);
      else users.set(key, [[i, place, row]]);
    });
  }
  for (const component of new Set([...rows.values()].map((row) => row.component))) {
    const keys = [...rows.keys()].filter((key) => rows.get(key)!.component === component);
    const groups = batchSize > 1 ? [keys] : keys.map((key) => [key]);
    for (const group of groups) {
      const runner = tasks.get(items[users.get(group[0])![0][0]].task)!; // tasks that share rows run them alike
      for await (const [k, outputs] of runner.forward(
        graphs,
        group.map((key) => rows.get(key)!),
        batchSize,
      )) {
        for (const [i, place, row] of users.get(group[k])!) {
          const task = tasks.get(items[i].task)!;
          const scores = task.score(outputs, row);
          Object.assign(answers[i], answersOf(task, outputs, scores, place));
          const together = joined.get(i);
          if (together) together[place] = [row, scores];
          if (place === 0) onSample?.();
        }
      }
    }
  }
  for (const [i, pairs] of joined) {
    const whole = tasks.get(items[i].task)!.join(
      pairs.map(([row]) => row),
      pairs.map(([, scores]) => scores),
    );
    for (const [name, value] of Object.entries(whole)) answers[i][`0/judged/${name}`] = value;
  }
  return answers;
}

/** Run a bundle's golden samples here and compare with what travelled in it. */
export async function replay(
  predictor: Predictor,
  {
    limits,
    batchSize = 8,
    onProgress,
  }: { limits?: Limits; batchSize?: number; onProgress?: (done: number) => void } = {},
): Promise<Replay> {
  const { bundle } = predictor;
  const { golden, target } = bundle.manifest;
  const items = readItems(bundle);
  const reference = readRecords(bundle.read(golden.reference), golden.reference);
  const artifact = readRecords(bundle.read(golden.artifact), golden.artifact);
  if (items.length !== reference.length || items.length !== artifact.length) {
    throw new IntegrityError(`Cannot replay the golden samples of ${bundle.path}.`, {
      why: `there are ${items.length} inputs, ${reference.length} reference and ${artifact.length} artifact answers`,
      fix: "convert the model again",
    });
  }
  const tasks = new Map<string, Task>();
  for (const name of predictor.tasks) tasks.set(name, await predictor.openTask(name));
  let done = 0;
  const tell = (): void => onProgress?.(++done / (2 * items.length));
  const single = await runItems(tasks, predictor.graphs, items, 1, tell);
  const listed = await runItems(tasks, predictor.graphs, items, batchSize, tell);
  const kind = numericClass(target.scheme);
  const wanted = limits ?? CLASSES[kind];
  return {
    reference: judgeTasks(items, reference, single, wanted, "single"),
    artifact: judgeTasks(items, artifact, single, SAME_ARTIFACT[kind], "single"),
    batched: judgeTasks(items, reference, listed, wanted, "in batches"),
  };
}

function judgeTasks(
  items: readonly GoldenItem[],
  reference: readonly Sample[],
  answers: readonly Answers[],
  limits: Limits,
  what: string,
): Map<string, Parity> {
  const judged = new Map<string, Parity>();
  for (const name of new Set(items.map((item) => item.task))) {
    const places = items.flatMap((item, i) => (item.task === name ? [i] : []));
    judged.set(
      name,
      judge(
        places.map((i) => reference[i]),
        places.map((i) => answers[i]),
        limits,
        what,
      ),
    );
  }
  return judged;
}

/** What a replay comes to, in words and as rows for people and pipelines. */
export interface Findings {
  readonly finding: Finding;
  readonly says: string;
  readonly fix: string;
  readonly parity: readonly (Parity & { readonly against: string; readonly task: string })[];
}

const AGAINST = {
  conversion: "the converted model",
  device: "this artifact where it was built",
  lists: "the converted model, in batches",
} as const;

const SAID: Readonly<Record<Finding, readonly [string, string]>> = {
  same: ["this browser computes what the build machine did, and {} keeps the model within its limits", ""],
  device: [
    "this browser computes something else than the machine that built the bundle",
    "update the browser, or convert for it again; do not ship this bundle here",
  ],
  conversion: [
    "this browser computes what the build machine did; it is the conversion to {} that costs more than it may",
    "convert again with a scheme that is closer to float32; another device would answer the same",
  ],
  lists: [
    "single inputs are answered as they should be, but lists are not",
    "predict one input at a time (batch_size: 1), or report this with the bundle's scheme, {}",
  ],
};

export function findings(found: Replay, scheme: string): Findings {
  const parts = { conversion: found.reference, device: found.artifact, lists: found.batched };
  const parity = Object.entries(parts).flatMap(([part, each]) =>
    [...each].map(([task, judged]) => ({ against: AGAINST[part as keyof typeof AGAINST], task, ...judged })),
  );
  // Where this machine does not compute what the build machine did, nothing here says what the conversion cost.
  const order = ["device", "conversion", "lists"] as const;
  const finding = order.find((part) => ![...parts[part].values()].every((each) => each.passed)) ?? "same";
  const [says, fix] = SAID[finding].map((words) => words.replace("{}", scheme));
  return { finding, says, fix, parity };
}

/**
 * Replay the golden samples of a loaded bundle.
 *
 * @throws ParityError: anything differs.
 */
export async function verify(predictor: Predictor, options: Parameters<typeof replay>[1] = {}): Promise<Findings> {
  const found = findings(await replay(predictor, options), predictor.manifest.target.scheme);
  if (found.finding !== "same") {
    const against = AGAINST[found.finding];
    const bad = found.parity.find((each) => !each.passed && each.against === against)!;
    throw new ParityError(`${predictor.bundle.path}: ${found.says}`, {
      why: `against ${against}, ${bad.task}: ${bad.why} (${bad.where})`,
      fix: found.fix,
    });
  }
  return found;
}
