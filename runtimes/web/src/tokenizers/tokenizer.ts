/**
 * A `tokenizer.json`, with the ids and places that the Rust library `tokenizers` gives.
 *
 * It is written here because `@huggingface/tokenizers` tells no places, and cannot: its normalizers keep no account of where
 * a character came from. Question answering and token classification are answers in places of the text. The tests compare
 * this with the Rust library on thousands of hostile texts.
 */

import { UsageError } from "../errors.js";
import type { Json } from "../manifest.js";
import { isWhite } from "./characters.js";
import { decoderOf, type Decoder } from "./decoders.js";
import { Encoding } from "./encoding.js";
import { modelOf, type Model } from "./models.js";
import { Normalized, widthAt } from "./normalized.js";
import { normalizerOf, type Normalizer } from "./normalizers.js";
import { literal } from "./pattern.js";
import { postProcessorOf, type PostProcessor } from "./post_processors.js";
import { preTokenizerOf, type PreTokenizer } from "./pre_tokenizers.js";

export type Strategy = "longest_first" | "only_first" | "only_second" | "do_not_truncate";

export interface Truncation {
  readonly maxLength: number;
  readonly strategy: Strategy;
  readonly side: "left" | "right";
}

export interface EncodeOptions {
  /** Whether special tokens are added. */
  readonly special?: boolean;
  readonly truncation?: Truncation | null;
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

type Part = Normalized | { readonly added: AddedToken; readonly from: number; readonly to: number };

export class Tokenizer {
  readonly model: Model;
  readonly decoder: Decoder | null;
  readonly #normalize: Normalizer;
  readonly #split: PreTokenizer;
  readonly #post: PostProcessor;
  readonly #added: ReadonlyMap<string, AddedToken>;
  readonly #special: ReadonlySet<number>;
  readonly #raw: Finder | null;
  readonly #normal: Finder | null;
  readonly #names: ReadonlyMap<number, string>;

