/** Numbers by chance, the same as `numpy.random.default_rng(seed).random()`: PCG64 (O'Neill 2014) with numpy's seeding. */

const MASK32 = 0xffffffffn;
const MASK64 = (1n << 64n) - 1n;
const MASK128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** A function that draws from [0, 1). Without a seed, another sequence each time. */
export function randomOf(seed: number | null): () => number {
  const words: number[] = [];
  if (seed === null) words.push(...crypto.getRandomValues(new Uint32Array(4)));
  else for (let rest = BigInt(seed); rest > 0n || !words.length; rest >>= 32n) words.push(Number(rest & MASK32));
  const [a, b, c, d] = states(words);
  const increment = ((((c << 64n) | d) << 1n) | 1n) & MASK128;
  const step = (state: bigint): bigint => (state * MULTIPLIER + increment) & MASK128;
  let state = step((step(0n) + ((a << 64n) | b)) & MASK128);
  return () => {
    state = step(state);
    const mixed = (state >> 64n) ^ (state & MASK64);
    const turn = state >> 122n;
    const drawn = ((mixed >> turn) | (mixed << ((64n - turn) & 63n))) & MASK64;
    return Number(drawn >> 11n) / 2 ** 53;
  };
}

/** Four words of 64 bits, as numpy's `SeedSequence` makes them. */
function states(entropy: readonly number[]): bigint[] {
  let constant = 0x43b0d7e5;
  const hash = (given: number): number => {
    const value = given ^ constant;
    constant = Math.imul(constant, 0x931e8875);
    const made = Math.imul(value, constant);
    return (made ^ (made >>> 16)) >>> 0;
  };
  const mix = (x: number, y: number): number => {
    const made = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) | 0;
    return (made ^ (made >>> 16)) >>> 0;
  };
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hash(word));
  let other = 0x8b51f9dd;
  const words = Array.from({ length: 8 }, (_, i) => {
    const value = pool[i % 4] ^ other;
    other = Math.imul(other, 0x58f38ded);
    const made = Math.imul(value, other);
    return BigInt((made ^ (made >>> 16)) >>> 0);
  });
  return [0, 2, 4, 6].map((i) => words[i] | (words[i + 1] << 32n));
}
