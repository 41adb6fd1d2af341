"""A small real label task: two labels that differ in colour, a mean-colour embedder for it, and its files."""

from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.embedding import Embedder
from lookalike.preprocessing import Preprocess

PREPROCESS = Preprocess(height_px=8, width_px=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
COLOURS = {"red": (200, 40, 40), "blue": (40, 40, 200)}


class ColourSession:
    """A network whose features are the mean colour, of the left half and of the right half; it counts its images."""

    def __init__(self) -> None:
        self.images = 0

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.images += len(batch)
        halves = [batch[:, :, :4], batch[:, :, 4:]]
        features = np.concatenate([half.mean(axis=(1, 2)) for half in halves], axis=1).astype(np.float32) / 255
        return {"features": features, "embedding": features / np.linalg.norm(features, axis=1, keepdims=True)}


def colour_embedder(session: ColourSession | None = None, fingerprint: str = "c010c010c010c010") -> Embedder:
    return Embedder(session or ColourSession(), PREPROCESS, dim=6, feature_dim=6, fingerprint=fingerprint)


def save_image(path: Path, label: str, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-30, 30, (12, 16, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)).save(path)


def write_task(folder: Path, images: int = 8, more: str = "") -> Path:
    """Write a task file with `images` a label, two more in `.val` lists; return it."""
    for label in COLOURS:
        names = [f"{label}/{i}.png" for i in range(images + 2)]
        for i, name in enumerate(names):
            save_image(folder / "imgroot" / name, label, seed=i)
        (folder / "lists").mkdir(exist_ok=True)
        (folder / f"lists/{label}").write_text("\n".join(names[:images]) + "\n")
        (folder / f"lists/{label}.val").write_text("\n".join(names[images:]) + "\n")
    task = folder / "colours.yaml"
    task.write_text(f"training_data:\n- red:\n  - lists/red\n- blue:\n  - lists/blue\n{more}")
    return task
