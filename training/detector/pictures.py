"""Draws photos with the subject's box and the detector's, to see what goes wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lookalike.detection import Detector
from lookalike.schemas import Box

WORST_PHOTOS = 30
_COLUMNS = 6
_CELL_PX = 240
_SUBJECT, _BEST, _FURTHER = "lime", "red", "orange"


def draw_worst(detector: Detector, worst: Sequence[tuple[Path, Box, float]], min_score: float) -> Image.Image:
    """Return a sheet of `worst`, each a photo, its subject's box and the IoU of the detector's best box.

    Green is the subject, red the best box, orange the next two; what has no red box fell back to the whole image.
    """
    rows = -(-len(worst) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL_PX, max(1, rows) * _CELL_PX), "white")
    for number, (path, subject, iou) in enumerate(worst):
        image = Image.open(path).convert("RGB")
        pixels = detector.preprocess.fit(image)[None]
        (detections,) = detector.detect(np.ascontiguousarray(pixels), [image.size], min_score)
        scale = (_CELL_PX - 6) / max(image.size)
        cell = image.resize((round(image.width * scale), round(image.height * scale)))
        draw = ImageDraw.Draw(cell)
        boxes = [(d.box, _FURTHER, 1) for d in detections[2:0:-1]] + [(d.box, _BEST, 3) for d in detections[:1]]
        for box, colour, width in [*boxes, (subject, _SUBJECT, 2)]:
            draw.rectangle([edge * scale for edge in box], outline=colour, width=width)
        score = f"{detections[0].score:.2f}" if detections else "none"
        draw.text((4, 4), f"IoU {iou:.2f}, score {score}", fill="white", stroke_width=2, stroke_fill="black")
        sheet.paste(cell, (number % _COLUMNS * _CELL_PX, number // _COLUMNS * _CELL_PX))
    return sheet
