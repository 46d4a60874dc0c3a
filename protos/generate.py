"""Regenerate the protobuf modules: `python -m protos.generate [OUT]`."""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent


def generate(out: Path) -> None:
    """Write the generated modules of every `.proto` below `out/freshet/v1`.

    Raises:
        RuntimeError: protoc refused a file; it has printed why.
    """
    sources = sorted(str(path) for path in (ROOT / "freshet" / "v1").glob("*.proto"))
    includes = [str(ROOT), str(files("grpc_tools") / "_proto")]
    # google/rpc/*.proto ships inside googleapis-common-protos, next to its generated modules.
    import google.rpc.status_pb2 as status

    includes.append(str(Path(status.__file__).parents[2]))
    # The plug-ins are scripts beside this interpreter, whose folder need not be on PATH.
    scripts = Path(sys.executable).parent
    code = protoc.main(
        [
            "protoc",
            *(f"-I{path}" for path in includes),
            *(f"--plugin={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
            f"--python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet:{out}",
            *sources,
        ]
    )
    if code:
        raise RuntimeError(f"protoc exited with {code}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
