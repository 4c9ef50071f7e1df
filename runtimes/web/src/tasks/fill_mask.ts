/** fill-mask: the likeliest words for a masked place in a text. */

import type { Bundle } from "../bundle.js";
import { IntegrityError, UsageError, shown } from "../errors.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import { rowView, softmax, takeRows } from "../numbers.js";
import type { Tensors } from "../tensor.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";
import { TextTask, rowOfEncoding, wholeNumber } from "./text.js";
import { range } from "./tokens.js";

/**
 * `predict("Paris is the [MASK] of France.")` is a list of `{score, token, token_str, sequence}`, the likeliest first; with
 * several masks in the text a list of such lists. Options as in the pipeline: `top_k` (5), and `targets`.
 */
export class FillMask extends TextTask {
  readonly name = "fill-mask";
  readonly judged: Readonly<Record<string, Kind>> = { scores: "distribution" };
  override readonly options = { top_k: 5, targets: null };
  override readonly batchSize = 1; // scores for every token and word of a batch are a hundred megabytes
  readonly #mask: string;
  readonly #maskId: number;
  readonly #paddingId: number | null;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    this.#mask = String(stepOption(entry, "mask", "token"));
    const id = this.reader.tokenizer.tokenToId(this.#mask);
    if (id === null) {
      throw new IntegrityError(`Cannot serve ${this.name} from ${bundle.path}.`, {
        why: `its tokenizer does not know the mask '${this.#mask}'`,
        fix: "convert the model again",
      });
    }
    this.#maskId = id;
    const padding = stepOption(entry, "mask", "padding");
    this.#paddingId = padding === null ? null : this.reader.tokenizer.tokenToId(padding);
  }

  override encode(item: Input, _options: Options): readonly Row[] {
    if (typeof item !== "string") throw this.wrongType(item);
    const encoding = this.reader.encode(item);
    const made = rowOfEncoding(encoding, encoding.ids);
    if (!encoding.ids.includes(this.#maskId)) {
      const cut = `there is no ${this.#mask} in its first ${this.maxLength} tokens, which are all that the model takes`;
      throw new UsageError(`Cannot fill '${item.slice(0, 40)}'.`, {
        why: item.includes(this.#mask) ? cut : `there is no ${this.#mask} in it`,
        fix: `put ${this.#mask} where the word is missing`,
      });
    }
    return [made];
  }

  #places(ids: readonly number[]): number[] {
    return range(0, ids.length).filter((i) => ids[i] === this.#maskId);
  }

  score(outputs: Tensors, row: Row): Tensors {
    return { scores: softmax(takeRows(outputs.logits, this.#places(row.extra))) };
  }

  answer(_item: Input, [row]: readonly Row[], [scores]: readonly Tensors[], options: Options): Answer {
    const count = wholeNumber(options, "top_k");
    const ids = row.extra as readonly number[];
    const places = this.#places(ids);
    const targets = options.targets === null ? null : this.#idsOf(options.targets);
    const filled = places.map((place, i) => {
      const values = rowView(scores.scores, i);
      const only = places.length === 1;
      return best(values, targets, count).map((token) => this.#proposal(ids, place, token, values[token], only));
    });
    return filled.length === 1 ? filled[0] : filled;
  }

  #proposal(
    ids: readonly number[],
    place: number,
    token: number,
    score: number,
    only: boolean,
  ): Record<string, unknown> {
    const whole = ids.map((id, i) => (i === place ? token : id)).filter((id) => id !== this.#paddingId);
    // With several masks the others stay to be seen, and all special tokens with them.
    return { score, token, token_str: this.reader.decoded([token], false), sequence: this.reader.decoded(whole, only) };
  }

  /** Token ids of words; a word that the vocabulary lacks stands for its first piece, with a warning. */
  #idsOf(targets: unknown): number[] {
    const words = typeof targets === "string" ? [targets] : targets;
    if (!Array.isArray(words) || !words.every((word) => typeof word === "string")) {
      throw new UsageError(`Cannot use targets=${shown(targets)}.`, {
        why: "they are not words",
        fix: "pass a list of strings",
      });
    }
    const ids: number[] = [];
    for (const word of words) {
      const [first] = this.reader.encode(word, null, { special: false }).ids;
      let token = this.reader.tokenizer.tokenToId(word);
      if (token === null && first !== undefined) {
        token = first;
        console.warn(`'${word}' is not in the vocabulary; '${this.reader.tokenizer.idToToken(token)}' stands for it`);
      }
      if (token !== null) ids.push(token);
    }
    if (!ids.length) {
      throw new UsageError(`Cannot use targets=${shown(targets)}.`, {
        why: "none of them is a word",
        fix: "name a word, or leave them out",
      });
    }
    return [...new Set(ids)];
  }
}

/** Ids of the largest values, the largest first; of equal ones the first. */
function best(values: Float32Array, among: readonly number[] | null, count: number): number[] {
  if (among !== null) return [...among].sort((a, b) => values[b] - values[a]).slice(0, count);
  // A vocabulary is long and the answer short: only what is larger than the last of the answer is put in order.
  const found: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (found.length === count && !(values[i] > values[found[count - 1]])) continue;
    let at = found.length;
    while (at > 0 && values[found[at - 1]] < values[i]) at--;
    found.splice(at, 0, i);
    if (found.length > count) found.pop();
  }
  return found;
}
