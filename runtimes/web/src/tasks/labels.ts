/** Labels that are chosen when it is asked. */

import { UsageError, shown } from "../errors.js";
import type { Options } from "./task.js";

export function chosenLabels(options: Options): readonly string[] {
  let labels = options.candidate_labels;
  if (typeof labels === "string")
    labels = labels
      .split(",")
      .map((label) => label.trim())
      .filter(Boolean);
  if (!Array.isArray(labels) || !labels.length || !labels.every((label) => typeof label === "string")) {
    throw new UsageError(`Cannot choose among candidate_labels=${shown(options.candidate_labels)}.`, {
      why: "this task needs the labels to choose from: a list of strings, or one string with commas",
      fix: 'pass candidate_labels: ["travel", "food"]',
    });
  }
  return labels;
}

/** A sentence for each label, in which it stands for {}, as Python's `str.format` puts it there. */
export function hypotheses(options: Options): string[] {
  const template = options.hypothesis_template;
  const labels = chosenLabels(options);
  const fields =
    typeof template === "string"
      ? (template
          .replaceAll("{{", "")
          .replaceAll("}}", "")
          .match(/[{}][^{}]*\}?/g) ?? [])
      : [];
  const numbered = fields.every((field) => field === "{0}");
  if (!fields.length || !(numbered || (fields.length === 1 && fields[0] === "{}"))) {
    throw new UsageError(`Cannot use hypothesis_template=${shown(template)}.`, {
      why: "it has no {} in which the label can stand",
      fix: "pass a sentence such as 'This example is {}.'",
    });
  }
  const put = (found: string, label: string): string => (found === "{{" ? "{" : found === "}}" ? "}" : label);
  return labels.map((label) => (template as string).replace(/\{\{|\}\}|\{0?\}/g, (found) => put(found, label)));
}
