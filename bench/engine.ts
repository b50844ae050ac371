/** The kernels of the convolution engine, of which a convolution runs those that the adapter and the shape call for. */
export const ENGINE_KERNELS: readonly string[] = [
  ...["gatherColumn", "gatherColumnSubgroup", "columnCount"],
  ...["gatherRegister", "gatherSubgroup", "gatherWorkgroup", "gatherMatrix", "gatherFinish", "liveBits", "liveOrder"],
  ...["weightRegister", "weightSubgroup", "liveRows", "weightWorkgroup", "weightMatrix"],
  ...[
    "winogradInput",
    "winogradOutput",
    "winogradGradient",
    "winogradLive",
    "winogradWeight",
    "winogradWeightBackward",
  ],
  ...["spaceToDepth", "depthToSpace", "phaseMask"],
  ...["gatherCount", "weightCount"], // where operations are counted, which is after the timing
];
