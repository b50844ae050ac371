/** pconv-webgpu in a browser: nothing of Node. */
export * from "./exports.js";
export { openGpu } from "./gpu/browser.js";
