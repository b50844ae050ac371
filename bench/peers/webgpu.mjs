/**
 * `navigator.gpu` on Node for frameworks written for browsers: through Dawn, on the adapter that pconv-webgpu would take.
 * They wait as it does, without spinning: the ratio is to be the kernels', not that of a core that the adapter lost to polling.
 * Validation errors, which Dawn only prints, make the next `check` throw: what did not run must not be timed.
 */
import { create, globals } from "webgpu";
import { withoutSpinning } from "../../dist/src/gpu/dawnEvents.js";
import { enableCachedSwiftShader, hasVulkanLoader } from "../../tools/software-adapter.mjs";

if (!hasVulkanLoader()) enableCachedSwiftShader(); // as pconv-webgpu does, before Dawn looks
Object.assign(globalThis, globals);
for (const [type, names] of [
  [globals.GPUBuffer, ["mapAsync"]],
  [globals.GPUQueue, ["onSubmittedWorkDone"]],
  [globals.GPUDevice, ["createComputePipelineAsync", "popErrorScope"]],
]) {
  for (const name of names) {
    const original = type.prototype[name];
    type.prototype[name] = function (...args) {
      return withoutSpinning(() => original.apply(this, args));
    };
  }
}
const gpu = create([]);
let adapterName = null;
let failure = null;

/** Replaces `target[name]` by a function that passes its result through `then`. */
function tap(target, name, then) {
  const original = target[name].bind(target);
  target[name] = async (...args) => {
    const result = await original(...args);
    if (result) then(result);
    return result;
  };
}

tap(gpu, "requestAdapter", (adapter) => {
  const { vendor, device, description, architecture } = adapter.info;
  adapterName = `${device || description || architecture} (${vendor})`;
  tap(adapter, "requestDevice", (device) => {
    device.addEventListener("uncapturederror", (event) => {
      failure ??= new Error(`WebGPU: ${event.error.message.trim().split("\n")[0]}`);
    });
  });
});
// jax-js asks for the browser's name.
Object.defineProperty(globalThis, "navigator", { value: { gpu, userAgent: "node" }, configurable: true });

/** What the framework's adapter calls itself; null before it asked for one. */
export const adapter = () => adapterName;

/** @throws the first error that the device reported */
export function check() {
  if (failure) throw failure;
}
