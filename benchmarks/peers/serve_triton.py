"""NVIDIA Triton: the server and its Python backend as `nvidia-pytriton` packs them, without pytriton's own front.

Tuned by docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/optimization.html and
.../user_guide/model_execution.html (an instance a core), and .../protocol/extension_binary_data.html (a raw binary
request: the photo as it is). The package brings no ONNX Runtime backend: the networks run inside the Python model.
"""

import asyncio
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.peers.chain import Chain, PeerSettings

CONFIG = """
name: "search"
backend: "python"
max_batch_size: 0
input [ {{ name: "photo", data_type: TYPE_UINT8, dims: [ -1 ] }} ]
output [ {{ name: "answer", data_type: TYPE_UINT8, dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU, count: {workers} }} ]
"""


class TritonPythonModel:
    """The chain in an instance, as the Python backend wants it.

    Tensors cross as DLPack: the backend was built for numpy 1 and under numpy 2 misreads every array that it is handed.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the chain."""
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._chain = Chain(PeerSettings.load())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that Triton hands over together."""
        return self._runner.run(self._answer_all(requests))

    async def _answer_all(self, requests: list[Any]) -> list[Any]:
        return list(await asyncio.gather(*map(self._answer, requests)))

    async def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as backend  # exists inside an instance only

        photo = np.from_dlpack(backend.get_input_tensor_by_name(request, "photo")).tobytes()
        answer = np.frombuffer(
            bytearray(await self._chain.search(photo)), np.uint8
        )  # DLPack takes writable memory only
        return backend.InferenceResponse([backend.Tensor.from_dlpack("answer", answer)])


def main() -> None:
    settings = PeerSettings.load()
    package = Path(sysconfig.get_path("platlib")) / "pytriton/tritonserver"
    model, backend = settings.run_dir / "models/search", settings.run_dir / "backends/python"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG.format(workers=settings.workers))
    (model / "1/model.py").write_text(f"from {__spec__.name} import TritonPythonModel\n")
    backend.mkdir(parents=True)
    stub = package / f"python_backend_stubs/{sysconfig.get_python_version()}/triton_python_backend_stub"
    for file in (*(package / "backends/python").iterdir(), stub):
        (backend / file.name).symlink_to(file)
    # The stub embeds the interpreter: the one of this environment, with its packages.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    options = {
        "model-repository": str(model.parent),
        "backend-directory": str(backend.parent),
        "http-address": settings.host,
        "http-port": str(settings.port),
        "allow-grpc": "false",
        "allow-metrics": "false",
        "exit-timeout-secs": "5",
    }
    server = str(package / "bin/tritonserver")
    os.execv(server, [server, *(f"--{name}={value}" for name, value in options.items())])


if __name__ == "__main__":
    main()
