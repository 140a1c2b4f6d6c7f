"""Compile the library, once for each state of its source, and let programs find it instead of the driver's own."""

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from tangram.errors import MissingTool, SandboxError
from tangram.folders import cache_folder

LIBRARY = "libnvidia-ml.so.1"
"""The name by which programs load NVML."""
STATE_VARIABLE = "TANGRAM_NVML"
"""Environment variable with the path of the file that ``state.write`` writes."""
_SOURCES = Path(__file__).parent
_COMPILERS = ("cc", "gcc", "clang")
_UNSUPPORTED = "int {0}(void);\n__attribute__((weak)) int {0}(void) {{ return 3; }}\n"


def build_mock() -> Path:
    """The compiled library, from the cache where it is there; its folder goes into ``LD_LIBRARY_PATH``.

    Every function of the NVML bindings exists: those that the sources leave out answer NVML_ERROR_NOT_SUPPORTED.
    Raises ``MissingTool`` without a C compiler, ``SandboxError`` with the compiler's words when it fails.
    """
    sources = [*sorted(_SOURCES.glob("*.[ch]"))]
    unsupported = "".join(_UNSUPPORTED.format(name) for name in _functions_of_bindings())
    digest = hashlib.sha256(unsupported.encode())
    for source in sources:
        digest.update(source.read_bytes())
    library = cache_folder() / "nvml" / digest.hexdigest()[:16] / LIBRARY
    if not library.exists():
        _compile([source for source in sources if source.suffix == ".c"], unsupported, library)
    return library


def environment(state: Path) -> dict[str, str]:
    """What a program's environment needs in addition, so that it sees the GPUs of a state file."""
    folders = [str(build_mock().parent), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"LD_LIBRARY_PATH": ":".join(filter(None, folders)), STATE_VARIABLE: str(state)}


def load_here() -> None:
    """Make this very process find the library; which state file it reads is still for the environment to say.

    The loader knows libraries by the name that is written in them, so whoever asks for NVML later gets this one.
    Has no effect when the process has loaded a real one before.
    """
    ctypes.CDLL(str(build_mock()), mode=ctypes.RTLD_GLOBAL)


def _functions_of_bindings() -> list[str]:
    """Names of the C functions that the Python bindings call, without importing them."""
    spec = importlib.util.find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise MissingTool("pynvml: install nvidia-ml-py, the bindings that the library is made for")
    return sorted(set(re.findall(r'_nvmlGetFunctionPointer\("(nvml\w+)"\)', Path(spec.origin).read_text())))


def _compile(sources: list[Path], unsupported: str, library: Path) -> None:
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise MissingTool("no C compiler: install gcc or clang, or name one in $CC")
    library.parent.mkdir(parents=True, exist_ok=True)
    temporary = library.with_name(f"{LIBRARY}.{os.getpid()}.part")
    stubs = library.with_name(f"unsupported.{os.getpid()}.c")
    stubs.write_text(unsupported)
    options = ["-O1", "-fPIC", "-shared", "-pthread", f"-Wl,-soname,{LIBRARY}"]
    try:
        answer = subprocess.run(
            [*compiler.split(), *options, "-o", temporary, *sources, stubs], capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            raise SandboxError(f"{compiler} could not compile the mock of NVML:\n{answer.stderr.strip()}")
        temporary.replace(library)
    except OSError as error:
        raise MissingTool(f"{compiler}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
        stubs.unlink(missing_ok=True)
