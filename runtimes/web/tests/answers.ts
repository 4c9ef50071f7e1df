/** Answers here beside those of the Python runtime. */

/** Where two answers differ, in words; numbers by `tolerance`, absolutely and of their size. */
export function differences(ours: any, theirs: any, tolerance: number, at: string): string[] {
  if (typeof theirs === "number" && typeof ours === "number") {
    if (/\.depth\.data\.\d+$/.test(at)) tolerance = 1; // a grey value of a picture, cut off to a whole number
    return Math.abs(ours - theirs) <= Math.max(tolerance, tolerance < 1 ? tolerance * Math.abs(theirs) : 0)
      ? []
      : [`${at}: ${ours} for ${theirs}`];
  }
  if (typeof theirs !== "object" || theirs === null || typeof ours !== "object" || ours === null) {
    return ours === theirs ? [] : [`${at}: ${JSON.stringify(ours)} for ${JSON.stringify(theirs)}`];
  }
  const keys = new Set([...Object.keys(theirs), ...Object.keys(ours)]);
  return [...keys].flatMap((key) => differences(ours[key], theirs[key], tolerance, `${at}.${key}`));
}
