"""Small data folders for the metadata heads: goods told by their colour, and a source of features that sees colours."""

import io
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image

from lookalike.embedding import Embedded
from lookalike.preprocessing import Preprocess

COLOURS = {"Red": (200, 20, 20), "Green": (20, 200, 20), "Blue": (20, 20, 200)}


class MeanColours:
    """A source of features that is small and exact: the mean and the spread of each channel."""

    fingerprint = "mean-colours"
    preprocess = Preprocess(height_px=8, width_px=8, mean=(0, 0, 0), std=(1, 1, 1))

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, pixels: np.ndarray) -> Embedded:
        self.seen += len(pixels)
        flat = pixels.reshape(len(pixels), -1, 3).astype(np.float32) / 255
        features = np.concatenate([flat.mean(1), flat.std(1)], axis=1)
        return Embedded(features, features)


def jpeg(colour: tuple[int, int, int], seed: int, spread: int = 20) -> bytes:
    noise = np.random.default_rng(seed).integers(-spread, spread + 1, (16, 12, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def small_data(folder: Path) -> Path:
    """Write a data folder of three kinds of goods, one a colour, and of grey pictures of other things."""
    lines = ["id,split,gender,masterCategory,subCategory,articleType,baseColour,season,usage"]
    photos, others = ["image,sender_id,masterCategory,subCategory,articleType"], ["file,split,set,class_id"]
    (folder / "metadata").mkdir(parents=True)
    (folder / "retrieval").mkdir()
    kinds = {"Red": ("Women", "Dresses"), "Green": ("Men", "Tshirts"), "Blue": ("Men", "Ties")}
    with ZipFile(folder / "metadata/images.zip", "w") as images, ZipFile(folder / "metadata/hires.zip", "w") as hires:
        for i in range(180):
            colour, (gender, article) = list(kinds.items())[i % 3]
            split = ("train", "train", "val", "test")[i // 3 % 4]
            season, usage = ("Summer", "Winter")[i % 3 == 2], ("NA" if i % 2 else ("Casual", "Formal")[i % 3 == 2])
            lines.append(f"{i},{split},{gender},Apparel,{article},{article},{colour},{season},{usage}")
            images.writestr(f"{i}.jpg", b"" if i == 0 else jpeg(COLOURS[colour], i))
            if i < 30:
                hires.writestr(f"{i}.jpg", jpeg(COLOURS[colour], i + 1000))
    with ZipFile(folder / "metadata/userphotos.zip", "w") as images:
        for i in range(20):
            images.writestr(f"u{i}.jpg", jpeg(COLOURS["Red"], i, spread=40))
            photos.append(f"u{i},{i},Apparel,Dresses,Dresses")
    for i in range(40):
        (folder / f"retrieval/{i}.jpg").write_bytes(jpeg((128, 128, 128), i))
        others.append(f"{i}.jpg,{('train', 'test')[i % 2]},things,thing{i % 4}")
    (folder / "metadata/manifest.csv").write_text("\n".join(lines))
    (folder / "metadata/userphotos.csv").write_text("\n".join(photos))
    (folder / "retrieval/manifest.csv").write_text("\n".join(others))
    return folder
