/** token-classification: a label per token, or per name where tokens are put together again. */

import type { Bundle } from "../bundle.js";
import { UsageError, shown } from "../errors.js";
import { stepOption, type TaskEntry } from "../manifest.js";
import { argmax, rowView, softmax, takeRows } from "../numbers.js";
import type { Tensor, Tensors } from "../tensor.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";
import { TextTask, choice, kindOf, rowOfIds, wholeNumber } from "./text.js";
import { CodePoints, codePointLength, tokensOf, where, windows, type Tokens } from "./tokens.js";

const STRATEGIES = ["none", "simple", "first", "average", "max"];

/** One row's text and tokens, with the offsets counted in that text. */
interface Chunk {
  readonly text: string;
  readonly tokens: Tokens;
}

/** A token, or the tokens of one word, with one label. */
interface Piece {
  readonly label: string;
  readonly score: number;
  readonly word: string;
  readonly start: number;
  readonly end: number;
}

/**
 * `predict("text")` is a list of `{entity, score, index, word, start, end}`, one for each token whose label is not in
 * `ignore_labels`. Places are counted in code points, as in Python.
 *
 * Options as in the pipeline: `aggregation_strategy` ("none", "simple", "first", "average", "max"), `ignore_labels`, `stride`,
 * `is_split_into_words` and `delimiter`.
 */
export class TokenClassification extends TextTask {
  readonly name = "token-classification";
  override readonly textKind = "a string (a list of words with is_split_into_words: true)";
  readonly judged: Readonly<Record<string, Kind>> = { scores: "distribution" };
  override readonly options = {
    aggregation_strategy: "none",
    ignore_labels: ["O"],
    stride: null,
    is_split_into_words: false,
    delimiter: " ",
  };
  readonly #unknown: number | null;
  readonly #marksSubwords: boolean;

  constructor(entry: TaskEntry, bundle: Bundle) {
    super(entry, bundle);
    const { model } = this.reader.tokenizer;
    const unknown = stepOption(entry, "labels", "unknown") || model.unknown;
    this.#unknown = unknown ? this.reader.tokenizer.tokenToId(unknown) : null;
    this.#marksSubwords = Boolean(model.continuing);
  }

  override encode(item: Input, options: Options): readonly Row[] {
    const [text, parts] = this.#textOf(item, options);
    const stride = options.stride === null ? null : wholeNumber(options, "stride", 0);
    if (stride !== null && choice(options, "aggregation_strategy", STRATEGIES) === "none") {
      throw new UsageError(`Cannot use stride=${stride} with aggregation_strategy='none'.`, {
        why: "tokens of windows that overlap are put together by name, not one by one",
        fix: `choose one of ${STRATEGIES.slice(1).join(", ")}`,
      });
    }
    const tokens = tokensOf(this.reader.encode(parts, null, { cut: stride === null }));
    const side = this.reader.step.options.side ?? "right";
    let chunks = stride === null ? [tokens] : windows(tokens, 0, this.maxLength, stride, side);
    if (typeof parts !== "string") {
      const starts = [0];
      for (const word of parts)
        starts.push(starts[starts.length - 1] + codePointLength(word) + codePointLength(options.delimiter));
      chunks = chunks.map((each) => ({
        ...each,
        offsets: each.offsets.map(([start, end], i): [number, number] => {
          const shift = each.words[i] >= 0 ? starts[each.words[i]] : 0;
          return [start + shift, end + shift];
        }),
      }));
    }
    return chunks.map((each) => rowOfIds(each.ids, each.typeIds, { text, tokens: each } satisfies Chunk));
  }

