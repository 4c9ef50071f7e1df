/** The tokens of a text, or of a pair of texts, column by column. */

export class Encoding {
  readonly ids: number[] = [];
  readonly typeIds: number[] = [];
  readonly tokens: string[] = [];
  /** Where each token lies in its text, in code points. */
  readonly offsets: [number, number][] = [];
  /** 1 for what the tokenizer added. */
  readonly special: number[] = [];
  /** The word of each token; -1 for none. */
  readonly words: number[] = [];
  /** 0 for the first text, 1 for the second, -1 for what the tokenizer added. */
  readonly sequences: number[] = [];

  get length(): number {
    return this.ids.length;
  }

  push(
    id: number,
    token: string,
    offsets: [number, number],
    word: number,
    special: number,
    type: number,
    sequence: number,
  ): void {
    this.ids.push(id);
    this.typeIds.push(type);
    this.tokens.push(token);
    this.offsets.push(offsets);
    this.special.push(special);
    this.words.push(word);
    this.sequences.push(sequence);
  }

  /** The tokens from one place to another. */
  slice(start: number, end: number): Encoding {
    const made = new Encoding();
    made.extend(this, start, end);
    return made;
  }

  extend(other: Encoding, start = 0, end = other.length): void {
    for (let i = start; i < end; i++) {
      this.push(
        other.ids[i],
        other.tokens[i],
        other.offsets[i],
        other.words[i],
        other.special[i],
        other.typeIds[i],
        other.sequences[i],
      );
    }
  }
}
