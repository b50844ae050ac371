/** The library as one module for pages without a bundler: web/dist/pconv-webgpu.js, beside the page's own files. */
import { defineConfig } from "vite";
import { shrinkWgsl } from "./shrinkWgsl.js";

export default defineConfig({
  root: import.meta.dirname,
  base: "./",
  publicDir: false,
  plugins: [shrinkWgsl],
  build: {
    target: "es2022",
    emptyOutDir: false,
    assetsInlineLimit: 0,
    modulePreload: false,
    rolldownOptions: {
      input: { "pconv-webgpu": new URL("../src/browser.ts", import.meta.url).pathname },
      preserveEntrySignatures: "strict",
      output: { entryFileNames: "[name].js", chunkFileNames: "assets/[name]-[hash].js" },
    },
  },
});