  #textOf(item: Input, options: Options): [string, string | readonly string[]] {
    if (!options.is_split_into_words) {
      if (typeof item !== "string") throw this.wrongType(item);
      return [item, item];
    }
    if (!Array.isArray(item) || !item.every((word) => typeof word === "string")) {
      throw new UsageError(`Cannot run ${this.name} on ${kindOf(item)} ${shown(item).slice(0, 40)}.`, {
        why: "with is_split_into_words each input is a list of words",
        fix: "pass a list of such lists, also for one text: [['two', 'words']]",
      });
    }
    if (typeof options.delimiter !== "string") {
      throw new UsageError(`Cannot use delimiter=${shown(options.delimiter)}.`, {
        why: "it is not a string",
        fix: "pass delimiter: ' '",
      });
    }
    return [item.join(options.delimiter), item];
  }

  score(outputs: Tensors, row: Row): Tensors {
    const { tokens } = row.extra as Chunk;
    return {
      scores: softmax(
        takeRows(
          outputs.logits,
          where(tokens.ids.length, (i) => !tokens.special[i]),
        ),
      ),
    };
  }

  answer(_item: Input, rows: readonly Row[], scores: readonly Tensors[], options: Options): Answer {
    const strategy = choice(options, "aggregation_strategy", STRATEGIES);
    const ignored = options.ignore_labels;
    if (!Array.isArray(ignored)) {
      throw new UsageError(`Cannot use ignore_labels=${shown(ignored)}.`, {
        why: "it is not a list of labels",
        fix: "pass ['O']",
      });
    }
    const found: Record<string, any>[] = [];
    rows.forEach((row, i) => {
      if (strategy === "none") found.push(...this.#eachToken(row.extra, scores[i].scores, ignored));
      else {
        const names = this.#names(this.#pieces(row.extra, scores[i].scores, strategy));
        found.push(...names.filter((name) => !ignored.includes(name.entity_group)));
      }
    });
    return rows.length > 1 ? withoutOverlaps(found) : found;
  }

  #eachToken(chunk: Chunk, scores: Tensor, ignored: readonly string[]): Record<string, unknown>[] {
    const labels = this.labels();
    const { words, starts, ends, places } = this.#words(chunk);
    return words.flatMap((word, i) => {
      const row = rowView(scores, i);
      const best = argmax(row);
      if (ignored.includes(labels[best])) return [];
      return [{ entity: labels[best], score: row[best], index: places[i], word, start: starts[i], end: ends[i] }];
    });
  }

  /** Per token of the text: its word piece, where it starts and ends, and whether it goes on with a word. */
  #words({ text, tokens }: Chunk): {
    words: string[];
    starts: number[];
    ends: number[];
    goesOn: boolean[];
    places: number[];
  } {
    const places = where(tokens.ids.length, (i) => !tokens.special[i]);
    const parts = new CodePoints(text);
    const starts = places.map((i) => tokens.offsets[i][0]);
    const ends = places.map((i) => tokens.offsets[i][1]);
    const words: string[] = [];
    const goesOn: boolean[] = [];
    places.forEach((place, i) => {
      const reference = parts.slice(starts[i], ends[i]);
      if (tokens.ids[place] === this.#unknown) {
        words.push(reference);
        goesOn.push(false);
        return;
      }
      const word = this.reader.tokenizer.idToToken(tokens.ids[place]) || reference;
      words.push(word);
      if (this.#marksSubwords) goesOn.push(codePointLength(word) !== codePointLength(reference));
      else goesOn.push(starts[i] > 0 && !parts.slice(starts[i] - 1, starts[i] + 1).includes(" "));
    });
    return { words, starts, ends, goesOn, places };
  }

  /** One piece per token ("simple"), or one per word with the label that the strategy gives it. */
  #pieces(chunk: Chunk, scores: Tensor, strategy: string): Piece[] {
    const labels = this.labels();
    const { words, starts, ends, goesOn } = this.#words(chunk);
    const firsts = where(words.length, (i) => strategy === "simple" || i === 0 || !goesOn[i]);
    return firsts.map((first, k) => {
      const following = firsts[k + 1] ?? words.length;
      const rows = where(words.length, (i) => i >= first && i < following).map((i) => rowView(scores, i));
      let [likely] = rows;
      if (strategy === "average") {
        likely = Float32Array.from(
          likely,
          (_, label) => rows.reduce((sum, row) => Math.fround(sum + row[label]), 0) / rows.length,
        );
      } else if (strategy === "max") likely = rows[argmax(rows.map((row) => Math.max(...row)))];
      const best = argmax(likely);
      const word = strategy === "simple" ? words[first] : this.#joined(words.slice(first, following));
      return { label: labels[best], score: likely[best], word, start: starts[first], end: ends[following - 1] };
    });
  }

  /** Neighbours with one tag are one name; a tag that begins with B- starts the next. */
  #names(pieces: readonly Piece[]): Record<string, any>[] {
    const groups: Piece[][] = [];
    for (const piece of pieces) {
      const last = groups[groups.length - 1];
      if (last && !piece.label.startsWith("B-") && tag(piece.label) === tag(last[last.length - 1].label))
        last.push(piece);
      else groups.push([piece]);
    }
    return groups.map((group) => {
      const dash = group[0].label.indexOf("-");
      return {
        entity_group: dash < 0 ? group[0].label : group[0].label.slice(dash + 1),
        score: Math.fround(group.reduce((sum, piece) => Math.fround(sum + piece.score), 0) / group.length),
        word: this.#joined(group.map((piece) => piece.word)),
        start: group[0].start,
        end: group[group.length - 1].end,
      };
    });
  }

  #joined(words: string[]): string {
    const { decoder } = this.reader.tokenizer;
    return decoder === null ? words.join(" ") : decoder(words).join("");
  }
}

function tag(label: string): string {
  return label.startsWith("B-") || label.startsWith("I-") ? label.slice(2) : label;
}

/** Of names that overlap, as two windows see them, the longest; of equally long ones the likeliest. */
function withoutOverlaps(names: readonly Record<string, any>[]): Record<string, any>[] {
  const kept: Record<string, any>[] = [];
  const heavier = (one: Record<string, any>, other: Record<string, any>): boolean => {
    const [length, least] = [one.end - one.start, other.end - other.start];
    return length > least || (length === least && one.score > other.score);
  };
  for (const name of [...names].sort((a, b) => a.start - b.start)) {
    const last = kept[kept.length - 1];
    if (!last || !(last.start <= name.start && name.start < last.end)) kept.push(name);
    else if (heavier(name, last)) kept[kept.length - 1] = name;
  }
  return kept;
}
