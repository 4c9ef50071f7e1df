/** A batch of texts in a decoder: what was read of each, and the next call of the graph. */

import type { Session, State } from "../sessions/session.js";
import { int64, rowOf, type Tensor } from "../tensor.js";

export class Texts {
  readonly #session: Session;
  readonly #state: State;
  readonly lengths: number[];

  /** `room` are tokens for which there is room at once; more is made as it is needed. */
  constructor(session: Session, count: number, room: number) {
    const state = session.newState(count, room);
    if (state === null) throw new Error("the graph of a writer keeps no cache");
    this.#session = session;
    this.#state = state;
    this.lengths = new Array<number>(count).fill(0);
  }

  /** Read so many tokens of each text as are given; the logits of the last of each, [vocabulary]. */
  read(tokens: readonly (readonly number[])[]): Promise<Tensor[]> {
    const longest = Math.max(...tokens.map((each) => each.length));
    // What pads a text is written over by its next token.
    const ids = tokens.flatMap((each) => [...each, ...new Array<number>(longest - each.length).fill(0)]);
    return this.#call(
      ids,
      longest,
      tokens.map((each) => each.length),
    );
  }

  /** Read one token of each text. */
  step(tokens: readonly number[]): Promise<Tensor[]> {
    return this.#call(
      tokens,
      1,
      tokens.map(() => 1),
    );
  }

  async #call(ids: readonly number[], width: number, counts: readonly number[]): Promise<Tensor[]> {
    const count = this.lengths.length;
    const positions = this.lengths.flatMap((length) => Array.from({ length: width }, (_, i) => length + i));
    await this.#state.hold(Math.max(...this.lengths) + width);
    const given = {
      input_ids: int64(ids, [count, width]),
      position_ids: int64(positions, [count, width]),
      logits_positions: int64(
        counts.map((each) => each - 1),
        [count, 1],
      ),
    };
    const { logits } = await this.#session.run(given, this.#state, ["logits"]);
    counts.forEach((each, i) => (this.lengths[i] += each));
    return counts.map((_, i) => rowOf(rowOf(logits, i), 0));
  }

  dispose(): void {
    this.#state.dispose();
  }
}
