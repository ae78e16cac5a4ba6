"""Virtual environments for the peers: what is installed in each, how it is made once and used again.

PyTorch is the same release everywhere, the build for CPUs (pip's own settings decide where it
comes from). torchvision is left out: packages that insist on it are installed with `--no-deps`, after what
they really import here.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"


class PeerError(Exception):
    """A peer cannot be installed or run; the message says why."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment."""

    name: str
    installs: tuple[tuple[str, ...], ...]
    """Arguments of `pip install`, one call after the other."""
    python: str = "python3.11"
    """Interpreter to make it with; packages may have wheels for some alone."""


ENVIRONMENTS = {
    one.name: one
    for one in (
        Environment(
            "diffusers",
            ((TORCH, "diffusers==0.42.1", "transformers==5.23.0", "accelerate", "pillow"),),
        ),
        Environment(
            "openvino",
            (
                (
                    TORCH,
                    "openvino==2026.4.1",
                    "nncf",
                    "openvino-tokenizers",
                    "diffusers",
                    "transformers<5.6",
                    "huggingface-hub<1.22",
                    "accelerate",
                    "optimum==2.3.0",
                    "setuptools",
                    "requests",
                    "pillow",
                ),
                ("--no-deps", "optimum-intel==2.2.0"),  # insists on torchvision
            ),
        ),
        Environment(
            "onnxruntime",
            (
                (
                    TORCH,
                    "onnxruntime",
                    "onnx",
                    "optimum~=2.1.0",
                    "transformers<4.58",
                    "diffusers",
                    "accelerate",
                    "optimum-onnx",
                    "pillow",
                ),
            ),
        ),
        Environment(
            "pruna",
            (
                (
                    TORCH,
                    "torchao<0.17",
                    "diffusers==0.42.1",
                    "transformers",
                    "accelerate",
                    "pillow",
                    "aenum",
                    "codecarbon",
                    "colorama",
                    "configspace",
                    "datasets",
                    "hqq==0.2.7.post1",
                    "imageio-ffmpeg",
                    "huggingface-hub[hf-xet]",
                    "jaxtyping",
                    "kernels<0.15.0,>=0.12.0",
                    "numpydoc",
                    "nvidia-ml-py",
                    "opencv-python-headless",
                    "opentelemetry-api",
                    "opentelemetry-sdk",
                    "opentelemetry-exporter-otlp",
                    "openvino",
                    "optimum-quanto",
                    "peft<0.19.0,>=0.18.0",
                    "sentencepiece",
                    "soundfile",
                    "termcolor==2.3.0",
                    "torch-pruning",
                    "torchmetrics",
                    "httpx",
                ),
                # Pruna 0.3.4 imports what the second release of huggingface-hub no longer has.
                ("--no-deps", "huggingface-hub>=1.22,<2"),
                # These insist on torchvision, or on what needs it.
                (
                    "--no-deps",
                    "pruna==0.3.4",
                    "DeepCache",
                    "pytorch-lightning",
                    "timm",
                    "trl==0.21.0",
                    "thop",
                    "piq",
                    "gliner",
                    "lightning-utilities",
                    "torch-fidelity",
                    "bitsandbytes",
                ),
            ),
        ),
        Environment("inferna", (("inferna", "numpy", "safetensors", "pillow"),), "python3.12"),
    )
}


def interpreter(environment: Environment, venvs: Path, pythons: tuple[str, ...]) -> Path:
    """Python of an environment, which is made where it is not there yet.

    Args:
        pythons: interpreters to choose from before those on the search path, such as "/opt/bin/python3.12".

    Raises:
        PeerError: no interpreter fits, or pip failed; with its reason.
    """
    folder = venvs / environment.name
    python, marker = folder / "bin" / "python", folder / "installed.json"
    if marker.exists() and json.loads(marker.read_text("utf-8")) == [
        list(one) for one in environment.installs
    ]:
        return python
    if not python.exists():
        known = [one for one in pythons if Path(one).name == environment.python]
        maker = known[0] if known else shutil.which(environment.python)
        if maker is None:
            raise PeerError(f"{environment.python} is not installed; give one with --python.")
        _call([maker, "-m", "venv", str(folder)])
    for packages in environment.installs:
        _call([str(python), "-m", "pip", "install", "--quiet", *packages])
    marker.write_text(json.dumps(environment.installs), encoding="utf-8")
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{' '.join(command[1:4])} failed: {reason(done.stderr or done.stdout)}")


def reason(text: str) -> str:
    """The line of an error's output that says most: the last error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "ERROR" in line]
    return (errors or lines or ["no message"])[-1][:300]
