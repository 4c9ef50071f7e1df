/** question-answering: the words of a context that answer a question, as the pipeline of transformers 4.57 finds them. */

import { UsageError } from "../errors.js";
import { stepOption } from "../manifest.js";
import { softmax } from "../numbers.js";
import { float32, floats, type Tensors } from "../tensor.js";
import type { Answer, Input, Kind, Options, Row } from "./task.js";
import { TextTask, isMapping, rowOfIds, wholeNumber } from "./text.js";
import { CodePoints, take, tokensOf, where, windows, type Tokens } from "./tokens.js";

const MAX_STRIDE = 128;

interface Window {
  readonly tokens: Tokens;
  /** Which tokens have a part in the softmax: the context's, and [CLS] for "no answer". */
  readonly allowed: readonly boolean[];
}

interface Found {
  score: number;
  readonly start: number;
  readonly end: number;
  readonly answer: string;
}

/**
 * `predict({question, context})` is `{score, start, end, answer}`, with start and end counted in code points of the context;
 * with `top_k` above 1 a list of at most that many, the likeliest first. Options as in the pipeline.
 */
export class QuestionAnswering extends TextTask {
  readonly name = "question-answering";
  override readonly textKind = "{question, context}";
  readonly judged: Readonly<Record<string, Kind>> = { start: "distribution", end: "distribution" };
  override readonly options = {
    top_k: 1,
    doc_stride: null,
    max_answer_len: 15,
    max_seq_len: null,
    max_question_len: null,
    handle_impossible_answer: false,
    align_to_words: true,
  };

  override encode(item: Input, options: Options): readonly Row[] {
    if (!isMapping(item) || Object.keys(item).sort().join() !== "context,question") throw this.wrongType(item);
    for (const part of ["question", "context"]) {
      if (typeof item[part] !== "string") throw this.wrongType(item);
      if (!item[part]) throw new UsageError("Cannot answer.", { why: `the ${part} is empty`, fix: `give a ${part}` });
    }
    let tokens = tokensOf(this.reader.encode(item.question, item.context));
    if (options.max_question_len !== null) {
      const question = where(tokens.ids.length, (i) => tokens.sequences[i] === 0);
      const gone = new Set(question.slice(wholeNumber(options, "max_question_len")));
      tokens = take(
        tokens,
        where(tokens.ids.length, (i) => !gone.has(i)),
      );
    }
    const [length, stride] = this.#window(options);
    return windows(tokens, 1, length, stride, this.reader.step.options.side ?? "right").map((window) => {
      // The token that opens the sequence ([CLS], <s>) stands for "no answer", wherever the text has it, too.
      const [opens] = window.special;
      const allowed = window.ids.map((id, i) => window.sequences[i] === 1 || (opens && id === window.ids[0]));
      return rowOfIds(window.ids, window.typeIds, { tokens: window, allowed } satisfies Window);
    });
  }

  #window(options: Options): [number, number] {
    let length: number = stepOption(this.entry, "windows", "length");
    let stride: number = stepOption(this.entry, "windows", "stride");
    if (options.max_seq_len !== null) {
      length = wholeNumber(options, "max_seq_len");
      stride = Math.min(Math.floor(length / 2), MAX_STRIDE);
    }
    if (options.doc_stride !== null) stride = wholeNumber(options, "doc_stride", 0);
    if (length > this.maxLength || stride > length) {
      throw new UsageError(`Cannot read windows of ${length} tokens that overlap by ${stride}.`, {
        why: `the model takes ${this.maxLength} tokens, and the overlap must be smaller than the window`,
        fix: "choose a smaller max_seq_len or doc_stride",
      });
    }
    return [length, stride];
  }

  /** Probabilities that the answer starts and ends at each token; where it may not, they are 0. */
  score(outputs: Tensors, row: Row): Tensors {
    const { allowed } = row.extra as Window;
    const of = (side: string): Tensors[string] => {
      const logits = floats(outputs[`${side}_logits`]).map((value, i) => (allowed[i] ? value : -10_000));
      return softmax(float32([logits.length], logits));
    };
    return { start: of("start"), end: of("end") };
  }

  answer(item: Input, rows: readonly Row[], scores: readonly Tensors[], options: Options): Answer {
    const count = wholeNumber(options, "top_k");
    const longest = wholeNumber(options, "max_answer_len");
    const align = Boolean(options.align_to_words);
    const context = new CodePoints(item.context);
    const answers = new Map<string, Found>();
    let noAnswer = 1;
    rows.forEach((row, i) => {
      const { tokens } = row.extra as Window;
      const [starts, ends] = [floats(scores[i].start), floats(scores[i].end)];
      noAnswer = Math.min(noAnswer, Math.fround(starts[0] * ends[0]));
      // Several spans may be the same words once they are aligned, so more than are asked for are looked at.
      const wanted = align ? 2 * count + 10 : count;
      const inside = (values: Float32Array): Float32Array =>
        values.map((value, k) => (tokens.sequences[k] === 1 ? value : 0));
      for (const [first, last, value] of spans(inside(starts), inside(ends), wanted, longest)) {
        const [start, end] = characters(tokens, first, last, align);
        const text = context.slice(start, end);
        // The same words count once, by the sum of their probabilities, where they were likeliest at first.
        const known = answers.get(text.toLowerCase());
        if (known) known.score += value;
        else answers.set(text.toLowerCase(), { score: value, start, end, answer: text });
      }
    });
    let ranked = [...answers.values()];
    const empty = { score: noAnswer, start: 0, end: 0, answer: "" };
    if (options.handle_impossible_answer) ranked.push(empty);
    else if (!ranked.length) ranked.push({ ...empty, score: 0 }); // a context without a single token
    ranked = ranked.sort((a, b) => b.score - a.score).slice(0, count);
    return count === 1 ? ranked[0] : ranked;
  }
}

/** First and last tokens of the likeliest spans and their probabilities, the likeliest first. */
export function spans(
  start: Float32Array,
  end: Float32Array,
  count: number,
  longest: number,
): [number, number, number][] {
  const found: [number, number, number][] = [];
  for (let first = 0; first < start.length; first++) {
    if (!start[first]) continue;
    for (let last = first; last < Math.min(first + longest, start.length); last++) {
      const value = Math.fround(start[first] * end[last]);
      if (value) found.push([first, last, value]);
    }
  }
  return found.sort((a, b) => b[2] - a[2]).slice(0, count);
}

/** Where a span of tokens starts and ends in the context; with `align` it grows to whole words. */
function characters(tokens: Tokens, first: number, last: number, align: boolean): [number, number] {
  if (align && tokens.words[first] >= 0 && tokens.words[last] >= 0) {
    const of = (word: number): number[] =>
      where(tokens.ids.length, (i) => tokens.sequences[i] === 1 && tokens.words[i] === word);
    const ends = of(tokens.words[last]);
    first = of(tokens.words[first])[0];
    last = ends[ends.length - 1];
  }
  return [tokens.offsets[first][0], tokens.offsets[last][1]];
}
