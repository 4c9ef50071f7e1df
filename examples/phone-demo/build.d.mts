export function buildDemo(
  bundles: { classify: string; embed: string },
  out: string,
): Promise<void>;
