"""The encoder on a CPU against DINO's plain forward: one frame, random weights, the same in every column.

python benchmarks/bench_encoder.py [--repeats N] [--cases small/16 tiny/8 small/8] [--onnx]

Plain is what DINO's vision_transformer.py does: float32, softmax over the whole matrix of scores. The other columns are
`SiamMAE.extract`'s network. ONNX Runtime needs `pip install onnxruntime onnx onnxscript`; siammae has no use for it.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from interleaved import headline, medians
from torch import Tensor, nn

from siammae import ModelConfig, SiamMAE
from siammae.kernels.native import attention as native_attention
from siammae.network import cpu_layers as cpu_layers

# Who multiplies and who attends, as in siammae.network.cpu_layers; "linear" and "pytorch" are PyTorch's own layers.
ROUTES = (("linear", "pytorch"), ("onednn", "pytorch"), ("onednn", "onednn"), ("onednn", "native"))
CASES = {"small/16": (480, 880), "tiny/8": (240, 424), "small/8": (480, 880)}


def plain_attention(attention: nn.Module, x: Tensor) -> Tensor:
    b, n, c = x.shape
    qkv = nn.functional.linear(x, attention.qkv.weight, attention.qkv.bias)
    q, k, v = qkv.reshape(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1)) * attention.scale  # (B, heads, N, N)
    out = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c)
    return nn.functional.linear(out, attention.proj.weight, attention.proj.bias)


def plain_forward(model: SiamMAE, pixels: Tensor) -> Tensor:
    """DINO's forward pass with this network's weights."""
    encoder = model.encoder
    tokens = encoder.embed(pixels)
    x = torch.cat([encoder.cls_token + encoder.pos_embed[:, :1], tokens], dim=1)
    for block in encoder.blocks:
        x = x + plain_attention(block.attn, block.norm1(x))
        hidden = nn.functional.linear(block.norm2(x), block.mlp.fc1.weight, block.mlp.fc1.bias)
        x = x + nn.functional.linear(nn.functional.gelu(hidden), block.mlp.fc2.weight, block.mlp.fc2.bias)
    return encoder.norm(x)


def encode(model: SiamMAE, pixels: Tensor) -> Tensor:
    return model.encoder(model.encoder.embed(pixels.to(model.dtype)))


def by_route(model: SiamMAE, pixels: Tensor, product: str, attention: str) -> Callable[[], Tensor]:
    def run() -> Tensor:
        chosen = cpu_layers.product_route, cpu_layers.attention_route
        cpu_layers.product_route = lambda dtype: product
        cpu_layers.attention_route = lambda dtype, width: attention
        try:
            return encode(model, pixels)
        finally:
            cpu_layers.product_route, cpu_layers.attention_route = chosen

    return run


def onnx_session(model: SiamMAE, pixels: Tensor, folder: str) -> Callable[[], object]:
    import onnxruntime

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> Tensor:
            return encode(self.model, pixels)

    path = Path(folder) / "encoder.onnx"
    torch.onnx.export(Whole().eval(), (pixels,), path, dynamo=True, external_data=False, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: pixels.numpy()})


@torch.no_grad()
def compare(name: str, size: tuple[int, int], repeats: int, *, onnx: bool) -> list[str]:
    torch.manual_seed(0)
    width, patch = name.split("/")
    model = SiamMAE(ModelConfig.vit(width, patch_size=int(patch), decoder="none")).eval()
    rounded = copy.deepcopy(model).bfloat16()
    pixels = torch.randn(1, 3, *size)
    runs = {"plain (DINO)": lambda: plain_forward(model, pixels)}
    for dtype, network in (("float32", model), ("bfloat16", rounded)):
        for product, attention in ROUTES:
            if attention != "native" or native_attention.attends(network.dtype):
                name_of = f"siammae, {dtype}, {product} products, {attention} attention"
                runs[name_of] = by_route(network, pixels, product, attention)
    exact = plain_forward(model, pixels)
    notes = {run: _agreement(runs[run](), exact) for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        if onnx:
            runs["ONNX Runtime"] = onnx_session(model, pixels, folder)
            notes["ONNX Runtime"] = _agreement(torch.from_numpy(runs["ONNX Runtime"]()[0]), exact)
        seconds = medians(runs, repeats)
    base = seconds["plain (DINO)"]
    return [
        f"| ViT-{name}, {size[0]}x{size[1]} | {run} | {1e3 * took:.0f} | {base / took:.2f} | {notes[run]} |"
        for run, took in seconds.items()
    ]


def _agreement(features: Tensor, exact: Tensor) -> str:
    features = features.float()
    cosine = nn.functional.cosine_similarity(features, exact, dim=-1)
    error = (features - exact).norm() / exact.norm()
    return f"{error:.1e} | {cosine.mean():.6f} | {cosine.min():.6f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--onnx", action="store_true")
    args = parser.parse_args()
    print(headline())
    for dtype in (torch.float32, torch.bfloat16):
        product, attention = cpu_layers.product_route(dtype), cpu_layers.attention_route(dtype)
        print(f"siammae takes here in {str(dtype)[6:]}: {product} products, {attention} attention")
    print()
    print("| network, frame | way | ms | times faster | relative error | mean cosine | least cosine |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in args.cases:
        print("\n".join(compare(name, CASES[name], args.repeats, onnx=args.onnx)), flush=True)


if __name__ == "__main__":
    main()
