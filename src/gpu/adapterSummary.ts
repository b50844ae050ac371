/** What is told of an adapter. */

/** What `openGpu` found. */
export interface AdapterSummary {
  /** For logs, such as `llvmpipe-llvm-15-0-6-256-bits- (mesa, software)`. */
  readonly name: string;
  readonly vendor: string;
  readonly description: string;
  /** A CPU pretending to be a GPU (lavapipe, SwiftShader, WARP). */
  readonly software: boolean;
  /** Lanes of a subgroup where there is one size only; `null` where it varies or is unknown. */
  readonly subgroupSize: number | null;
  /** Matrix products [m,k] x [k,n] that subgroups compute at once; the types are WGSL's. */
  readonly matrices: readonly MatrixShape[];
}

/** A product that the adapter's matrix units compute: m x k times k x n. */
export interface MatrixShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Type of the factors' elements, such as `f16`. */
  readonly factor: string;
  /** Type of the sums. */
  readonly sum: string;
}
