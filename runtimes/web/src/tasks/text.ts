/** Text in: a tokenizer from the bundle, the truncation that travels with it, and rows of token ids. */

import type { Bundle } from "../bundle.js";
import { IntegrityError, SatchelError, SupportError, UsageError, shown } from "../errors.js";
import type { Json, Step, TaskEntry } from "../manifest.js";
import { stepOption } from "../manifest.js";
import { int64 } from "../tensor.js";
import type { Encoding } from "../tokenizers/encoding.js";
import { Tokenizer, type Strategy, type Truncation } from "../tokenizers/tokenizer.js";
import { row, Task, type Input, type Options, type Row } from "./task.js";

/** What `clean_up_tokenization_spaces` takes out of a decoded text, in its order. */
export const SPACES_TO_CLEAN = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"];

const ELSEWHERE = ["characters", "letters"]; // steps whose tokenizers are Python's own
const opened = new WeakMap<Bundle, Map<string, Tokenizer>>();

/** A bundle's tokenizer: its tasks share it, for a vocabulary of 250,000 words takes a second to read. */
export function tokenizerOf(bundle: Bundle, file: string): Tokenizer {
  const known = opened.get(bundle) ?? new Map<string, Tokenizer>();
  opened.set(bundle, known);
  let found = known.get(file);
  if (found === undefined) {
    try {
      found = new Tokenizer(JSON.parse(bundle.text(file)));
    } catch (error) {
      if (error instanceof SatchelError) throw error;
      throw new IntegrityError(`Cannot read the tokenizer of ${bundle.path}.`, {
        why: (error as Error).message,
        fix: "update satchel-runtime in this app, or convert the model again",
      });
    }
    known.set(file, found);
  }
  return found;
}

/** The tokenizer of a task, with what its step says of length. */
export class TextReader {
  readonly tokenizer: Tokenizer;
  readonly maxLength: number;
  readonly step: Step;
  readonly #truncation: Truncation;

  constructor(entry: TaskEntry, bundle: Bundle) {
    const other = entry.preprocess.find((each) => ELSEWHERE.includes(each.step));
    const step = entry.preprocess.find((each) => each.step === "tokenize");
    if (other !== undefined || (step !== undefined && step.options.file !== "tokenizer.json")) {
      throw new SupportError(`Cannot serve ${entry.name} from ${bundle.path} here.`, {
        why: "its tokenizer has no tokenizer.json, which is the only kind that this runtime reads",
        fix: "use a checkpoint with tokenizer.json, or run the bundle with the Python runtime",
      });
    }
    if (step === undefined) {
      throw new IntegrityError(`Cannot serve ${entry.name} from ${bundle.path}.`, {
        why: "the manifest has no step 'tokenize' for it",
        fix: "convert the model again",
      });
    }
    this.step = step;
    this.maxLength = step.options.max_length;
    this.#truncation = {
      maxLength: this.maxLength,
      strategy: step.options.truncation as Strategy,
      side: step.options.side ?? "right",
    };
    this.tokenizer = tokenizerOf(bundle, step.options.file);
  }

  encode(
    text: string | readonly string[],
    pair: string | readonly string[] | null = null,
    { special = true, cut = true }: { special?: boolean; cut?: boolean } = {},
  ): Encoding {
    return this.tokenizer.encode(text, pair, { special, truncation: cut ? this.#truncation : null });
  }

  /** Whether some spaces are taken out of decoded text; between the pieces of a BPE these are the text's own. */
  get cleans(): boolean {
    return Boolean(this.step.options.clean_up) && this.tokenizer.model.kind !== "BPE";
  }

  /** The text of some tokens; without the special ones where `skip` says so. */
  decoded(ids: readonly number[], skip: boolean): string {
    let text = this.tokenizer.decode(ids, skip);
    if (this.cleans) for (const each of SPACES_TO_CLEAN) text = text.replaceAll(each, each.trim());
    return text;
  }
}

export function rowOfEncoding(encoding: Encoding, extra: unknown = encoding): Row {
  return rowOfIds(encoding.ids, encoding.typeIds, extra);
}

export function rowOfIds(ids: readonly number[], typeIds: readonly number[], extra: unknown, component = "model"): Row {
  if (!ids.length) {
    throw new UsageError("Cannot run the model on this text.", {
      why: "it gives no tokens at all",
      fix: "give a text that is not empty",
    });
  }
  const mask = new Array<number>(ids.length).fill(1);
  const tensors = { input_ids: int64(ids), attention_mask: int64(mask), token_type_ids: int64(typeIds) };
  return row(tensors, ids.length, extra, component);
}

/** A task whose input is text, or a pair of texts. */
export abstract class TextTask extends Task {
  readonly textKind: string = "a string";
  readonly reader: TextReader;
  override readonly maxLength: number;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.reader = new TextReader(entry, bundle);
    this.maxLength = this.reader.maxLength;
  }

  isSingle(inputs: Input): boolean {
    return typeof inputs === "string" || isMapping(inputs);
  }

  encode(item: Input, _options: Options): readonly Row[] {
    if (typeof item !== "string") throw this.wrongType(item);
    return [rowOfEncoding(this.reader.encode(item))];
  }

  wrongType(item: Input): UsageError {
    return new UsageError(`Cannot run ${this.name} on ${kindOf(item)} ${shown(item).slice(0, 40)}.`, {
      why: `it takes ${this.textKind}, or a list of them`,
      fix: `pass ${this.textKind}`,
    });
  }

  labels(): readonly string[] {
    return stepOption(this.entry, "labels", "labels", []);
  }
}

export function isMapping(value: unknown): value is Record<string, Json> {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

export function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : typeof value;
}

/** An option that counts something. */
export function wholeNumber(options: Options, name: string, least = 1): number {
  const value = options[name];
  if (!Number.isInteger(value) || value < least) {
    throw new UsageError(`Cannot use ${name}=${shown(value)}.`, {
      why: `it is a whole number from ${least} up`,
      fix: `pass ${name}: ${least}`,
    });
  }
  return value;
}

/** An option that is one of some words, in either case. */
export function choice(options: Options, name: string, among: readonly string[]): string {
  const value = typeof options[name] === "string" ? options[name].toLowerCase() : options[name];
  if (!among.includes(value)) {
    throw new UsageError(`Cannot use ${name}=${shown(options[name])}.`, {
      why: "there is no such choice",
      fix: `use one of ${among.join(", ")}`,
    });
  }
  return value;
}
