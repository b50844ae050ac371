/// <reference types="@webgpu/types" preserve="true" />
/** What both entries export; see index.ts and browser.ts for how a device is opened and files are read. */
export { FormatError, GpuError, ShapeError, UserError } from "./errors.js";
export { GpuMemoryError } from "./gpu/memoryError.js";

// Device
export type { AdapterSummary, MatrixShape } from "./gpu/adapterSummary.js";
export { Gpu, type Grid } from "./gpu/gpu.js";
export { type Access, defineKernel, type Kernel, type Scalar } from "./gpu/kernel.js";
export { linearGrid, linearMain } from "./gpu/linear.js";
export type { MemoryUse, Storage } from "./gpu/pool.js";
export { profile, type KernelTime, type Profile } from "./gpu/timing.js";

// Autograd
export { Mask, type Precision, Tensor } from "./autograd/tensor.js";
export { Tape, type Backward, type TapeOptions, type Watched } from "./autograd/tape.js";
export { leakyRelu, relu, sigmoid } from "./autograd/ops/activation.js";
export { batchNorm } from "./autograd/ops/batchNorm.js";
export { channelAffine, denormalizeImageNet, IMAGENET, normalizeImageNet } from "./autograd/ops/channelAffine.js";
export { composite } from "./autograd/ops/composite.js";
export { concat } from "./autograd/ops/concat.js";
export { conv2d, type Conv2dOptions, type FusedConv2dOptions, type KnownElsewhere } from "./autograd/ops/conv2d.js";
export { gram } from "./autograd/ops/gram.js";
export { l1, type L1OpOptions } from "./autograd/ops/l1.js";
export type { L1Region } from "./kernels/l1.js";
export type { TvRegion } from "./kernels/totalVariation.js";
export { maskMultiply } from "./autograd/ops/maskMultiply.js";
export type { Live } from "./autograd/ops/convGradients.js";
export type { BatchNormOptions, BatchNormTensors } from "./autograd/ops/normalize.js";
export { pconv2d, pconv2dUp, type PConv2dOptions, type PConvRule, type PConvTail } from "./autograd/ops/pconv2d.js";
export type { MaskedSource } from "./autograd/ops/pconvSums.js";
export { maxPool2d } from "./autograd/ops/maxPool2d.js";
export { dilateHole, totalVariation, type TotalVariationOpOptions } from "./autograd/ops/totalVariation.js";
export { joinMasks, upsampleNearest } from "./autograd/ops/upsample.js";
export { weightedSum } from "./autograd/ops/weightedSum.js";

// Layers and optimizer
/** Layers with PyTorch's names and options. */
export * as nn from "./nn/index.js";
export { Adam, type AdamConfig } from "./optim/adam.js";
export { Ema } from "./optim/ema.js";
export { LossScaler, type LossScalerConfig } from "./optim/lossScaler.js";
export type { ProcessGroup } from "./optim/processGroup.js";
export type { ExchangeTime } from "./optim/deviceGroup.js";
export type { BatchRanks } from "./kernels/batchNormStats.js";
export type { LossScaleStep, ScaleProgress } from "./kernels/lossScale.js";

// Kernels' launchers
export {
  maskUpdate,
  type MaskUpdateBuffers,
  type MaskUpdateShape,
  type MaskUpdateSpec,
  type PConvConvention,
} from "./kernels/maskUpdate.js";
export { pconvForward, type PConvForwardBuffers } from "./kernels/pconvForward.js";
export { pconvBackwardInput, type PConvBackwardInputBuffers } from "./kernels/pconvBackwardInput.js";
export { pconvBackwardWeight, type PConvBackwardWeightBuffers } from "./kernels/pconvBackwardWeight.js";
export type { ConvBackend } from "./kernels/conv/choice.js";
export type { ConvAlgorithm } from "./kernels/conv/engine.js";
export type { RunningVariance } from "./kernels/batchNormStats.js";
export { transposeWeight } from "./kernels/transposeWeight.js";
export type { ActivationShape, ConvShape } from "./kernels/shape.js";

