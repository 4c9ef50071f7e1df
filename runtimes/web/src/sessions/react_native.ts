/**
 * ONNX bundles in a React Native app. The app injects `onnxruntime-react-native`; this module only knows its types.
 * Checked by the type checker, not on a phone.
 */

import type { InferenceSession as Sessions, Tensor as OrtTensor } from "onnxruntime-common";
import { openOrtSession, type OrtModule } from "./ort.js";
import type { EngineAdapter } from "./session.js";

/** What `import * as ort from "onnxruntime-react-native"` gives. */
export interface ReactNativeOrt {
  readonly InferenceSession: {
    create(buffer: ArrayBufferLike, options?: Sessions.SessionOptions): Promise<Sessions>;
  };
  readonly Tensor: new (type: never, data: never, dims: readonly number[]) => OrtTensor;
  readonly env?: { readonly versions?: { readonly common?: string } };
}

/** An engine for `load`, by the module of the app; `providers` are those of the phone, as "coreml", "nnapi" or "xnnpack". */
export function onnxRuntimeReactNative(
  module: ReactNativeOrt,
  providers: readonly Sessions.ExecutionProviderConfig[] = ["cpu"],
): EngineAdapter {
  const ort: OrtModule = {
    InferenceSession: {
      // A file is a view of a buffer that may be larger, and the native side takes whole buffers.
      create: (model, options) => module.InferenceSession.create(model.slice().buffer, options),
    },
    Tensor: module.Tensor,
  };
  const engine = `onnxruntime-react-native ${module.env?.versions?.common ?? ""}`.trim();
  return {
    format: "onnx",
    openSession(bundle, graphs, { threads }) {
      const [first] = providers;
      const name = typeof first === "string" ? first : (first?.name ?? "cpu");
      const used = { engine, threads, delegate: name === "cpu" ? null : name };
      return openOrtSession(bundle, graphs, { ort, name: engine, used, providers, threads });
    },
  };
}
