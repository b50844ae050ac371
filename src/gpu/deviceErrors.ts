/** What a device reports by itself, as errors of this library. */
import { GpuError } from "../errors.js";
import { GpuMemoryError } from "./memoryError.js";

/** Tells `fail` of every error that no call got, and of the loss of the device unless it was `closed`. */
export function watchDevice(device: GPUDevice, closed: () => boolean, fail: (error: Error) => void): void {
  // Dawn only prints uncaptured errors and the process would exit with 0: keep the first one and fail the next call.
  device.onuncapturederror = (event) => {
    const memory = event.error.constructor.name === "GPUOutOfMemoryError";
    const message = event.error.message.trim().split("\n").slice(0, 6).join(" ");
    fail(
      memory
        ? new GpuMemoryError("GPU memory", message, "use a smaller image size, batch size or width")
        : new GpuError(
            "GPU",
            message,
            "this is a fault in a kernel or its caller; run with PCONV_WGSL=1 to print the WGSL sources",
          ),
    );
  };
  void device.lost.then((info) => {
    if (closed()) return;
    fail(
      new GpuError(
        "GPU",
        `the device was lost (${info.reason ?? "unknown"}): ${info.message}`,
        "open the GPU again; if it happens repeatedly, use a smaller image size or batch size, or update the driver",
      ),
    );
  });
}
