/** The tasks that read texts, in one part: apart, each would bring more of what joins parts than of its own. */

import type { TaskClass } from "./task.js";
import { FeatureExtraction } from "./feature_extraction.js";
import { FillMask } from "./fill_mask.js";
import { QuestionAnswering } from "./question_answering.js";
import { SentenceEmbedding } from "./sentence_embedding.js";
import { TextClassification } from "./text_classification.js";
import { TokenClassification } from "./token_classification.js";
import { ZeroShotClassification } from "./zero_shot_classification.js";

export const TASKS: Readonly<Record<string, TaskClass>> = {
  "feature-extraction": FeatureExtraction,
  "fill-mask": FillMask,
  "question-answering": QuestionAnswering,
  "sentence-embedding": SentenceEmbedding,
  "text-classification": TextClassification,
  "token-classification": TokenClassification,
  "zero-shot-classification": ZeroShotClassification,
};
