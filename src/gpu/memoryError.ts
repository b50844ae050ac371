/** The device has no room for what was asked. */
import { GpuError } from "../errors.js";

/** An allocation that the adapter refused, or that went over the limit that it was opened with. Less work may fit. */
export class GpuMemoryError extends GpuError {}
