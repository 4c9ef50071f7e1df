/** The models of tokenizer.json: how a part of a text becomes tokens. */

import { SupportError } from "../errors.js";
import type { Json } from "../manifest.js";
import { widthAt } from "./normalized.js";

/** A token of a part: its id, and where in the part it lies, in UTF-16 units. */
export interface Piece {
  readonly id: number;
  readonly start: number;
  readonly end: number;
}

export interface Model {
  readonly kind: string;
  readonly vocabulary: ReadonlyMap<string, number>;
  /** What marks a token that goes on with a word; null where words begin with a mark of their own. */
  readonly continuing: string | null;
  readonly unknown: string | null;
  tokenize(part: string): readonly Piece[];
}

export function modelOf(raw: Json): Model {
  switch (raw?.type ?? (raw?.merges ? "BPE" : raw?.continuing_subword_prefix !== undefined ? "WordPiece" : "")) {
    case "WordPiece":
      return new WordPiece(raw);
    case "BPE":
      return new Bpe(raw);
    case "Unigram":
      return new Unigram(raw);
    case "WordLevel":
      return new WordLevel(raw);
    default:
      throw new SupportError("Cannot read the tokenizer.", {
        why: `this runtime does not know the model ${raw?.type}`,
        fix: "update satchel-runtime, or report the checkpoint",
      });
  }
}

function vocabularyOf(raw: Record<string, number>): Map<string, number> {
  return new Map(Object.entries(raw));
}

/** Parts that came before, up to a number of them: a text has most words more than once. */
class Memory {
  readonly #found = new Map<string, readonly Piece[]>();

  of(part: string, make: (part: string) => readonly Piece[]): readonly Piece[] {
    const known = this.#found.get(part);
    if (known !== undefined) return known;
    const made = make(part);
    if (this.#found.size >= 10_000) this.#found.clear();
    if (part.length < 256) this.#found.set(part, made);
    return made;
  }
}

class WordPiece implements Model {
  readonly kind = "WordPiece";
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly continuing: string;
  readonly unknown: string;
  readonly #most: number;
  readonly #memory = new Memory();

  constructor(raw: Json) {
    this.vocabulary = vocabularyOf(raw.vocab);
    this.continuing = raw.continuing_subword_prefix ?? "##";
    this.unknown = raw.unk_token ?? "[UNK]";
    this.#most = raw.max_input_chars_per_word ?? 100;
  }

  tokenize(part: string): readonly Piece[] {
    return this.#memory.of(part, (word) => this.#pieces(word));
  }

  #pieces(word: string): readonly Piece[] {
    const whole = [{ id: unknownId(this), start: 0, end: word.length }];
    if (word.length > this.#most && [...word].length > this.#most) return whole;
    const pieces: Piece[] = [];
    for (let start = 0; start < word.length;) {
      let end = word.length;
      let id: number | undefined;
      while (end > start) {
        const text = word.slice(start, end);
        id = this.vocabulary.get(start > 0 ? this.continuing + text : text);
        if (id !== undefined) break;
        end -= end - start > 1 && isLow(word, end - 1) ? 2 : 1;
      }
      if (id === undefined) return whole;
      pieces.push({ id, start, end });
      start = end;
    }
    return pieces;
  }
}

function isLow(text: string, at: number): boolean {
  const code = text.charCodeAt(at);
  return code >= 0xdc00 && code <= 0xdfff;
}

function unknownId(model: { vocabulary: ReadonlyMap<string, number>; unknown: string | null }): number {
  const id = model.unknown === null ? undefined : model.vocabulary.get(model.unknown);
  if (id !== undefined) return id;
  throw new SupportError("Cannot read the text.", {
    why: "it holds what the tokenizer does not know, and the tokenizer has no token for that",
    fix: "report the checkpoint",
  });
}

class WordLevel implements Model {
  readonly kind = "WordLevel";
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly continuing = null;
  readonly unknown: string | null;

  constructor(raw: Json) {
    this.vocabulary = vocabularyOf(raw.vocab);
    this.unknown = raw.unk_token ?? null;
  }

  tokenize(part: string): readonly Piece[] {
    const id = this.vocabulary.get(part) ?? (this.unknown === null ? undefined : this.vocabulary.get(this.unknown));
    return id === undefined ? [] : [{ id, start: 0, end: part.length }];
  }
}

class Bpe implements Model {
  readonly kind = "BPE";
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly continuing: string | null;
  readonly unknown: string | null;
  readonly #ending: string;
  readonly #fallsBack: boolean;
  readonly #fuses: boolean;
  readonly #whole: boolean;
  readonly #merges = new Map<number, [rank: number, id: number]>();
  readonly #size: number;
  readonly #memory = new Memory();

