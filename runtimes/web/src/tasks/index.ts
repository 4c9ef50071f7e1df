/** Every task by its name in `transformers.pipeline`. A new task is one new file, a line in its part, and one here. */

import type { Bundle } from "../bundle.js";
import { SupportError, unknownName } from "../errors.js";
import type { TaskEntry } from "../manifest.js";
import type { Task, TaskClass } from "./task.js";

type Part = { readonly TASKS: Readonly<Record<string, TaskClass>> };

// Parts are fetched when a bundle needs one: a page that classifies texts never loads what reads pictures.
const texts = (): Promise<Part> => import("./texts.js");
const pictures = (): Promise<Part> => import("./pictures.js");

const PARTS: Readonly<Record<string, () => Promise<Part>>> = {
  "automatic-speech-recognition": () => import("./automatic_speech_recognition.js"),
  "depth-estimation": pictures,
  "feature-extraction": texts,
  "fill-mask": texts,
  "image-classification": pictures,
  "object-detection": pictures,
  "question-answering": texts,
  "sentence-embedding": texts,
  "text-classification": texts,
  "text-generation": () => import("./text_generation.js"),
  "token-classification": texts,
  "zero-shot-classification": texts,
  "zero-shot-image-classification": pictures,
};

export function listTasks(): readonly string[] {
  return Object.keys(PARTS);
}

/** A bundle's task, with what it reads from there. */
export async function openTask(entry: TaskEntry, bundle: Bundle): Promise<Task> {
  const part = PARTS[entry.name];
  if (part === undefined) {
    throw new SupportError(`Cannot serve ${entry.name} from ${bundle.path} here.`, {
      why: unknownName("task", entry.name, listTasks()).why,
      fix: "run the bundle with the Python runtime, or convert it with --task for one of these",
    });
  }
  const { TASKS } = await part();
  return new TASKS[entry.name](entry, bundle);
}