  constructor(raw: Json) {
    this.model = modelOf(raw.model);
    this.#normalize = normalizerOf(raw.normalizer);
    this.#split = preTokenizerOf(raw.pre_tokenizer);
    this.#post = postProcessorOf(raw.post_processor);
    this.decoder = decoderOf(raw.decoder);
    const added = (raw.added_tokens ?? []) as AddedToken[];
    this.#added = new Map(added.map((each) => [each.content, each]));
    this.#special = new Set(added.filter((each) => each.special).map((each) => each.id));
    const names = new Map<number, string>();
    for (const [token, id] of this.model.vocabulary) names.set(id, token);
    for (const each of added) names.set(each.id, each.content);
    this.#names = names;
    this.#raw = finder(
      added.filter((each) => !each.normalized),
      (each) => each.content,
    );
    this.#normal = finder(
      added.filter((each) => each.normalized),
      (each) => this.#normalize(Normalized.of(each.content)).text,
    );
  }

  get size(): number {
    return this.#names.size;
  }

  tokenToId(token: string): number | null {
    return this.#added.get(token)?.id ?? this.model.vocabulary.get(token) ?? null;
  }

  idToToken(id: number): string | null {
    return this.#names.get(id) ?? null;
  }

  /** Tokens of a text or of a pair; of a list of words each is one. */
  encode(
    text: string | readonly string[],
    pair: string | readonly string[] | null = null,
    options: EncodeOptions = {},
  ): Encoding {
    const special = options.special ?? true;
    let first = this.#tokens(text, 0);
    let second = pair === null ? null : this.#tokens(pair, 1);
    const cut = options.truncation ?? null;
    if (cut !== null && cut.strategy !== "do_not_truncate") {
      const room = cut.maxLength - (special ? this.#post.added(second !== null) : 0);
      [first, second] = truncated(first, second, Math.max(room, 0), cut);
    }
    return this.#post.process(first, second, special);
  }

  decode(ids: readonly number[], skipSpecial = true): string {
    const tokens: string[] = [];
    for (const id of ids) {
      const token = this.#names.get(id);
      if (token !== undefined && !(skipSpecial && this.#special.has(id))) tokens.push(token);
    }
    return this.decoder === null ? tokens.join(" ") : this.decoder(tokens).join("");
  }

  #tokens(text: string | readonly string[], sequence: number): Encoding {
    const made = new Encoding();
    if (typeof text === "string") this.#add(made, text, null, sequence);
    else text.forEach((word, i) => this.#add(made, word, i, sequence));
    return made;
  }

  #add(made: Encoding, text: string, word: number | null, sequence: number): void {
    if (/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text)) {
      throw new UsageError("Cannot read the text.", {
        why: "it holds a character that is not valid Unicode (a lone surrogate)",
        fix: "decode the bytes as UTF-8, with U+FFFD for what is none",
      });
    }
    const parts: Part[] = [];
    for (const part of found(this.#raw, Normalized.of(text))) {
      if ("added" in part) parts.push(part);
      else parts.push(...found(this.#normal, this.#normalize(part)));
    }
    let number = 0;
    for (const part of parts) {
      if ("added" in part) {
        made.push(part.added.id, part.added.content, [part.from, part.to], word ?? number++, 0, 0, sequence);
        continue;
      }
      if (!part.text.length) continue;
      for (const each of this.#split([part])) {
        if (!each.text.length) continue;
        for (const { id, start, end } of this.model.tokenize(each.text)) {
          const place: [number, number] = [each.from[start], each.to[end - 1]];
          made.push(id, this.#names.get(id)!, place, word ?? number, 0, 0, sequence);
        }
        number++;
      }
    }
  }
}

interface Finder {
  readonly pattern: RegExp;
  readonly tokens: ReadonlyMap<string, AddedToken>;
}

/** A pattern for added tokens, of those that begin at one place the longest. */
function finder(tokens: readonly AddedToken[], textOf: (token: AddedToken) => string): Finder | null {
  const byText = new Map<string, AddedToken>();
  for (const token of tokens) {
    const text = textOf(token);
    if (text) byText.set(text, token);
  }
  if (!byText.size) return null;
  const longest = [...byText.keys()].sort((one, other) => other.length - one.length);
  return { pattern: new RegExp(longest.map(literal).join("|"), "gu"), tokens: byText };
}

const WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;

/** A text, cut at the added tokens in it. */
function found(finder: Finder | null, given: Normalized): Part[] {
  if (finder === null) return given.text.length ? [given] : [];
  const { text } = given;
  const parts: Part[] = [];
  let last = 0;
  for (const match of text.matchAll(finder.pattern)) {
    let start = match.index;
    let end = start + match[0].length;
    if (start < last) continue; // its beginning is in the spaces that another token took
    const added = finder.tokens.get(match[0])!;
    if (added.single_word && !(atEdge(text, start, -1) && atEdge(text, end, 1))) continue;
    if (added.lstrip) while (start > last && isWhite(text[start - 1])) start--;
    if (added.rstrip) while (end < text.length && isWhite(text[end])) end++;
    if (start > last) parts.push(given.slice(last, start));
    parts.push({ added, from: given.from[start], to: given.to[end - 1] });
    last = end;
  }
  if (last < text.length) parts.push(last === 0 ? given : given.slice(last));
  return parts;
}

function atEdge(text: string, place: number, side: 1 | -1): boolean {
  if (side > 0) return place >= text.length || !WORD.test(String.fromCodePoint(text.codePointAt(place)!));
  if (place <= 0) return true;
  const width = place > 1 && widthAt(text, place - 2) === 2 ? 2 : 1;
  return !WORD.test(text.slice(place - width, place));
}

function truncated(
  first: Encoding,
  second: Encoding | null,
  room: number,
  { strategy, side }: Truncation,
): [Encoding, Encoding | null] {
  const all = first.length + (second?.length ?? 0);
  if (all <= room) return [first, second];
  const cut = (each: Encoding, length: number): Encoding =>
    side === "left" ? each.slice(each.length - length, each.length) : each.slice(0, length);
  const over = all - room;
  if (strategy === "longest_first") {
    if (second === null) return [cut(first, room), null];
    // The longer one is cut to the shorter, and then both alike; an odd rest goes to the second, or to the shorter.
    let n1 = first.length;
    let n2 = second.length;
    let swap = false;
    if (n1 > n2) {
      swap = true;
      [n1, n2] = [n2, n1];
    }
    if (n1 > room) n2 = n1;
    else n2 = Math.max(n1, room - n1);
    if (n1 + n2 > room) {
      n1 = Math.floor(room / 2);
      n2 = n1 + (room % 2);
    }
    if (swap) [n1, n2] = [n2, n1];
    return [cut(first, n1), cut(second, n2)];
  }
  const target = strategy === "only_first" ? first : second;
  if (target === null || target.length <= over) {
    throw new UsageError("Cannot fit the two texts into the model.", {
      why: `it takes ${room} tokens of text, and the text that may not be cut needs them all`,
      fix: "shorten that text",
    });
  }
  const shorter = cut(target, target.length - over);
  return strategy === "only_first" ? [shorter, second] : [first, shorter];
}