  constructor(raw: Json) {
    this.vocabulary = vocabularyOf(raw.vocab);
    this.continuing = raw.continuing_subword_prefix || null;
    this.unknown = raw.unk_token ?? null;
    this.#ending = raw.end_of_word_suffix ?? "";
    this.#fallsBack = raw.byte_fallback ?? false;
    this.#fuses = raw.fuse_unk ?? false;
    this.#whole = raw.ignore_merges ?? false;
    let size = 0;
    for (const id of this.vocabulary.values()) size = Math.max(size, id + 1);
    this.#size = size;
    const cut = this.continuing?.length ?? 0;
    (raw.merges as (string | [string, string])[]).forEach((merge, rank) => {
      const [left, right] = typeof merge === "string" ? merge.split(" ") : merge;
      const one = this.vocabulary.get(left);
      const other = this.vocabulary.get(right);
      const both = this.vocabulary.get(left + right.slice(cut));
      if (one !== undefined && other !== undefined && both !== undefined)
        this.#merges.set(one * size + other, [rank, both]);
    });
  }

  tokenize(part: string): readonly Piece[] {
    if (!part.length) return [];
    return this.#memory.of(part, (word) => this.#pieces(word));
  }

  #pieces(word: string): readonly Piece[] {
    if (this.#whole) {
      const id = this.vocabulary.get(word);
      if (id !== undefined) return [{ id, start: 0, end: word.length }];
    }
    return this.#merged(this.#letters(word));
  }

  #letters(word: string): Piece[] {
    const found: Piece[] = [];
    let left = 0; // out, for there is no token for it: the library counts places without it, and so do these
    let open: { start: number; end: number } | null = null; // what is unknown, until it is known how far it goes
    const unknown = this.unknown === null ? undefined : this.vocabulary.get(this.unknown);
    const close = (): void => {
      if (open !== null) found.push({ id: unknown!, ...open });
      open = null;
    };
    for (let start = 0; start < word.length;) {
      const end = start + widthAt(word, start);
      const letter = word.slice(start, end);
      const [from, to] = [start - left, end - left];
      let text = start > 0 && this.continuing !== null ? this.continuing + letter : letter;
      if (end === word.length) text += this.#ending;
      const id = this.vocabulary.get(text);
      if (id !== undefined) {
        close();
        found.push({ id, start: from, end: to });
      } else {
        const bytes = this.#fallsBack ? bytePieces(text, this.vocabulary) : null;
        if (bytes !== null) {
          close();
          for (const byte of bytes) found.push({ id: byte, start: from, end: to });
        } else if (unknown !== undefined) {
          if (open !== null && !this.#fuses) close();
          open = { start: open === null ? from : (open as { start: number }).start, end: to };
        } else left += end - start;
      }
      start = end;
    }
    close();
    return found;
  }

  /** The pair with the lowest rank is joined, of equal ones the leftmost, until there is none. */
  #merged(letters: Piece[]): readonly Piece[] {
    if (letters.length < 2) return letters;
    const { length } = letters;
    const ids = letters.map((each) => each.id);
    const next = letters.map((_, i) => (i + 1 < length ? i + 1 : -1));
    const before = letters.map((_, i) => i - 1);
    const ends = letters.map((each) => each.end);
    const queue = new Queue();
    const offer = (left: number): void => {
      const right = next[left];
      if (right < 0) return;
      const merge = this.#merges.get(ids[left] * this.#size + ids[right]);
      if (merge !== undefined) queue.push(merge[0] * length + left, merge[1]);
    };
    for (let i = 0; i + 1 < length; i++) offer(i);
    for (let top = queue.pop(); top !== null; top = queue.pop()) {
      const left = top[0] % length;
      if (ids[left] < 0 || next[left] < 0) continue;
      const right = next[left];
      const merge = this.#merges.get(ids[left] * this.#size + ids[right]);
      if (merge === undefined || merge[1] !== top[1]) continue; // another pair stands there by now
      ids[left] = merge[1];
      ends[left] = ends[right];
      ids[right] = -1;
      next[left] = next[right];
      if (next[left] >= 0) before[next[left]] = left;
      if (before[left] >= 0) offer(before[left]);
      offer(left);
    }
    const pieces: Piece[] = [];
    for (let i = 0; i >= 0; i = next[i]) pieces.push({ id: ids[i], start: letters[i].start, end: ends[i] });
    return pieces;
  }
}

/** Pairs of a key and a value, the smallest key first. */
class Queue {
  readonly #keys: number[] = [];
  readonly #values: number[] = [];

