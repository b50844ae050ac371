/** Every format that the fuzzer knows. */
import type { FuzzFormat } from "./case.js";
import { jpegFormat, masksFormat, pngFormat, webpFormat } from "./pictures.js";
import { configFormat } from "./run.js";
import { urlFormat } from "./url.js";
import { h5Format, pthFormat, safetensorsFormat } from "./weights.js";

export const FORMATS: readonly FuzzFormat[] = [
  safetensorsFormat,
  pthFormat,
  h5Format,
  pngFormat,
  jpegFormat,
  webpFormat,
  masksFormat,
  configFormat,
  urlFormat,
];
