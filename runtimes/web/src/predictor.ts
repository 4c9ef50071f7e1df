/** `load` a bundle and `predict` with it: the whole of what an application sees. */

import { Bundle, openBundle, type BundleSource, type OpenOptions } from "./bundle.js";
import { UsageError } from "./errors.js";
import type { Manifest, TaskEntry } from "./manifest.js";
import { engineFor, type EngineAdapter, type Session } from "./sessions/session.js";
import { openTask } from "./tasks/index.js";
import type { Answer, Input, Options, Task } from "./tasks/task.js";

export interface LoadOptions extends OpenOptions {
  /** What runs the bundle's graphs; of several, the one for its format. */
  readonly engine: EngineAdapter | readonly EngineAdapter[];
  /** Which of the bundle's tasks `predict` serves; the first by default. */
  readonly task?: string;
  /** Intra-op threads of the engine; by default what the bundle prefers. */
  readonly threads?: number | null;
}

/** Options of a task by their names in Python, and beside them which task and how many rows in one run. */
export type PredictOptions = Options & { readonly task?: string; readonly batch_size?: number };

/**
 * Open a bundle for prediction; every file is checked before it is loaded.
 *
 * @throws UsageError: no bundle there, or it does not serve `task`.
 * @throws IntegrityError: the bundle is damaged, altered, or of another schema.
 * @throws SupportError: the engines given, or this browser, cannot run it.
 */
export async function load(source: BundleSource | Bundle, options: LoadOptions): Promise<Predictor> {
  const bundle = source instanceof Bundle ? source : await openBundle(source, options);
  const engines = Array.isArray(options.engine) ? options.engine : [options.engine];
  return Predictor.open(bundle, engines as readonly EngineAdapter[], options.task, options.threads ?? null);
}

/** A loaded bundle. Results belong to the caller. */
export class Predictor {
  readonly bundle: Bundle;
  #graphs: Map<string, Session>;
  readonly #tasks = new Map<string, Promise<Task>>();
  readonly #default: string;
  #closed = false;

  private constructor(bundle: Bundle, graphs: Map<string, Session>, task: string) {
    this.bundle = bundle;
    this.#graphs = graphs;
    this.#default = task;
  }

  static async open(
    bundle: Bundle,
    engines: readonly EngineAdapter[],
    task: string | undefined,
    threads: number | null,
  ): Promise<Predictor> {
    const graphs = new Map<string, Session>();
    const predictor = new Predictor(bundle, graphs, entryOf(bundle, task).name);
    const engine = engineFor(bundle, engines);
    await predictor.openTask(predictor.#default); // what it lacks shows before the graph is loaded
    const { graphs: all, target } = bundle.manifest;
    try {
      for (const component of new Set(all.map((graph) => graph.component))) {
        const own = all.filter((graph) => graph.component === component);
        graphs.set(component, await engine.openSession(bundle, own, { threads: threads ?? target.threads }));
      }
    } catch (error) {
      await predictor.close();
      throw error;
    }
    return predictor;
  }

  get manifest(): Manifest {
    return this.bundle.manifest;
  }

  /** The loaded graphs by component name. */
  get graphs(): ReadonlyMap<string, Session> {
    return this.#graphs;
  }

  get tasks(): readonly string[] {
    return this.manifest.tasks.map((entry) => entry.name);
  }

  /** Answer one input, or a list of them with a list, as `transformers.pipeline` does for the task. */
  async predict(inputs: Input, options: PredictOptions = {}): Promise<Answer> {
    const { task, batch_size: batchSize = 0, ...own } = options;
    const server = await this.openTask(task ?? this.#default);
    const chosen = server.checkOptions(own);
    if (server.isSingle(inputs)) {
      const [answer] = await server.run(this.#graphs, [inputs], chosen);
      return server.wrapSingle(answer, chosen);
    }
    if (!Array.isArray(inputs)) await server.encode(inputs, chosen); // says what the task takes
    return inputs.length ? server.run(this.#graphs, inputs, chosen, batchSize) : [];
  }

  /** The answer to one input in pieces of text, as they are made. Stop taking them to cancel. */
  async *stream(input: Input, options: PredictOptions = {}): AsyncGenerator<string> {
    const { task, batch_size: _, ...own } = options;
    const server = await this.openTask(task ?? this.#default);
    const stream = (
      server as Task & { stream?: (graphs: unknown, input: Input, options: Options) => AsyncGenerator<string> }
    ).stream;
    if (stream === undefined) {
      throw new UsageError("Cannot stream.", { why: `${server.name} does not write text`, fix: "use predict" });
    }
    yield* stream.call(server, this.#graphs, input, server.checkOptions(own));
  }

  openTask(name: string): Promise<Task> {
    if (this.#closed) {
      throw new UsageError("Cannot predict.", { why: "this predictor was closed", fix: "load the bundle again" });
    }
    const entry = entryOf(this.bundle, name);
    let found = this.#tasks.get(entry.name);
    if (found === undefined) {
      found = openTask(entry, this.bundle);
      this.#tasks.set(entry.name, found);
    }
    return found;
  }

  /** Free the engine's memory. Calls after this are refused. */
  async close(): Promise<void> {
    this.#closed = true;
    const sessions = [...this.#graphs.values()];
    this.#graphs = new Map();
    for (const session of sessions) await session.close();
  }
}

function entryOf(bundle: Bundle, name: string | undefined): TaskEntry {
  const { tasks } = bundle.manifest;
  const found = name === undefined ? tasks[0] : tasks.find((entry) => entry.name === name);
  if (found !== undefined) return found;
  throw new UsageError(`Cannot serve '${name}' from the bundle ${bundle.path}.`, {
    why: `it serves ${tasks.map((entry) => entry.name).join(", ")}`,
    fix: "name one of these, or convert again with --task",
  });
}
