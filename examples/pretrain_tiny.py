"""The whole way in miniature: train a very small network on one clip, save it, load it, use it. About a minute.

python examples/pretrain_tiny.py [OUTPUT_FOLDER] [STEPS]
"""

import sys
from pathlib import Path

import siammae

CLIP = Path(__file__).parent / "data" / "walkers.mp4"


def main(output: str = "tiny-run", steps: str = "60") -> None:
    network = siammae.ModelConfig(
        patch_size=8,
        image_size=64,
        embed_dim=96,
        depth=4,
        num_heads=3,
        decoder_dim=64,
        decoder_depth=2,
        decoder_heads=2,
    )
    config = siammae.PretrainConfig(
        videos=str(CLIP),
        output_dir=output,
        model=network,
        mask_ratio=0.9,
        frame_gap=(1, 8),
        samples_per_video=16,
        crop_scale=(0.05, 0.3),
        cache_mb=200,
        epochs=int(steps),  # one video, one batch: an epoch is a step
        warmup_epochs=5,
        batch_size=16,
        base_lr=1.6e-2,
    )
    folder = siammae.pretrain(config, device="cpu", progress=True)
    model = siammae.SiamMAE.from_pretrained(folder)
    features = model.extract(siammae.read_frames(CLIP, stop=2))
    print(f"weights in {folder}; features of two frames: {tuple(features.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
