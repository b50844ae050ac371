/** The page: `npm run web` serves it, `npm run web:build` writes it to web/dist, for any sub-path of any static server. */
import { defineConfig, type Plugin } from "vite";
import { shrinkWgsl } from "./shrinkWgsl.js";

/** Nothing but the page's own files, no inline code; pictures may be blobs because downloads and pasted files are. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "worker-src 'self'",
  "style-src 'self'",
  "img-src 'self' blob: data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

/** Only in the built page: the development server puts styles and its client inline. */
const contentSecurityPolicy: Plugin = {
  name: "content-security-policy",
  apply: "build",
  transformIndexHtml: () => [
    { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: POLICY }, injectTo: "head-prepend" },
  ],
};

export default defineConfig({
  root: import.meta.dirname,
  base: "./",
  plugins: [contentSecurityPolicy, shrinkWgsl],
  worker: { format: "es", plugins: () => [shrinkWgsl] },
  build: {
    target: "es2022",
    // The preload helper of older browsers is of no use where WebGPU is.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    // In kB: HDF5, which the library fetches for weights of Keras and this page never does. All other chunks are below 200.
    chunkSizeWarningLimit: 5000,
  },
  server: { fs: { allow: [".."] } },
});
