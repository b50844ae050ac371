/** Whether it was the device that failed. */
import type { Gpu } from "../src/gpu/gpu.js";

/** Milliseconds in which a device that fails tells that it is lost. */
const GRACE_MS = 500;

/** Why the device was lost, or null when it works; to be asked after an error. */
export async function lossOf(gpu: Gpu): Promise<GPUDeviceLostInfo | null> {
  let timer: NodeJS.Timeout | undefined;
  const works = new Promise<null>((resolve) => (timer = setTimeout(() => resolve(null), GRACE_MS)));
  const info = await Promise.race([gpu.device.lost, works]);
  clearTimeout(timer);
  return info;
}

/** What a driver says of it, in a few words. */
export const lossText = ({ message, reason }: GPUDeviceLostInfo): string =>
  `the device was lost (${message.trim().split("\n")[0] || reason})`;
