/** The decoders of tokenizer.json: the text that tokens make. */

import { SupportError } from "../errors.js";
import type { Json } from "../manifest.js";
import { patternOf } from "./pattern.js";
import { BYTE_LETTERS } from "./pre_tokenizers.js";

/** Tokens to pieces of text, which make the whole when they are joined. */
export type Decoder = (tokens: string[]) => string[];

export function decoderOf(raw: Json): Decoder | null {
  if (raw === null || raw === undefined) return null;
  switch (raw.type) {
    case "Sequence": {
      const steps: Decoder[] = raw.decoders.map(decoderOf);
      return (tokens) => steps.reduce((made, step) => step(made), tokens);
    }
    case "WordPiece":
      return (tokens) =>
        tokens.map((token, i) => {
          let text = token;
          if (i > 0) text = text.startsWith(raw.prefix) ? text.replace(raw.prefix, "") : ` ${text}`;
          return raw.cleanup ? cleanedUp(text) : text;
        });
    case "ByteLevel":
      return (tokens) => [byteText(tokens)];
    case "Metaspace": {
      const strips = (raw.prepend_scheme ?? (raw.add_prefix_space === false ? "never" : "always")) !== "never";
      return (tokens) =>
        tokens.map((token, i) => {
          const text = token.replaceAll(raw.replacement, " ");
          return i === 0 && strips && text.startsWith(" ") ? text.slice(1) : text;
        });
    }
    case "BPEDecoder":
      return (tokens) => tokens.map((token, i) => token.replaceAll(raw.suffix, i === tokens.length - 1 ? "" : " "));
    case "Fuse":
      return (tokens) => [tokens.join("")];
    case "Replace": {
      const pattern = patternOf(raw.pattern);
      return (tokens) => tokens.map((token) => token.replace(pattern, () => raw.content));
    }
    case "Strip":
      return (tokens) => tokens.map((token) => strip([...token], raw.content, raw.start, raw.stop));
    case "ByteFallback":
      return byteFallback;
    case "CTC":
      return (tokens) => ctc(tokens, raw);
    default:
      throw new SupportError("Cannot read the tokenizer.", {
        why: `this runtime does not know the decoder ${raw.type}`,
        fix: "update satchel-runtime, or report the checkpoint",
      });
  }
}

/** What the Rust library's `cleanup` takes out. */
export function cleanedUp(text: string): string {
  let made = text;
  for (const [from, to] of CLEAN) made = made.replaceAll(from, to);
  return made;
}

const CLEAN: readonly (readonly [string, string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" do not", " don't"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

const BYTES = new Map(BYTE_LETTERS.map((letter, byte) => [letter, byte]));
const utf8 = new TextEncoder();

/** Tokens of bytes as the text that these are; a token that holds anything else stands for itself. */
export function byteText(tokens: readonly string[]): string {
  const bytes: number[] = [];
  for (const token of tokens) {
    const own: number[] = [];
    for (const letter of token) {
      const byte = BYTES.get(letter);
      if (byte === undefined) {
        own.length = 0;
        own.push(...utf8.encode(token));
        break;
      }
      own.push(byte);
    }
    for (const byte of own) bytes.push(byte);
  }
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

function strip(letters: string[], content: string, start: number, stop: number): string {
  let first = 0;
  while (first < Math.min(start, letters.length) && letters[first] === content) first++;
  let last = letters.length;
  for (let i = 0; i < stop && last > 0 && letters[last - 1] === content; i++) last--;
  return letters.slice(first, last).join("");
}

function byteFallback(tokens: string[]): string[] {
  const made: string[] = [];
  let bytes: number[] = [];
  const flush = (): void => {
    if (!bytes.length) return;
    try {
      made.push(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes)));
    } catch {
      for (let i = 0; i < bytes.length; i++) made.push("\ufffd");
    }
    bytes = [];
  };
  for (const token of tokens) {
    const found = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
    if (found) bytes.push(parseInt(found[1], 16));
    else {
      flush();
      made.push(token);
    }
  }
  flush();
  return made;
}

function ctc(tokens: string[], raw: Json): string[] {
  return tokens
    .filter((token, i) => i === 0 || token !== tokens[i - 1])
    .map((token) => {
      const text = token.replaceAll(raw.pad_token, "");
      return raw.cleanup ? cleanedUp(text).replaceAll(raw.word_delimiter_token, " ") : text;
    })
    .filter((text) => text !== "");
}
