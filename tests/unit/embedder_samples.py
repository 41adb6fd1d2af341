"""A tiny data folder for the tests of the embedder's training: classes are colours, items are noise around them."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from training.embedder.config import EmbedderConfig

SIZE_PX = 32


def write_picture(path: Path, colour: tuple[int, int, int], seed: int) -> Path:
    dice = np.random.default_rng(seed)
    pixels = np.clip(np.array(colour) + dice.normal(0, 25, (SIZE_PX, SIZE_PX, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def colour_of(number: int) -> tuple[int, int, int]:
    dice = np.random.default_rng(number + 100)
    return tuple(int(value) for value in dice.integers(30, 225, 3))  # type: ignore[return-value]


def retrieval_folder(folder: Path, classes: int = 6, images: int = 4) -> Path:
    """Write a manifest of two sets, of which `shop` has one iconic picture a class."""
    lines = ["file,set,split,role,class_id,class_name,super_class,width,height,vintage"]
    for set_name in ("cars", "shop"):
        for number in range(classes):
            for image in range(images):
                file = f"{set_name}/{number}_{image}.png"
                write_picture(folder / file, colour_of(number), 10 * number + image)
                role = "any" if set_name == "cars" else ("iconic" if image == 0 else "query")
                lines.append(f"{file},{set_name},train,{role},{set_name}/{number},,,{SIZE_PX},{SIZE_PX},")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def data_folder(folder: Path) -> Path:
    """Write the retrieval sets and a folder of instances."""
    retrieval_folder(folder / "retrieval")
    for number in range(6):
        write_picture(folder / "paintings" / f"{number}.png", colour_of(50 + number), number)
    return folder


def small_config(**changes: object) -> EmbedderConfig:
    """Return a configuration that trains timm's test network on the tiny data in seconds."""
    fields = yaml.safe_load(SMALL)
    for key, value in changes.items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) else value
    return EmbedderConfig.model_validate(fields)


SMALL = f"""
seed: 1
data:
  - {{name: cars, kind: retrieval, folder: retrieval, classes_in_batch: 2}}
  - {{name: shop, kind: retrieval, folder: retrieval, classes_in_batch: 2}}
  - {{name: paintings, kind: instances, folder: paintings, classes_in_batch: 2, instance_views: true}}
bad_images: stop
images_a_class: 2
preprocess: {{height_px: {SIZE_PX}, width_px: {SIZE_PX}, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}
views: {{cached: 0}}
validation: {{share: 0.34, every_steps: 3, patience: 10}}
network: {{backbone: test_efficientnet, weights: random, pooling: gem, dim: 8, trained: blocks.2, dropout: 0.1}}
loss: {{name: multi-similarity, keep_weight: 1.0}}
optimisation:
  {{steps: 6, warmup_steps: 2, learning_rate: 0.01, backbone_learning_rate: 0.001, weight_decay: 0.0001, ema: 0.9}}
checkpoint_steps: 2
"""
