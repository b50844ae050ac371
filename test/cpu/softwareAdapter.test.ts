import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { describeSystem, installAdvice } from "#software-adapter";
import { adapterHelp, enableCachedSwiftShader } from "../../src/gpu/softwareAdapter.js";

const advise = (osRelease: string) => installAdvice({ platform: "linux", system: describeSystem(osRelease) });

beforeEach(() => {
  for (const name of ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]) vi.stubEnv(name, "");
});
afterEach(() => vi.unstubAllEnvs());

describe("what to install", () => {
  test.each([
    ["Debian 12", 'PRETTY_NAME="Debian"\nID=debian\nVERSION_CODENAME=bookworm', "-t bookworm-backports"],
    ["Debian 13", "ID=debian\nVERSION_CODENAME=trixie", "--no-install-recommends mesa-vulkan-drivers"],
    ["Ubuntu", "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble", "--no-install-recommends mesa-vulkan-drivers"],
    ["Mint", 'ID=linuxmint\nID_LIKE="ubuntu debian"', "--no-install-recommends mesa-vulkan-drivers"],
    ["Fedora", "ID=fedora", "dnf install -y mesa-vulkan-drivers"],
    ["Rocky", 'ID="rocky"\nID_LIKE="rhel centos fedora"', "dnf install -y mesa-vulkan-drivers"],
    ["Arch", "ID=arch", "pacman -S vulkan-swrast"],
    ["openSUSE", 'ID="opensuse-leap"\nID_LIKE="suse opensuse"', "zypper install"],
    ["Alpine", "ID=alpine", "glibc"],
    ["an unknown Linux", "", "libvulkan.so.1"],
  ])("on %s", (_, osRelease, words) => {
    expect(advise(osRelease)).toContain(words);
  });

  test("a derivative's code name is not taken for Debian's", () => {
    expect(advise("ID=kali\nID_LIKE=debian\nVERSION_CODENAME=bookworm")).not.toContain("backports");
  });
});

test("the user's own choice of drivers stands, and the help names it", () => {
  vi.stubEnv("VK_DRIVER_FILES", "/no/such/driver.json");
  expect(enableCachedSwiftShader()).toBe(false);
  expect(process.env["VK_DRIVER_FILES"]).toBe("/no/such/driver.json");
  expect(adapterHelp()).toContain("unset VK_DRIVER_FILES");
});
