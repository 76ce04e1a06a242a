"""Builds the device guard of a pretend GPU, and loads it into a process that has not imported torch yet."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["build_guard", "load_guard", "why_not"]

SOURCE = Path(__file__).with_name("guard.cpp")


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")  # finds it without importing it
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def why_not() -> str | None:
    """Why there can be no pretend GPU here, in words; None: there can."""
    if shutil.which("g++") is None:
        return "a pretend GPU wants g++, which is not installed"
    if not (_torch() / "lib" / "libtorch_cpu.so").exists():
        return "a pretend GPU wants torch on Linux"
    if (_torch() / "lib" / "libtorch_cuda.so").exists():
        return "a pretend GPU wants a CPU build of torch: this one knows CUDA itself"
    return None


def build_guard(folder: Path) -> Path:
    """Compile `guard.cpp`, which takes some seconds; the library's path."""
    library, torch = folder / "guard.so", _torch()
    includes = [f"-I{torch / 'include'}", f"-I{torch / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    flags = ["-O1", "-std=c++20", "-shared", "-fPIC"]
    libraries = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    command = ["g++", *flags, *includes, str(SOURCE), "-o", str(library), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{SOURCE.name} does not compile against this torch:\n{done.stderr[-3000:]}")
    return library


def load_guard(library: Path) -> None:
    """Register the guard; torch asks for a device's hooks once, while it is imported."""
    if "torch" in sys.modules:
        raise RuntimeError("the guard of the pretend GPU must be loaded before torch is imported")
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(_torch() / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))
