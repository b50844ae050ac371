// The library for pages without a bundler, minified, in dist/browser: `inpaint.js` has what filling holes takes, `pconv-webgpu.js` all of
// the browser entry. Bundlers take dist/src instead, module by module, and leave out what a page does not use.
import { fileURLToPath } from "node:url";
import { build } from "vite";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const browser = path("../dist/src/browser.js").replaceAll("\\", "/");
const outDir = path("../dist/browser");

const FILLING =
  "{ binariseMask, defaultTile, FormatError, generateMask, GpuError, inpaint, openGpu, PConvUNet, Rng, ShapeError, UserError }";

/** The weights stay where the build has put them, in dist/models: Vite would put a copy of its own into the code. */
const weightsInPlace = {
  name: "weights-in-place",
  enforce: "pre",
  transform: {
    filter: { id: /\/src\/io\/defaultWeights\.js$/ },
    handler: (source) => ({ code: source.replace('"../../models/', '/* @vite-ignore */ "../models/'), map: null }),
  },
};

for (const [name, exported] of Object.entries({ inpaint: FILLING, "pconv-webgpu": "*" })) {
  const entry = `virtual:${name}`;
  const reexport = {
    name: "reexport",
    enforce: "pre",
    resolveId: (id) => (id.endsWith(entry) ? entry : null), // Vite takes it for a path
    load: (id) => (id === entry ? `export ${exported} from ${JSON.stringify(browser)};` : null),
  };
  await build({
    root: path(".."),
    configFile: false,
    publicDir: false,
    logLevel: "warn",
    plugins: [reexport, weightsInPlace],
    build: {
      lib: { entry, formats: ["es"], fileName: () => `${name}.js` },
      target: "es2022",
      outDir,
      emptyOutDir: name === "inpaint",
      rolldownOptions: {
        // Megabytes that only weights of Keras need: a page without a bundler says in an import map where they are.
        external: ["h5wasm"],
        output: { minify: true, chunkFileNames: "[name]-[hash].js" },
      },
    },
  });
}
