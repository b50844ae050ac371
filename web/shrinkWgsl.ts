/** The kernels' WGSL without comments and indentation, for what Vite builds from the sources. */
import type { Plugin } from "vite";
import { shrinkTemplates, WITH_WGSL } from "../tools/shrink-wgsl.mjs";

export const shrinkWgsl: Plugin = {
  name: "shrink-wgsl",
  apply: "build",
  enforce: "pre",
  transform: {
    filter: { id: WITH_WGSL },
    handler: (source, id) => ({ code: shrinkTemplates(source, id), map: null }),
  },
};
