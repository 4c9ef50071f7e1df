/** The tasks that see pictures, in one part. */

import type { TaskClass } from "./task.js";
import { DepthEstimation } from "./depth_estimation.js";
import { ImageClassification } from "./image_classification.js";
import { ObjectDetection } from "./object_detection.js";
import { ZeroShotImageClassification } from "./zero_shot_image_classification.js";

export const TASKS: Readonly<Record<string, TaskClass>> = {
  "depth-estimation": DepthEstimation,
  "image-classification": ImageClassification,
  "object-detection": ObjectDetection,
  "zero-shot-image-classification": ZeroShotImageClassification,
};
