/** text-generation: a language model goes on with a text, by greedy search or sampling. */

import type { Bundle } from "../bundle.js";
import { UsageError, shown } from "../errors.js";
import { changed, longestOf, readConfig, type GenerationConfig } from "../generation/config.js";
import { randomOf } from "../generation/random.js";
import { draw, likeliest, rulesOf } from "../generation/rules.js";
import { Texts } from "../generation/texts.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import { logSoftmax, rowView, softmax } from "../numbers.js";
import { float32, floats, type Tensor, type Tensors } from "../tensor.js";
import type { Answer, Graphs, Input, Kind, Options, Row } from "./task.js";
import { TextTask, isMapping, kindOf, rowOfEncoding } from "./text.js";

const STEPS = 8; // tokens of a golden text that are read one by one, as generation does
const NEW_TOKENS = 256; // where neither the model nor the caller says, as in the pipeline
const ROOM = 64; // new tokens that there is room for at first: a cache goes to the engine and back with every token
const CONTEXT = 4; // tokens before a piece that it is read with
const MOST = 24;

/**
 * `predict("Once upon a time")` is `[{generated_text: "Once upon a time …"}]`; `stream` gives the new text in pieces.
 *
 * Options as in the pipeline: `return_full_text` (true), `handle_long_generation` (null, or "hole": cut the beginning of a prompt that
 * leaves no room), and the settings of greedy search and sampling by their names in `GenerationConfig`. The same `seed` draws the same
 * tokens as in Python. Conversations need their model's template, which is a program in Jinja: the Python runtime runs it.
 */