// Speed of the convolutions: run-time tuning, and the operations that they take
export { FlopCounter, type Flops } from "./kernels/conv/flopCounter.js";
export type { ConvCall } from "./kernels/conv/tuned.js";
export {
  collectConvolutions,
  tuneConvolutions,
  type TuneMode,
  type TuneOptions,
  type TuneReport,
} from "./kernels/conv/tuning.js";
export type { TuningStore } from "./gpu/tuningStore.js";
export { tuneInference, tuneTraining, type TunedStep } from "./pconv/tuneNetwork.js";

// Inpainting
export { type FrozenBatchNorm, PConvUNet, unetConfig, type UNetConfig } from "./pconv/unet.js";
export {
  findUNet,
  type SkippedTensor,
  unetFromCheckpoint,
  unetToSafetensors,
  type UNetWeights,
} from "./pconv/unetWeights.js";
export { unetToOnnx } from "./pconv/unetOnnx.js";
export { unetToPort } from "./pconv/unetPort.js";
export { Vgg, type VggFeatures } from "./pconv/vgg.js";
export {
  foldInputShift,
  vggFromCaffe,
  vggFromTensors,
  type VggConvention,
  type VggWeights,
} from "./pconv/vggWeights.js";
export {
  InpaintingLoss,
  type InpaintingLossConfig,
  type InpaintingLossResult,
  LOSS_TERMS,
  LOSS_WEIGHTS,
  type LossTerm,
  type LossVariant,
} from "./pconv/loss.js";
export { learningRate, LR_SCHEDULES, type LearningRate, type LrSchedule } from "./pconv/learningRate.js";
export { reestimateStatistics, type ReestimateOptions } from "./pconv/reestimate.js";
export { Trainer, type StepReport, type TrainerConfig } from "./pconv/trainer.js";
export { defaultTile, inpaint, type Inpainted, type InpaintOptions, type InpaintProgress } from "./pconv/inpaint.js";
export { l1Percent, psnr } from "./pconv/metrics.js";
export { ssim } from "./pconv/ssim.js";
export { vggDistance } from "./pconv/vggDistance.js";
export { diffusionFill, meanFill } from "./pconv/baselines.js";
export { evaluationMask, evaluationPicture } from "./pconv/evaluationSize.js";
export {
  averageByBin,
  type BinQuality,
  evaluate,
  type EvaluatedPair,
  type EvaluationRequest,
  type FillMethod,
  HOLE_BINS,
  MaskBins,
  type Quality,
} from "./pconv/evaluate.js";
export { grid, hstack, maskToPicture } from "./pconv/contactSheet.js";
export { holeRatio, type MaskPicture, type MaskSource, type Picture, type PictureSource } from "./pconv/picture.js";
export { binariseMask, type BinarisedMask, type HoleColour, MASK_THRESHOLD } from "./pconv/maskAugment.js";
export { generateMask, type IntegerRange, type RandomMaskOptions, RandomMaskSource } from "./pconv/randomMask.js";
export { generateStrokes } from "./pconv/strokes.js";
export { varyMask } from "./pconv/maskAugment.js";
export { occlusionMasks } from "./pconv/occlusion.js";
export { opticalFlow, type Flow } from "./pconv/opticalFlow.js";
export { deadLeaves, DeadLeavesSource } from "./pconv/deadLeaves.js";
export { Rng } from "./pconv/rng.js";

// Weight files in memory
export type { WeightSource } from "./io/source.js";
export { readWeights, type Weights } from "./io/weights.js";
export type { TensorDtype, TensorEntry } from "./io/tensorEntry.js";
export { readSafetensors, type SafetensorsFile, type TensorToWrite, writeSafetensors } from "./io/safetensors.js";