  push(key: number, value: number): void {
    const keys = this.#keys;
    const values = this.#values;
    let at = keys.length;
    keys.push(key);
    values.push(value);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent] <= key) break;
      keys[at] = keys[parent];
      values[at] = values[parent];
      at = parent;
    }
    keys[at] = key;
    values[at] = value;
  }

  pop(): [number, number] | null {
    const keys = this.#keys;
    const values = this.#values;
    if (!keys.length) return null;
    const top: [number, number] = [keys[0], values[0]];
    const key = keys.pop()!;
    const value = values.pop()!;
    const { length } = keys;
    if (length) {
      let at = 0;
      for (;;) {
        let child = 2 * at + 1;
        if (child >= length) break;
        if (child + 1 < length && keys[child + 1] < keys[child]) child++;
        if (keys[child] >= key) break;
        keys[at] = keys[child];
        values[at] = values[child];
        at = child;
      }
      keys[at] = key;
      values[at] = value;
    }
    return top;
  }
}

const utf8 = new TextEncoder();

/** The tokens of a character's bytes, `<0xE2>`; null where the vocabulary lacks one of them. */
function bytePieces(text: string, vocabulary: ReadonlyMap<string, number>): number[] | null {
  const ids: number[] = [];
  for (const byte of utf8.encode(text)) {
    const id = vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    if (id === undefined) return null;
    ids.push(id);
  }
  return ids;
}

const UNKNOWN_PENALTY = 10;

class Unigram implements Model {
  readonly kind = "Unigram";
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly continuing = null;
  readonly unknown: string | null;
  readonly #scores: Float64Array;
  readonly #unknownId: number | null;
  readonly #unknownScore: number;
  readonly #fallsBack: boolean;
  readonly #longest = new Map<number, number>(); // of the pieces that begin with a character
  readonly #memory = new Memory();

  constructor(raw: Json) {
    const pieces = raw.vocab as [string, number][];
    const ids = new Map<string, number>();
    this.#scores = new Float64Array(pieces.length);
    let least = Infinity;
    pieces.forEach(([piece, score], id) => {
      ids.set(piece, id);
      this.#scores[id] = score;
      least = Math.min(least, score);
      const first = piece.codePointAt(0);
      if (first !== undefined) this.#longest.set(first, Math.max(this.#longest.get(first) ?? 0, piece.length));
    });
    this.vocabulary = ids;
    this.#unknownId = raw.unk_id ?? null;
    this.unknown = this.#unknownId === null ? null : pieces[this.#unknownId][0];
    this.#unknownScore = least - UNKNOWN_PENALTY;
    this.#fallsBack = raw.byte_fallback ?? false;
  }

  tokenize(part: string): readonly Piece[] {
    return this.#memory.of(part, (word) => this.#pieces(word));
  }

  #pieces(word: string): readonly Piece[] {
    const found: Piece[] = [];
    for (const [start, end] of this.#best(word)) {
      const text = word.slice(start, end);
      const id = this.vocabulary.get(text);
      if (id !== undefined) found.push({ id, start, end });
      else {
        const bytes = this.#fallsBack ? bytePieces(text, this.vocabulary) : null;
        if (bytes !== null) for (const byte of bytes) found.push({ id: byte, start, end });
        else found.push({ id: this.#unknownId ?? unknownId(this), start, end });
      }
    }
    return found;
  }

  /** The likeliest way through the text; neighbours that are unknown are one. */
  #best(word: string): [number, number][] {
    const { length } = word;
    const scores = new Float64Array(length + 1);
    const starts = new Int32Array(length + 1).fill(-1);
    const ids = new Int32Array(length + 1).fill(-1);
    for (let start = 0; start < length;) {
      const width = widthAt(word, start);
      const here = scores[start];
      const longest = Math.min(this.#longest.get(word.codePointAt(start)!) ?? 0, length - start);
      let single = false;
      for (let size = width; size <= longest; size++) {
        const id = this.vocabulary.get(word.slice(start, start + size));
        if (id === undefined) continue;
        const end = start + size;
        const score = this.#scores[id] + here;
        if (starts[end] < 0 || score > scores[end]) {
          scores[end] = score;
          starts[end] = start;
          ids[end] = id;
        }
        single ||= size === width;
      }
      if (!single) {
        const end = start + width;
        const score = this.#unknownScore + here;
        if (starts[end] < 0 || score > scores[end]) {
          scores[end] = score;
          starts[end] = start;
          ids[end] = this.#unknownId ?? -1;
        }
      }
      start += width;
    }
    const pieces: [number, number][] = [];
    let joins = false;
    for (let end = length; end > 0;) {
      const start = starts[end];
      const strange = ids[end] === (this.#unknownId ?? -1);
      if (strange && joins) pieces[pieces.length - 1][0] = start;
      else pieces.push([start, end]);
      joins = strange;
      end = start;
    }
    return pieces.reverse();
  }
}
