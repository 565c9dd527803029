"""The boards whose processors are emulated, and what /proc/cpuinfo says on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """An instruction set.

    debian: its name there. qemu: the emulator of its programs. magic, mask: how binfmt_misc knows them, as hexadecimal
    bytes of an ELF header. platforms: tags of the wheels that run there. wheels: what pip installs, ``{wheel}`` being
    lcr_edge's. engines: those of lcr_edge that there are wheels for. packages: of Debian, next to Python.
    """

    debian: str
    qemu: str
    magic: str
    mask: str
    platforms: tuple[str, ...]
    wheels: tuple[str, ...]
    engines: tuple[str, ...]
    packages: tuple[str, ...] = ()


def _header(bits: int, machine: int) -> str:
    """The first bytes of a little-endian ELF executable."""
    return f"7f454c46 {bits:02x}0101 00 0000000000000000 0200 {machine:02x}00"


# The byte of the ABI may be anything, and programs are position-independent or not.
_MASK = "ffffffff ffffff 00 ffffffffffffffff feff ffff"
ARM64 = Arch(
    "arm64",
    "qemu-aarch64-static",
    _header(2, 0xB7),
    _MASK,
    tuple(f"manylinux_2_{minor}_aarch64" for minor in (35, 34, 31, 28, 27, 17)),
    ("{wheel}[onnx,openvino,tflite,video]", "onnx", "pytest", "hypothesis"),
    ("onnx", "openvino", "tflite"),
)
# There is no numpy wheel for it, so numpy is Debian's, and no engine but the older one of TFLite.
ARMHF = Arch(
    "armhf",
    "qemu-arm-static",
    _header(1, 0x28),
    _MASK,
    ("manylinux_2_34_armv7l",),
    ("--no-deps", "tflite-runtime==2.14.0"),
    ("tflite",),
    ("python3-numpy",),
)


@dataclass(frozen=True)
class Board:
    """A board. cpu: its processor, as the emulator calls it. part, features: as in its /proc/cpuinfo."""

    name: str
    cpu: str
    arch: Arch
    part: int
    features: str

    def cpuinfo(self) -> str:
        """/proc/cpuinfo of four cores. The emulator shows the host's, in which onnxruntime looks for ARM in vain."""
        core = (
            "processor\t: {}\n"
            f"BogoMIPS\t: 108.00\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: {8 if self.arch is ARM64 else 7}\nCPU variant\t: 0x0\n"
            f"CPU part\t: 0x{self.part:x}\nCPU revision\t: 3\n\n"
        )
        return "".join(core.format(number) for number in range(4)) + f"Model\t\t: {self.name}\n"


_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
BOARDS = (
    Board("Raspberry Pi 5", "cortex-a76", ARM64, 0xD0B, _V8),
    Board("Raspberry Pi 4", "cortex-a72", ARM64, 0xD08, "fp asimd evtstrm crc32 cpuid"),
    Board(
        "Raspberry Pi 2",
        "cortex-a7",
        ARMHF,
        0xC07,
        "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32",
    ),
)
