/** pconv-webgpu on Node: everything of the browser entry, and what reads and writes files. */
export * from "./exports.js";
export { openGpu, type OpenOptions } from "./gpu/node.js";
export { tuningFile } from "./gpu/tuningFile.js";
export { readPicture, readMask, type ReadOptions } from "./io/imageFile.js";
export { readStored, type StoredPicture } from "./io/storedPicture.js";
export type { PngChunk } from "./io/pngChunks.js";
export type { WarningListener } from "./io/folderList.js";
export { fillStored, viewsOf, type Views } from "./io/storedFill.js";
export { encodeStored, losslessFormat, type OutputFormat } from "./io/storedEncode.js";
export { ImageFolder, type ImageFolderOptions } from "./io/imageFolder.js";
export { MaskFolder, type MaskFolderOptions } from "./io/maskFolder.js";
export { encodePng, encodeMaskPng, writePicturePng, writeMaskPng } from "./io/png.js";
export { readWeightsFile } from "./io/weightsFile.js";
export { loadUNet } from "./io/unetFile.js";
export { loadVgg, type LoadVggOptions, VGG16_URL } from "./io/vggFile.js";
export { cachedDownload, type DownloadOptions, type DownloadProgress } from "./io/download.js";
export { EventWriter } from "./io/tensorboard.js";
export { RunFolder } from "./io/runFolder.js";
