"""How much work a workflow is. Pure.

An image of 1024 x 1024 pixels with 28 steps is 200 units, as for the image models of the service's older
workers: 85 and 175 for each started tile of 512 x 512 pixels, times (0.61 * steps + 6.57). A workflow that
does not say its size and steps counts 100, as each request of the service's current ComfyUI worker does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from workers.comfyui.workflows import as_object, is_whole

#: Of a workflow whose size or steps are unknown.
FLAT = 100.0
#: A client may write any number into its workflow; one that no node takes must not keep others out.
MOST = 20_000.0

_TILE = 512
# ComfyUI's own limits.
_MOST_PIXELS = 16384
_MOST_STEPS = 10_000
_MOST_IMAGES = 4096


def image_units(width: int, height: int, steps: int) -> float:
    """The work of one image."""
    tiles = math.ceil(width / _TILE) * math.ceil(height / _TILE)
    return 200 * _raw(tiles, steps) / _raw(4, 28)


def _raw(tiles: int, steps: int) -> float:
    return (85 + 175 * tiles) * (0.61 * steps + 6.57)


def units(workflow: Mapping[str, Any], cached: Collection[str] = ()) -> float:
    """The work of the nodes that are not cached. Linear in the number of nodes."""
    size = max(_sizes(workflow), default=None)
    samplers = list(_samplers(workflow))
    if size is None or not samplers:
        fresh = sum(node_id not in cached for node_id in workflow)
        return FLAT * fresh / max(len(workflow), 1)
    _, width, height, images = size
    work = sum(image_units(width, height, steps) for node_id, steps in samplers if node_id not in cached)
    return min(work * images, MOST)


def _sizes(workflow: Mapping[str, Any]) -> Iterator[tuple[int, int, int, int]]:
    """Of each node that a generation starts from (`EmptyLatentImage` and its like): pixels in all, width,
    height, images.

    Frames of a video count, too: its models keep one of four.
    """
    for node in workflow.values():
        inputs = as_object(node["inputs"])
        width, height = inputs.get("width"), inputs.get("height")
        if node["class_type"].startswith("Empty") and is_whole(width) and is_whole(height):
            width, height = _within(width, _MOST_PIXELS), _within(height, _MOST_PIXELS)
            frames = (_number(inputs.get("length"), _MOST_IMAGES) - 1) // 4 + 1
            images = _number(inputs.get("batch_size"), _MOST_IMAGES) * frames
            yield width * height * images, width, height, images


def _samplers(workflow: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Id and steps of each node that names its steps; of those it was given a part of, only these."""
    for node_id, node in workflow.items():
        inputs = as_object(node["inputs"])
        steps = inputs.get("steps")
        if is_whole(steps):
            steps = _within(steps, _MOST_STEPS)
            first, end = inputs.get("start_at_step"), inputs.get("end_at_step")
            if is_whole(end):
                steps = max(min(end, steps), 0)
            if is_whole(first):
                steps = max(steps - max(first, 0), 0)
            yield node_id, steps


def _number(value: object, most: int) -> int:
    return _within(value, most) if is_whole(value) else 1


def _within(value: int, most: int) -> int:
    return min(max(value, 1), most)
