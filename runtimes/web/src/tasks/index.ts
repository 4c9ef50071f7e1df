/** Every task by its name in `transformers.pipeline`. A new task is one new file, and one line here. */

import type { Bundle } from "../bundle.js";
import { SupportError, unknownName } from "../errors.js";
import type { TaskEntry } from "../manifest.js";
import type { Task } from "./task.js";

type Module = { readonly TASK: new (entry: TaskEntry, bundle: Bundle) => Task };

// Each is fetched when a bundle needs it: a page that classifies texts never loads what reads pictures.
const MODULES: Readonly<Record<string, () => Promise<Module>>> = {
  "automatic-speech-recognition": () => import("./automatic_speech_recognition.js"),
  "depth-estimation": () => import("./depth_estimation.js"),
  "feature-extraction": () => import("./feature_extraction.js"),
  "fill-mask": () => import("./fill_mask.js"),
  "image-classification": () => import("./image_classification.js"),
  "object-detection": () => import("./object_detection.js"),
  "question-answering": () => import("./question_answering.js"),
  "sentence-embedding": () => import("./sentence_embedding.js"),
  "text-classification": () => import("./text_classification.js"),
  "text-generation": () => import("./text_generation.js"),
  "token-classification": () => import("./token_classification.js"),
  "zero-shot-classification": () => import("./zero_shot_classification.js"),
  "zero-shot-image-classification": () => import("./zero_shot_image_classification.js"),
};

export function listTasks(): readonly string[] {
  return Object.keys(MODULES);
}

/** A bundle's task, with what it reads from there. */
export async function openTask(entry: TaskEntry, bundle: Bundle): Promise<Task> {
  const module = MODULES[entry.name];
  if (module === undefined) {
    const error = unknownName("task", entry.name, listTasks());
    throw new SupportError(`Cannot serve ${entry.name} from ${bundle.path} here.`, {
      why: error.why,
      fix: "run the bundle with the Python runtime, or convert it with --task for one of these",
    });
  }
  const { TASK } = await module();
  return new TASK(entry, bundle);
}
