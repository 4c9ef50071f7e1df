/**
 * What the Rust library calls white, punctuation, mark and control.
 *
 * Its tables are of several older versions of Unicode, and a browser's of whichever it was built with. What newer versions
 * added is listed here, so that a text has the same ids on every phone. The lists are the difference between `tokenizers`
 * 0.22 and Unicode 17, character by character.
 */

/** Unicode White_Space. JavaScript's \s has U+FEFF beside it and lacks U+0085. */
const WHITE = /^\p{White_Space}$/u;

export function isWhite(character: string): boolean {
  const code = character.charCodeAt(0);
  if (code < 128) return code === 32 || (code >= 9 && code <= 13);
  return WHITE.test(character);
}

export function isPunctuation(character: string): boolean {
  const code = character.charCodeAt(0);
  if (code < 128) {
    return (
      (code >= 33 && code <= 47) ||
      (code >= 58 && code <= 64) ||
      (code >= 91 && code <= 96) ||
      (code >= 123 && code <= 126)
    );
  }
  return PUNCTUATION.test(character);
}

/** Marks that BERT strips: those without a width. */
export function isBertMark(character: string): boolean {
  return character.charCodeAt(0) >= 768 && BERT_MARK.test(character);
}

/** Marks that `StripAccents` strips: all. */
export function isMark(character: string): boolean {
  return character.charCodeAt(0) >= 768 && MARK.test(character);
}

/** What `clean_text` of BERT leaves out. */
export function isBertControl(character: string): boolean {
  const code = character.codePointAt(0)!;
  if (code === 9 || code === 10 || code === 13) return false;
  if (code < 127) return code < 32;
  return code === 0xfffd || CONTROL.test(character);
}

/** Characters that BERT puts spaces around: CJK, by the ranges of the Rust library. */
export function isCjk(code: number): boolean {
  if (code < 0x3400) return false;
  return (
    (code >= 0x4e00 && code <= 0x9fff) ||
    (code >= 0x3400 && code <= 0x4dbf) ||
    (code >= 0x20000 && code <= 0x2a6df) ||
    (code >= 0x2a700 && code <= 0x2b81f) ||
    (code >= 0x2b920 && code <= 0x2ceaf) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0x2f800 && code <= 0x2fa1f)
  );
}

/** Characters that are in no table of normal forms there. */
export const WITHOUT_FORM = new RegExp(
  `[${ranges("a2n n3m.3 ol huo r bh.4 2.15 2.8 2bt 2 9 3 1g 2.1 12o e7d.7 2f4.2 iuk.z 3sn.1p 3cv 22s.9")}]`,
  "gu",
);

const NOT_MN =
  "1kt 4a.8 17.n 7x 70.5 2e 4v 1k 5g 1n.1 1x 8p k 1tt 3a.1 ft.u 3.b ln.5 rap 49 1m 5a jmv.3 1u.4 8u.1 26.5 1z.a " +
  "1e.3 6j 3.1 26 7b 6 33 3 6y 3k.5 e 2 2 f.1 2e.7 3.2 2 o r5.8 2.1 75.1 2 5 41.3 3.1 5 x.9 15.5 3.3 9 a.5 3.2 1b.c " +
  "2.1 5j 2.2 2 5m.6 2.5 2 2b.l 3.6 2.1 2.1 3f.5 4 2.1 2.6 2 21.1 4 2 9o.1 c.1 1h.4 6 2 o 44m 7.e 8uh.b 4.2 2sg 45 " +
  "isc.19 3.m 3ay.6 2.g 3.6 2.1 2.4 2t 4h.6 ag 1q.3 e5.3 73.1 6s 3 8.1 6 gf.6";

const NOT_M =
  "1kt 4a.8 17.9 8b 70.5 2e 4v 1k 53 d 1n.1 1x 8p k 1mv 6y j4.u 3.b ek 73.4 raq 5v js5.3 1u.4 8u.1 26.5 1z.a 1e.3 " +
  "6j 3.1 26 3n.1 3n 5.1 36 6y 3h.8 2 3 2.3 2.4 2 f.1 3g r2.e 6u.5 2.1 3.3 2 2.1 3y.6 3.6 4 t.9 15.6 2.3 9 a.a 1b.f " +
  "5j.7 cq.5 4 2.1 2.6 2 1v.4 2.1 2.4 9o.3 a.1 2 1d.6 4.4 o 44m 7.e 8uh.h 2sg 1c.8 2l c.1 irz.19 3.m 3ex 4h.6 ag " +
  "1q.3 e5.3 73.1 6s 3 8.1 6";

const NOT_P =
  "17h rk 3d e9 d 2x6.1 1a.2 3pg.c 3.b 1829 8v z 3p.4 19.3 uj.1 2.1 37.4 b.1 2 eb.c 25 aq 7d.2 4c 2l.7 2c.2 2.4 " +
  "2m.9 60 2o.4 17.1 hy.1 23.c 4w 35e.1 c57.2 88.3 94 nbx nz.1";

const PUNCTUATION = only("\\p{P}\\u166d\\u{111c9}", NOT_P);
const BERT_MARK = only("\\p{Mn}\\u1734\\u{1171e}", NOT_MN);
const MARK = only("\\p{M}\\u1cf2\\u1cf3", NOT_M);
const CONTROL = only("\\p{Cc}\\p{Cf}\\p{Co}\\p{Cs}", "1ow.1 29 1g4r 6zn.f");

function only(of: string, but: string): RegExp {
  return new RegExp(`^(?![${ranges(but)}])[${of}]$`, "u");
}

/**
 * A list of ranges as the inside of a set. Each is the distance of its first character from the last one of the range before,
 * and behind a point how many follow that; in base 36.
 */
function ranges(list: string): string {
  let last = 0;
  return list.replace(/([0-9a-z]+)(?:\.([0-9a-z]+))? ?/g, (_, gap: string, more = "0") => {
    const first = last + parseInt(gap, 36);
    last = first + parseInt(more, 36);
    return `\\u{${first.toString(16)}}-\\u{${last.toString(16)}}`;
  });
}
