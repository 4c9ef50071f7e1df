/** A text on its way into tokens, which knows for each of its characters where in the original it came from. */

import { WITHOUT_FORM } from "./characters.js";

/**
 * Places in the original are counted in code points, as Python counts them; places in `text` in UTF-16 units, as
 * JavaScript does. `from[i]` and `to[i]` are the original range of unit `i`.
 */
export class Normalized {
  readonly text: string;
  readonly from: readonly number[];
  readonly to: readonly number[];

  constructor(text: string, from: readonly number[], to: readonly number[]) {
    this.text = text;
    this.from = from;
    this.to = to;
  }

  static of(text: string): Normalized {
    const from = new Array<number>(text.length);
    const to = new Array<number>(text.length);
    for (let i = 0, place = 0; i < text.length; place++) {
      const width = widthAt(text, i);
      for (let unit = 0; unit < width; unit++, i++) {
        from[i] = place;
        to[i] = place + 1;
      }
    }
    return new Normalized(text, from, to);
  }

  slice(start: number, end: number = this.text.length): Normalized {
    if (start === 0 && end === this.text.length) return this;
    return new Normalized(this.text.slice(start, end), this.from.slice(start, end), this.to.slice(start, end));
  }

  /** Each character replaced by a text, all of which comes from where the character came from. */
  map(change: (character: string) => string): Normalized {
    const { text, from, to } = this;
    let made = "";
    const starts: number[] = [];
    const ends: number[] = [];
    for (let i = 0; i < text.length;) {
      const width = widthAt(text, i);
      const instead = change(width === 1 ? text[i] : text.slice(i, i + 2));
      made += instead;
      for (let unit = 0; unit < instead.length; unit++) {
        starts.push(from[i]);
        ends.push(to[i]);
      }
      i += width;
    }
    return new Normalized(made, starts, ends);
  }

  /**
   * What the library's `transform` does: each new character with how many it adds to the old ones. 0 stands for one, 1 is
   * beside the one before, and -n also takes the n that follow.
   */
  transform(changes: readonly (readonly [string, number])[]): Normalized {
    const starts: number[] = []; // of the old characters
    for (let i = 0; i < this.text.length; i += widthAt(this.text, i)) starts.push(i);
    let made = "";
    const from: number[] = [];
    const to: number[] = [];
    let place = 0;
    for (const [character, change] of changes) {
      const source = change > 0 ? place - 1 : Math.min(place, starts.length - 1);
      made += character;
      for (let unit = 0; unit < character.length; unit++) {
        from.push(source < 0 ? 0 : this.from[starts[source]]);
        to.push(source < 0 ? 0 : this.to[starts[source]]);
      }
      if (change <= 0) place += 1 - change;
    }
    return new Normalized(made, from, to);
  }

  /** A text before it, which counts as a part of its first character. */
  prepend(text: string): Normalized {
    if (!this.text.length) return this;
    const start = new Array<number>(text.length).fill(this.from[0]);
    const end = new Array<number>(text.length).fill(this.to[0]);
    return new Normalized(text + this.text, [...start, ...this.from], [...end, ...this.to]);
  }

  append(text: string): Normalized {
    const last = this.text.length - 1;
    if (last < 0) return this;
    const start = new Array<number>(text.length).fill(this.from[last]);
    const end = new Array<number>(text.length).fill(this.to[last]);
    return new Normalized(this.text + text, [...this.from, ...start], [...this.to, ...end]);
  }

  /** Every match of a pattern replaced. */
  replace(pattern: RegExp, instead: string): Normalized {
    let made = "";
    const from: number[] = [];
    const to: number[] = [];
    let last = 0;
    const keep = (end: number): void => {
      made += this.text.slice(last, end);
      for (let i = last; i < end; i++) {
        from.push(this.from[i]);
        to.push(this.to[i]);
      }
    };
    for (const found of this.text.matchAll(pattern)) {
      keep(found.index);
      const end = found.index + found[0].length;
      made += instead;
      for (let i = 0; i < instead.length; i++) {
        from.push(this.from[end - 1] ?? 0); // the library has the last character's place for the new ones
        to.push(this.to[end - 1] ?? 0);
      }
      last = end;
    }
    if (last === 0) return this;
    keep(this.text.length);
    return new Normalized(made, from, to);
  }
}

export function widthAt(text: string, i: number): number {
  return text.codePointAt(i)! > 0xffff ? 2 : 1;
}

type Form = "NFC" | "NFD" | "NFKC" | "NFKD";

/** What does not begin a new cluster of characters that normal forms join: marks, jamo, and their halfwidth forms. */
const JOINS = /^[\p{M}\u1160-\u11ff\uff9e-\uffdf]$/u;

/** A Unicode normal form. */
export function normalForm(given: Normalized, form: Form): Normalized {
  const parts: Normalized[] = [];
  let last = 0;
  for (const found of given.text.matchAll(WITHOUT_FORM)) {
    const end = found.index + found[0].length;
    parts.push(formOf(given.slice(last, found.index), form), given.slice(found.index, end));
    last = end;
  }
  if (last === 0) return formOf(given, form);
  parts.push(formOf(given.slice(last), form));
  return new Normalized(
    parts.map((part) => part.text).join(""),
    parts.flatMap((part) => part.from),
    parts.flatMap((part) => part.to),
  );
}

function formOf(given: Normalized, form: Form): Normalized {
  const whole = given.text.normalize(form);
  if (whole === given.text) return given;
  const changes: [string, number][] = [];
  const { text } = given;
  for (let start = 0; start < text.length;) {
    let end = start + widthAt(text, start);
    while (end < text.length && JOINS.test(String.fromCodePoint(text.codePointAt(end)!))) end += widthAt(text, end);
    changes.push(...changesOf(text.slice(start, end), form));
    start = end;
  }
  const made = given.transform(changes);
  if (made.text === whole) return made;
  // No cluster should be cut in two. Where one is, ids matter more than places.
  return given.transform([...whole].map((character): [string, number] => [character, 0]));
}

/** A cluster's normal form, each character with how many it adds. */
function changesOf(part: string, form: Form): [string, number][] {
  const apart = form.includes("K") ? "NFKD" : "NFD";
  const decomposed: [string, number][] = [];
  for (const each of part) [...each.normalize(apart)].forEach((letter, i) => decomposed.push([letter, i ? 1 : 0]));
  const take = (letter: string): number => {
    const found = decomposed.findIndex(([each]) => each === letter);
    return found < 0 ? 0 : decomposed.splice(found, 1)[0][1];
  };
  return [...part.normalize(form)].map((character) => {
    const letters = form.endsWith("D") ? [character] : [...character.normalize("NFD")];
    return [character, letters.reduce((sum, letter) => sum + take(letter), 0) - letters.length + 1];
  });
}