export class TextGeneration extends TextTask {
  readonly name = "text-generation";
  readonly judged: Readonly<Record<string, Kind>> = { scores: "next", losses: "loss" };
  override readonly options = { return_full_text: true, handle_long_generation: null };
  override readonly generates = true;
  override readonly brief = { max_new_tokens: 1 };
  readonly #config: GenerationConfig;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.#config = readConfig(stepOption(entry, "generate", "config", {}), bundle.path);
  }

  override checkOptions(given: Options): Options {
    const own = Object.entries(given).filter(([name]) => name in this.options);
    const settings = Object.entries(given).filter(([name]) => !(name in this.options));
    let config = changed(this.#config, Object.fromEntries(settings));
    if (config.max_new_tokens === null && config.max_length === null)
      config = changed(config, { max_new_tokens: NEW_TOKENS });
    return { ...this.options, ...Object.fromEntries(own), config };
  }

  override encode(item: Input, _options: Options): readonly Row[] {
    if (typeof item !== "string") throw this.#notText(item);
    const encoding = this.reader.encode(item);
    return [rowOfEncoding(encoding, encoding.ids)];
  }

  #notText(item: Input): UsageError {
    if (isMapping(item) && "role" in item) {
      return new UsageError("Cannot hold a conversation here.", {
        why: "its template is a program in Jinja, which this runtime does not run",
        fix: "put the conversation into the model's form yourself, and pass the text",
      });
    }
    return new UsageError(`Cannot run ${this.name} on ${kindOf(item)} ${shown(item).slice(0, 40)}.`, {
      why: "it takes a string, or a list of them",
      fix: "pass a string",
    });
  }

  score(outputs: Tensors, row: Row): Tensors {
    const ids = row.extra as readonly number[];
    const { logits } = outputs;
    const [count] = logits.shape;
    const came = ids.slice(ids.length - count + 1); // of each token but the last, the next one
    const logs = logSoftmax(logits);
    const losses = Float32Array.from(came, (token, i) => -rowView(logs, i)[token]);
    return { scores: softmax(logits), losses: float32([losses.length], losses) };
  }

  /** Each golden text up to its last tokens at once, and those one by one, through the cache. */
  override async *forward(graphs: Graphs, rows: readonly Row[], batchSize: number): AsyncGenerator<[number, Tensors]> {
    const session = graphs.get("model")!;
    const order = rows.map((_, i) => i).sort((a, b) => rows[a].length - rows[b].length);
    for (let start = 0; start < order.length; start += batchSize) {
      const group = order.slice(start, start + batchSize);
      const ids = group.map((i) => rows[i].extra as readonly number[]);
      const steps = ids.map((each) => Math.min(STEPS, each.length - 1));
      const texts = new Texts(session, group.length, Math.max(...ids.map((each) => each.length)) + STEPS);
      const found = [await texts.read(ids.map((each, k) => each.slice(0, each.length - steps[k])))];
      for (let step = 0; step < Math.max(...steps); step++) {
        found.push(
          await texts.step(ids.map((each, k) => each[Math.min(each.length - steps[k] + step, each.length - 1)])),
        );
      }
      texts.dispose();
      for (const [k, i] of group.entries())
        yield [i, { logits: stacked(found.slice(0, steps[k] + 1).map((each) => each[k])) }];
    }
  }

  answer(): Answer {
    throw new Error("`run` generates");
  }

  override async run(graphs: Graphs, inputs: readonly Input[], options: Options, batchSize = 0): Promise<Answer[]> {
    const config = options.config as GenerationConfig;
    const copies = config.num_return_sequences;
    const size = batchSize || this.batchSize;
    const answers: Answer[] = [];
    for (let start = 0; start < inputs.length; start += size) {
      const items = inputs.slice(start, start + size);
      const prompts = items.flatMap((item) => new Array<readonly number[]>(copies).fill(this.#prompt(item, options)));
      const written = prompts.map((): number[] => []);
      for await (const [number, token] of this.#tokens(graphs, prompts, config)) written[number].push(token);
      items.forEach((item, i) => {
        const before = this.reader.decoded(prompts[i * copies], true).length;
        const own = written
          .slice(i * copies, (i + 1) * copies)
          .map((ids) => this.reader.decoded([...prompts[i * copies], ...ids], true));
        answers.push(
          own.map((text) => ({ generated_text: (options.return_full_text ? item : "") + text.slice(before) })),
        );
      });
    }
    return answers;
  }

  /** The new text in pieces, as soon as their characters are whole. */
  async *stream(graphs: Graphs, item: Input, options: Options): AsyncGenerator<string> {
    const config = options.config as GenerationConfig;
    const prompt = this.#prompt(item, options);
    const pieces = new Pieces(this, prompt);
    for await (const [, token, ended] of this.#tokens(graphs, [prompt], config)) {
      const piece = pieces.add(token) + (ended ? pieces.rest() : "");
      if (piece) yield piece;
    }
  }

  #prompt(item: Input, options: Options): readonly number[] {
    if (typeof item !== "string") throw this.#notText(item);
    const config = options.config as GenerationConfig;
    let ids: readonly number[] = this.reader.encode(item, null, { cut: false }).ids;
    if (!ids.length) {
      if (config.bos_token_id === null) {
        throw new UsageError("Cannot run the model on this text.", {
          why: "it gives no tokens at all",
          fix: "give a text that is not empty",
        });
      }
      ids = [config.bos_token_id];
    }
    if (options.handle_long_generation === "hole") {
      const room = this.maxLength - (config.max_new_tokens ?? 1);
      if (room < 1) {
        throw new UsageError(`Cannot make ${config.max_new_tokens} tokens.`, {
          why: `the model can hold ${this.maxLength} in all`,
          fix: "ask for fewer",
        });
      }
      return ids.slice(-room);
    }
    const longest = Math.min(longestOf(config, ids.length), this.maxLength);
    if (ids.length >= longest) {
      const held = longest === this.maxLength;
      throw new UsageError(`Cannot go on with a text of ${ids.length} tokens.`, {
        why: `${held ? "the model can hold" : "max_length allows"} ${longest} in all`,
        fix: held
          ? 'shorten it, or pass handle_long_generation: "hole", which cuts its beginning'
          : "shorten it, or raise max_length",
      });
    }
    return ids;
  }

  /**
   * Tokens as they come, each with the number of its text and whether the text ends with it. Texts go on in turn, a token each, so that
   * a seed draws the same ones as in Python.
   */
  async *#tokens(
    graphs: Graphs,
    prompts: readonly (readonly number[])[],
    config: GenerationConfig,
  ): AsyncGenerator<[number: number, token: number, ended: boolean]> {
    const random = randomOf(config.seed);
    const until = config.max_time === null ? Infinity : performance.now() + config.max_time * 1e3;
    const going = prompts.map((prompt, number) => {
      const longest = Math.min(longestOf(config, prompt.length), this.maxLength);
      const texts = new Texts(graphs.get("model")!, 1, Math.min(longest, prompt.length + ROOM));
      return {
        number,
        ids: [...prompt],
        next: prompt,
        longest,
        rules: rulesOf(config, prompt.length),
        texts,
        ended: false,
      };
    });
    try {
      while (going.some((each) => !each.ended)) {
        for (const each of going) {
          if (each.ended) continue;
          const [logits] =
            each.ids.length === each.next.length
              ? await each.texts.read([each.next])
              : await each.texts.step(each.next);
          const scores = each.rules.length ? floats(logits).slice() : floats(logits);
          for (const rule of each.rules) rule(each.ids, scores);
          const token = config.do_sample ? draw(scores, random) : likeliest(scores);
          each.ids.push(token);
          each.next = [token];
          each.ended =
            config.eos_token_id.includes(token) ||
            each.ids.length >= each.longest ||
            performance.now() > until ||
            this.#completed(each.ids, config.stop_strings);
          yield [each.number, token, each.ended];
        }
      }
    } finally {
      for (const { texts } of going) texts.dispose(); // also where nobody takes the rest
    }
  }

  /** Whether the last token completed one of the strings. */
  #completed(ids: readonly number[], strings: readonly string[]): boolean {
    if (!strings.length) return false;
    const tail = ids.slice(-(Math.max(...strings.map((each) => each.length)) + 8)); // a character has at most a few tokens
    const count = (text: string, part: string): number => text.split(part).length - 1;
    const text = this.reader.tokenizer.decode(tail, false);
    const found = strings.filter((each) => text.includes(each));
    if (!found.length) return false;
    const before = this.reader.tokenizer.decode(tail.slice(0, -1), false);
    return found.some((each) => count(text, each) > count(before, each));
  }
}

