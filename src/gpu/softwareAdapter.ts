/**
 * The software adapter of last resort on Node: a SwiftShader that `tools/setup-adapter.mjs` put into the user's cache
 * folder where it could not install a driver. Node only.
 *
 * The work is in `tools/software-adapter.mjs`, which setup must be able to run before anything is built.
 */
import * as shared from "#software-adapter";

/**
 * Makes the cached SwiftShader visible to Dawn in this process, from the next `create([])` of `webgpu` on: an instance
 * that exists already has looked for Vulkan and does not look again.
 *
 * Call it only when Dawn has found no adapter at all, or cannot ({@link hasVulkanLoader} is false): it limits an
 * installed Vulkan loader to SwiftShader. It sets `VK_DRIVER_FILES` and `VK_ICD_FILENAMES`, or, where the system has no
 * loader, loads SwiftShader's and sets `VK_ADD_DRIVER_FILES`; child processes inherit these and must call it too.
 *
 * @returns false where it can change nothing: nothing cached, not Linux with glibc on x86-64, the user's own
 *   `VK_DRIVER_FILES` says otherwise, or a worker thread whose main thread has not done this (a worker's environment is
 *   a copy that native code never sees).
 */
export function enableCachedSwiftShader(): boolean {
  return shared.enableCachedSwiftShader();
}

/**
 * Whether the system's Vulkan loader can be loaded; true on systems where Dawn needs none.
 * When false, Dawn would find nothing and print a warning: {@link enableCachedSwiftShader} may then be called first.
 */
export function hasVulkanLoader(): boolean {
  return shared.hasVulkanLoader();
}

/** What to install on this system so that there is an adapter: one line, for the `help:` of an error. */
export function adapterHelp(): string {
  const advice = shared.installAdvice();
  if (!shared.canRunSwiftShader() || shared.chosenDrivers() !== undefined) return advice;
  return `run \`${shared.setupCommand()}\`, which sets up a software adapter (no root needed); or ${advice}`;
}
