"""The same search by TIAToolbox, run by the Python of its own environment: `python -I peer.py FOLDER`.

Nothing of RenalCore is imported here, and nothing imports this. `benchmark.py` leaves in FOLDER the network
(`network.pt`, TorchScript), where the tissue is (`tissue.npy`) and the rest (`job.json`); the answer is `answer.json`.

Timed is `SemanticSegmentor.run` as its users call it: reading, network, joining overlapping tiles, writing the labels
as Zarr. TIAToolbox draws outlines afterwards, from that file; that is left out, and so is finding the tissue.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiatoolbox
import torch
from numpy.typing import NDArray
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC


class Network(ModelABC):
    """A TorchScript network, from `(N, 3, H, W)` in 0..1 to logits, as TIAToolbox's engine wants it."""

    def __init__(self, path: Path, device: str) -> None:
        super().__init__()
        self.network = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The logits."""
        logits: torch.Tensor = self.network(pixels)
        return logits

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> NDArray[np.float32]:
        """Tiles `(N, H, W, 3)` uint8 to probabilities `(N, H, W, C)`."""
        with torch.inference_mode():
            pixels = batch_data.to(device).permute(0, 3, 1, 2).float() / 255
            probabilities: NDArray[np.float32] = model(pixels).sigmoid().permute(0, 2, 3, 1).cpu().numpy()
        return probabilities

    @staticmethod
    def postproc(image: Any) -> Any:
        """Probabilities of the whole slide, a Dask array, to labels: 1 where a glomerulus is more likely than not."""
        return (image[..., 0] >= 0.5).astype(np.uint8)


def search(folder: Path) -> dict[str, Any]:
    """Search the slide that the job names, after one batch to warm up."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    network = Network(folder / "network.pt", job["device"])
    side = job["tile_px"]
    blank = torch.zeros((job["batch"], side, side, 3), dtype=torch.uint8)
    for _ in range(2):  # TorchScript compiles at the first and the second
        Network.infer_batch(network, blank, device=job["device"])
    engine = SemanticSegmentor(network, batch_size=job["batch"], device=job["device"], verbose=False)
    scale = {"units": "baseline", "resolution": 1 / job["downsample"]}
    start, processor = time.perf_counter(), time.process_time()
    engine.run(
        [Path(job["slide"])],
        masks=[np.load(folder / "tissue.npy").astype(np.uint8)],
        ioconfig=IOSegmentorConfig(
            input_resolutions=[scale],
            output_resolutions=[scale],
            save_resolution=scale,
            patch_input_shape=(side, side),
            patch_output_shape=(side, side),
            stride_shape=(job["stride_px"], job["stride_px"]),
        ),
        patch_mode=False,
        save_dir=folder / "found",
        output_type="zarr",
    )
    return {
        "version": tiatoolbox.__version__,
        "tiles": len(engine.dataloader.dataset),
        "seconds": time.perf_counter() - start,
        "processor_s": time.process_time() - processor,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    work = Path(sys.argv[1])
    answer = search(work)
    (work / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
