"""The workflow that is measured, with other seeds each time so that nothing of it is in ComfyUI's cache."""

from __future__ import annotations

from pathlib import Path

from workers.comfyui.settings import BenchmarkSettings
from workers.comfyui.templates import read_template
from workers.comfyui.workflows import Workflow, with_random_integers

#: Of a worker's own folder; wins over the built-in workflow.
FILE_NAME = "benchmark.json"
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"


def stable_diffusion(width: int = 512, height: int = 512, steps: int = 20) -> Workflow:
    """One image of Stable Diffusion 1.5, with the checkpoint that ComfyUI's first template asks for."""
    text = {"clip": ["4", 1]}
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
                "seed": 0,
                "steps": steps,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": width, "height": height, "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse at dawn", **text}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry, text, watermark", **text}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "benchmark"}},
    }


class BenchmarkWorkflow:
    """Makes the workflows of the benchmark. Immutable."""

    def __init__(self, settings: BenchmarkSettings, folder: Path) -> None:
        """folder: of the worker. Raises `ConfigError` for a file that holds no workflow."""
        path = settings.path or folder / FILE_NAME
        if path.is_file():
            self._workflow = read_template(path).workflow
        else:
            self._workflow = stable_diffusion(settings.width, settings.height, settings.steps)

    def make(self) -> Workflow:
        """Another one each time."""
        return with_random_integers(self._workflow, reseeded=True)
