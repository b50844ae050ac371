/** Where SwiftShader comes from: npm package, version, size and digest of its tarball, what is taken out of it. */
export declare const SWIFTSHADER: {
  readonly spec: string;
  readonly version: string;
  readonly tarballMegabytes: number;
  readonly integrity: string;
  readonly archive: string;
  readonly files: readonly string[];
};

/** `$XDG_CACHE_HOME/pconv-webgpu`, or `~/.cache/pconv-webgpu`. */
export declare function cacheFolder(): string;
/** Where setup unpacks SwiftShader. */
export declare function swiftShaderFolder(): string;
export declare function isSwiftShaderCached(): boolean;
export declare function canRunSwiftShader(): boolean;
/** The user's own choice of Vulkan drivers as `NAME=value`, or undefined. */
export declare function chosenDrivers(): string | undefined;
/** Whether `libvulkan.so.1` can be loaded (always true where Vulkan is not what Dawn uses). */
export declare function hasVulkanLoader(): boolean;
/** The command that sets up a software adapter, from the current folder. */
export declare function setupCommand(): string;
/** See `src/gpu/softwareAdapter.ts`. */
export declare function enableCachedSwiftShader(): boolean;

export interface SystemKind {
  /** As the system calls itself, e.g. `Debian GNU/Linux 12 (bookworm)`. */
  name: string;
  family: "debian" | "fedora" | "arch" | "suse" | "alpine" | "other";
  /** Of Debian itself, not of what derives from it. */
  debianCodename: string | undefined;
}
export declare function describeSystem(osRelease?: string): SystemKind;
export declare function installAdvice(about?: {
  platform?: NodeJS.Platform;
  system?: SystemKind;
  chosen?: string;
}): string;
