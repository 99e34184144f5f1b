"""The node types that the stand-in knows, and what each of them computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
_MOST_PIXELS = 16384
_SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m", "ddim")
_SCHEDULERS = ("normal", "karras", "simple")
_UPSCALE = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
_BLEND = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")


@dataclass(frozen=True)
class Input:
    """An input of a node.

    kind: INT, FLOAT, STRING, FILE (one that was uploaded), the type of a link, or the allowed values.
    """

    kind: str | tuple[str, ...]
    minimum: float | None = None
    maximum: float | None = None
    required: bool = True

    @property
    def config(self) -> list[Any]:
        """As ComfyUI describes it in errors."""
        if isinstance(self.kind, tuple):
            return [list(self.kind), {}]
        limits = {"min": self.minimum, "max": self.maximum}
        return [self.kind, {name: value for name, value in limits.items() if value is not None}]


@dataclass(frozen=True)
class Image:
    """What runs along a link of type IMAGE."""

    width: int
    height: int
    colour: int
    count: int = 1


#: What a node makes of its inputs.
Compute = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class NodeType:
    """A class of nodes. saves: where its images go (output or temp); steps: it reports its progress."""

    inputs: Mapping[str, Input]
    returns: tuple[str, ...] = ()
    compute: Compute = field(default=lambda inputs: tuple(sorted(map(str, inputs))))
    saves: str = ""
    steps: bool = False

    @property
    def is_output(self) -> bool:
        return bool(self.saves)


def _pixels(minimum: int = 1) -> Input:
    return Input("INT", minimum, _MOST_PIXELS)


def _scaled(inputs: Mapping[str, Any]) -> Image:
    image: Image = inputs["image"]
    return Image(inputs["width"] or image.width, inputs["height"] or image.height, image.colour, image.count)


def _blended(inputs: Mapping[str, Any]) -> Image:
    one, two = inputs["image1"], inputs["image2"]
    share = inputs["blend_factor"]
    parts = [
        round((one.colour >> shift & 255) * (1 - share) + (two.colour >> shift & 255) * share)
        for shift in (16, 8, 0)
    ]
    return Image(one.width, one.height, int.from_bytes(bytes(parts), "big"), one.count)


def _latent(inputs: Mapping[str, Any]) -> Image:
    return Image(inputs["width"], inputs["height"], 0, inputs["batch_size"])


def _sampled(inputs: Mapping[str, Any]) -> Image:
    latent: Image = inputs["latent_image"]
    return Image(latent.width, latent.height, inputs["seed"] % 2**24, latent.count)


NODES: Mapping[str, NodeType] = {
    "EmptyImage": NodeType(
        {
            "width": _pixels(),
            "height": _pixels(),
            "batch_size": Input("INT", 1, 4096),
            "color": Input("INT", 0, 0xFFFFFF),
        },
        ("IMAGE",),
        lambda inputs: Image(inputs["width"], inputs["height"], inputs["color"], inputs["batch_size"]),
    ),
    "ImageScale": NodeType(
        {
            "image": Input("IMAGE"),
            "upscale_method": Input(_UPSCALE),
            "width": _pixels(0),
            "height": _pixels(0),
            "crop": Input(("disabled", "center")),
        },
        ("IMAGE",),
        _scaled,
    ),
    "ImageBlend": NodeType(
        {
            "image1": Input("IMAGE"),
            "image2": Input("IMAGE"),
            "blend_factor": Input("FLOAT", 0.0, 1.0),
            "blend_mode": Input(_BLEND),
        },
        ("IMAGE",),
        _blended,
    ),
    "SaveImage": NodeType(
        {"images": Input("IMAGE"), "filename_prefix": Input("STRING")},
        compute=lambda inputs: inputs["images"],
        saves="output",
    ),
    "PreviewImage": NodeType(
        {"images": Input("IMAGE")}, compute=lambda inputs: inputs["images"], saves="temp"
    ),
    "CheckpointLoaderSimple": NodeType({"ckpt_name": Input((CHECKPOINT,))}, ("MODEL", "CLIP", "VAE")),
    "CLIPTextEncode": NodeType({"text": Input("STRING"), "clip": Input("CLIP")}, ("CONDITIONING",)),
    "EmptyLatentImage": NodeType(
        {
            "width": Input("INT", 16, _MOST_PIXELS),
            "height": Input("INT", 16, _MOST_PIXELS),
            "batch_size": Input("INT", 1, 4096),
        },
        ("LATENT",),
        _latent,
    ),
    "KSampler": NodeType(
        {
            "model": Input("MODEL"),
            "seed": Input("INT", 0, 2**64 - 1),
            "steps": Input("INT", 1, 10000),
            "cfg": Input("FLOAT", 0.0, 100.0),
            "sampler_name": Input(_SAMPLERS),
            "scheduler": Input(_SCHEDULERS),
            "positive": Input("CONDITIONING"),
            "negative": Input("CONDITIONING"),
            "latent_image": Input("LATENT"),
            "denoise": Input("FLOAT", 0.0, 1.0),
        },
        ("LATENT",),
        _sampled,
        steps=True,
    ),
    "VAEDecode": NodeType(
        {"samples": Input("LATENT"), "vae": Input("VAE")}, ("IMAGE",), lambda inputs: inputs["samples"]
    ),
    "LoadImage": NodeType({"image": Input("FILE")}, ("IMAGE",), lambda inputs: inputs["image"]),
    # A node of the stand-in's own: an image that takes some steps, without any model.
    "SlowImage": NodeType(
        {
            "width": _pixels(),
            "height": _pixels(),
            "steps": Input("INT", 1, 10000),
            "seed": Input("INT", 0, 2**64 - 1),
        },
        ("IMAGE",),
        lambda inputs: Image(inputs["width"], inputs["height"], inputs["seed"] % 2**24),
        steps=True,
    ),
}
