"""Part of the build: generates the ``*_pb2`` modules before setuptools collects the package's files."""

from pathlib import Path

from setuptools.command.build_py import build_py


class BuildWithProtocols(build_py):  # type: ignore[misc]  # setuptools has no types
    """``build_py`` that first translates the ``.proto`` files, for wheels and for editable installs alike."""

    def run(self) -> None:
        """Generate, then build as usual; raises RuntimeError when a file cannot be translated."""
        generate()
        super().run()


def generate() -> None:
    """Translate every ``.proto`` file of this folder into modules beside it."""
    from grpc_tools import protoc

    here = Path(__file__).resolve().parent
    root = here.parents[2]
    files = sorted(str(path.relative_to(root)) for path in here.glob("*.proto"))
    outputs = [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{root}", *outputs, *files]):
        raise RuntimeError(f"protoc refused {', '.join(files)}")


if __name__ == "__main__":
    generate()
