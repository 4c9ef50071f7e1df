/** An encoding of which a part is taken by places: windows over a long text. */

import { UsageError } from "../errors.js";
import type { Encoding } from "../tokenizers/encoding.js";

/** Columns of an encoding; a part of it is a part of each. */
export interface Tokens {
  readonly ids: readonly number[];
  readonly typeIds: readonly number[];
  /** The characters in the token's text, in code points. */
  readonly offsets: readonly (readonly [number, number])[];
  readonly special: readonly boolean[];
  /** The word of each token, -1 for none. */
  readonly words: readonly number[];
  /** 0 for the first text, 1 for the second, -1 for special tokens. */
  readonly sequences: readonly number[];
}

export function tokensOf(encoding: Encoding): Tokens {
  return { ...encoding, special: encoding.special.map(Boolean) };
}

export function take(tokens: Tokens, places: readonly number[]): Tokens {
  return {
    ids: places.map((i) => tokens.ids[i]),
    typeIds: places.map((i) => tokens.typeIds[i]),
    offsets: places.map((i) => tokens.offsets[i]),
    special: places.map((i) => tokens.special[i]),
    words: places.map((i) => tokens.words[i]),
    sequences: places.map((i) => tokens.sequences[i]),
  };
}

/** `from … to - 1`. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
}

/** Where something holds. */
export function where(length: number, holds: (place: number) => boolean): number[] {
  return range(0, length).filter(holds);
}

/**
 * Windows of at most `length` tokens over one text of an encoding; the other tokens stand in every window, and `stride`
 * tokens overlap.
 */
export function windows(tokens: Tokens, sequence: number, length: number, stride: number, side: string): Tokens[] {
  const total = tokens.ids.length;
  const moving = where(total, (i) => tokens.sequences[i] === sequence);
  const room = length - (total - moving.length);
  if (moving.length <= room) return [tokens];
  if (stride >= room) {
    throw new UsageError("Cannot cut the text into windows.", {
      why: `a window has ${length} tokens; ${length - room} of them are the same in each, and ${stride} overlap`,
      fix: "choose a smaller stride, or shorten the question",
    });
  }
  const before = range(0, moving[0]);
  const after = range(moving[moving.length - 1] + 1, total);
  const found: Tokens[] = [];
  for (let start = 0; start < moving.length - stride; start += room - stride) {
    const part =
      side === "left"
        ? moving.slice(Math.max(0, moving.length - start - room), moving.length - start)
        : moving.slice(start, start + room);
    found.push(take(tokens, [...before, ...part, ...after]));
  }
  return found;
}

/** Parts of a text by places in code points, as Python counts them; places in JavaScript's units differ behind an emoji. */
export class CodePoints {
  readonly #text: string;
  readonly #characters: readonly string[] | null;

  constructor(text: string) {
    this.#text = text;
    this.#characters = /[\ud800-\udbff]/.test(text) ? [...text] : null;
  }

  slice(start: number, end: number): string {
    return this.#characters === null ? this.#text.slice(start, end) : this.#characters.slice(start, end).join("");
  }
}

export function codePointLength(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) === 0xdc00) count--;
  return count;
}
