"""Measures how many images a second an ingest takes, with the built embedder, from encoded files to a published index.

Run:
    python benchmarks/bench_ingest.py --images 400 --threads 1 2 --batches 8 16
    python benchmarks/bench_ingest.py --folder ~/photos
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.catalogue import Catalogue, read_catalogue
from lookalike.config import IndexSettings
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.edits import IndexEditor
from lookalike.ingest import IngestOptions

SIZE_PX = (1152, 864)  # one megapixel, as a shop's pictures often are


def draw_photos(folder: Path, count: int) -> Catalogue:
    """Write JPEGs with soft shapes and sensor noise: they cost about what photos cost to decode."""
    random = np.random.default_rng(0)
    width_px, height_px = SIZE_PX
    for number in range(count):
        shapes = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(SIZE_PX)
        noise = random.integers(-12, 13, (height_px, width_px, 1))
        pixels = np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=85)
    return read_catalogue(folder)


def images_per_s(catalogue: Catalogue, embedder: WholeImageEmbedder, threads: int, batch: int) -> float:
    """Build an index of the catalogue in a new folder."""
    options = IngestOptions(threads=threads, batch_images=batch, duplicates="keep")
    with tempfile.TemporaryDirectory() as index_dir:
        start_s = time.perf_counter()
        IndexEditor(Path(index_dir), IndexSettings(), options).build(catalogue, embedder)
        return len(catalogue.items) / (time.perf_counter() - start_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("var/models/embedder"))
    parser.add_argument("--folder", type=Path, help="photos to take instead of drawn ones")
    parser.add_argument("--images", type=int, default=300, help="how many photos to draw")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16])
    arguments = parser.parse_args()
    embedder = WholeImageEmbedder.load(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        catalogue = (
            read_catalogue(arguments.folder) if arguments.folder else draw_photos(Path(folder), arguments.images)
        )
        print(f"| threads | batch | images/s ({len(catalogue.items)} images) |\n|---:|---:|---:|")
        for threads in arguments.threads:
            for batch in arguments.batches:
                print(f"| {threads} | {batch} | {images_per_s(catalogue, embedder, threads, batch):.1f} |")


if __name__ == "__main__":
    main()