function stacked(rows: readonly Tensor[]): Tensor {
  const width = rows[0].data.length;
  const made = new Float32Array(rows.length * width);
  rows.forEach((row, i) => made.set(floats(row), i * width));
  return float32([rows.length, width], made);
}

/** Text as its tokens come: what is not a whole character yet is held back. */
class Pieces {
  readonly #task: TextGeneration;
  #ids: number[];
  #shown: number;

  constructor(task: TextGeneration, before: readonly number[]) {
    // A few tokens before the new ones: what a first word looks like depends on them.
    this.#task = task;
    this.#ids = before.slice(-2 * CONTEXT);
    this.#shown = this.#text(this.#ids).length;
    this.#forget();
  }

  #text(ids: readonly number[]): string {
    return this.#task.reader.decoded(ids, true);
  }

  add(token: number): string {
    this.#ids.push(token);
    const text = this.#text(this.#ids);
    if (text.endsWith("\ufffd")) return ""; // bytes of a character that more tokens will complete
    let whole = text.length;
    if (this.#task.reader.cleans) {
      // The next word may take away a space of the last two: "I do n't" is "I don't".
      const last = text.lastIndexOf(" ");
      whole = Math.max(last > 0 ? text.lastIndexOf(" ", last - 1) : -1, this.#shown);
    }
    const piece = text.slice(this.#shown, whole);
    this.#shown = Math.max(whole, this.#shown);
    if (this.#ids.length > MOST && !this.#task.reader.cleans) this.#forget(); // or each token would take longer than the one before
    return piece;
  }

  /** Read on with the last few tokens, from where a character begins. */
  #forget(): void {
    for (let count = CONTEXT; count < 2 * CONTEXT; count++) {
      const text = this.#text(this.#ids.slice(-count));
      if (text.includes("\ufffd")) continue;
      this.#ids = this.#ids.slice(-count);
      this.#shown = text.length;
      return;
    }
  }

  /** What was held back, which the text ends with. */
  rest(): string {
    const text = this.#text(this.#ids);
    const piece = text.slice(this.#shown);
    this.#shown = text.length;
    return piece;
  }
}

export const TASKS = { "text-generation": TextGeneration };
