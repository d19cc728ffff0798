"""What the CUDA kernels cost by their machine code: compiles them for GPUs that need not be there, and predicts times.

    python benchmarks/triton_static.py            # Markdown tables for benchmarks/README.md
    python benchmarks/triton_static.py --json     # the facts of every kernel, for tests

Nothing here runs on a GPU. Needs Triton, whose package brings ptxas and the disassembler.
"""

import argparse
import datetime
import functools
import json
import math
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from siammae.kernels.triton import affinity as triton_affinity
from siammae.kernels.triton import labels as triton_labels
from siammae.kernels.triton import loss as triton_loss
from siammae.kernels.triton import ops as triton_ops

TOOLS = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin"
KB = 1024
LIMITS = {80: 163 * KB, 90: 227 * KB, 100: 227 * KB}  # shared memory of one program
TENSOR_CORES = r"\b(?:HMMA|HGMMA|UTCHMMA)\b"
# Name, multiprocessors, dense FLOP/s of float16, bytes/s of memory, cycles/s; from the vendor's data sheets (SXM).
DEVICES = {80: ("A100", 108, 312e12, 2.04e12, 1.41e9), 90: ("H100", 132, 989e12, 3.35e12, 1.755e9)}
TASKS = [((30, 55), 8, 12, 5, "square", 0), ((30, 55), 21, 20, 7, "disk", 1)]
TASKS += [((60, 110), *rest) for _, *rest in TASKS]
DTYPES = {"bf16": 1, "fp32": 2}  # halves


def build(function, signature, constants, capability, **options):
    """Compile a kernel as a launch with aligned pointers would."""
    full = {name: signature.get(name, "constexpr") for name in function.arg_names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(full) if full[name].startswith("*")}
    source = ASTSource(fn=function, signature=full, constexprs=constants, attrs=attrs)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def facts(kernel):
    """Return registers, stack bytes (spills), shared memory and the machine code of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = run("cuobjdump", "--dump-resource-usage", file.name)
        code = run("nvdisasm", "-c", file.name)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    found = {"registers": registers, "stack": stack, "shared": kernel.metadata.shared}
    return {**found, "tensor_cores": len(re.findall(TENSOR_CORES, code))}, code


def run(tool, *arguments):
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def affinity(capability, dtype, channels=384):
    """Compile :func:`triton_affinity.best_of_part` as a launch would: facts, and instructions a thread and step."""
    halves = DTYPES[dtype]
    config = triton_ops.choose_config(2 * halves * channels, divmod(capability, 10), LIMITS[capability])
    numbers = ("h", "w", "count", "free", "reach", "limit", "steps_per_part", "top_k")
    element = "*bf16" if dtype == "bf16" else "*fp16"
    signature = {"query": element, "frames": "*i64", "partial": "*i64", **dict.fromkeys(numbers, "i32")}
    constants = {"C": channels, "CHUNK": 128 if channels % 128 == 0 else 64, "K": 8, "SQUARE": False}
    constants |= {"HALVES": halves, "UPCAST": False, "STAGES": config.stages}
    constants |= dict(zip(("TY", "TX", "KY", "KX"), config.tile + config.block, strict=True))
    kernel = build(triton_affinity.best_of_part, signature, constants, capability, num_warps=config.warps)
    found, code = facts(kernel)
    scores = math.prod(config.tile) * math.prod(config.block) // (32 * config.warps)
    # On sm_100 waiting for the matrix unit is a loop of its own and the paths cannot be told apart by jumps.
    counts = instructions(code) if capability < 100 else {}
    paths = {name: count / scores for name, count in counts.items()}
    return {**found, "config": config, "limit": LIMITS[capability], "paths": paths}


def others(capability):
    """Compile the small kernels."""
    merge = {"partial": "*i64", "weights": "*fp32", "indices": "*i64", "patches": "i32", "parts": "i32"}
    merge |= {"top_k": "i32", "temperature": "fp32"}
    yield "merge_parts", triton_affinity.merge_parts, merge, {"K": 8, "COLUMNS": 64, "ROWS": 16}
    labels = {"weights": "*fp32", "indices": "*i64", "labels": "*fp32", "mixed": "*fp32"}
    labels |= dict.fromkeys(("patches", "channels", "k"), "i32")
    yield "mix_labels", triton_labels.mix_labels, labels, {"ROWS": triton_labels._ROWS}
    strides = [f"{of}_{axis}" for of in ("prediction", "target") for axis in ("image", "patch")]
    shared = {"prediction": "*bf16", "target": "*fp32", "hidden": "*u8", "moments": "*fp32"}
    shared |= dict.fromkeys(["patches", "per_image", *strides], "i32")
    sizes = {"P": 768, "WIDTH": 1024, "ROWS": triton_loss._ROWS, "NORM_PIX": True}
    yield "patch_errors", triton_loss.patch_errors, {**shared, "errors": "*fp32"}, sizes
    extra = {"factor": "*fp32", "gradient": "*bf16"}
    yield "patch_gradients", triton_loss.patch_gradients, {**shared, **extra}, sizes


def instructions(code):
    """Count a step's instructions: when no score reaches a list, what a hit adds, and each round of a hit.

    The innermost loop around the matrix instructions is the step; the largest loop inside it without them is the
    round; the longest forward jump over that round leaves the hit out (a shorter one, the rounds alone).
    """
    labels, lines = {}, []
    for line in code.splitlines():
        if match := re.match(r"\s*(\.L\S+):", line):
            labels[match[1]] = len(lines)
        elif match := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(match[1])
    jumps = []
    for i, line in enumerate(lines):
        if (match := re.search(r"\bBRA.*?(\.L\w+)", line)) and match[1] in labels:
            jumps.append((i, labels[match[1]]))
    has_product = [bool(re.search(TENSOR_CORES, line)) for line in lines]
    loops = [(to, at) for at, to in jumps if to <= at and at - to > 8]
    steps = [(to, at) for to, at in loops if any(has_product[to:at])]
    if not steps:
        return {}
    first, last = min(steps, key=lambda loop: loop[1] - loop[0])
    inner = [(to, at) for to, at in loops if first < to and at < last and not any(has_product[to:at])]
    if not inner:
        return {"step": last - first + 1}
    round_first, round_last = max(inner, key=lambda loop: loop[1] - loop[0])
    multiplied = max(i for i in range(first, last) if has_product[i])
    over = [(at, to) for at, to in jumps if multiplied < at < round_first and round_last < to <= last + 1]
    at, to = max(over, key=lambda jump: jump[1] - jump[0])
    rounds = round_last - round_first + 1
    return {"step": last - first + 1 - (to - at - 1), "hit": to - at - 1 - rounds, "round": rounds}


def everything():
    """Return the facts of all kernels on all architectures."""
    table = {f"best_of_part {dtype} sm_{sm}": affinity(sm, dtype) for sm in LIMITS for dtype in DTYPES}
    for sm in LIMITS:
        for name, function, signature, constants in others(sm):
            table[f"{name} sm_{sm}"] = {**facts(build(function, signature, constants, sm))[0], "limit": LIMITS[sm]}
    return table


@functools.cache
def real_features(grid, frames):
    """Return features of the bundled network, ``(frames, C, h, w)``, of the example clip at any grid."""
    from siammae import SiamMAE

    model = SiamMAE.from_pretrained()
    clip = Path(__file__).parent.parent / "examples" / "data" / "walkers.mp4"
    size = (grid[0] * model.patch_size, grid[1] * model.patch_size)
    from siammae.frames import read_frames

    chosen = [frame for _, frame in zip(range(frames), read_frames(clip), strict=False)]
    features = model.extract(iter(chosen), resize=size)
    return torch.nn.functional.normalize(features, dim=1)


@functools.cache
def hits(task, config, tiles=4):
    """Replay the search of some tiles on real features: the part of steps with a hit, and rounds a step."""
    (h, w), count, radius, top_k, neighborhood, free = task
    features = real_features((h, w), 22)
    plan = triton_ops.plan((h, w), count, free, radius, neighborhood, config, 132)
    (ty, tx), (ky, kx) = config.tile, config.block
    generator = torch.Generator().manual_seed(0)
    steps = struck = rounds = 0
    for _ in range(tiles):
        y0 = int(torch.randint(-(-h // ty), (), generator=generator)) * ty
        x0 = int(torch.randint(-(-w // tx), (), generator=generator)) * tx
        qy, qx = (
            part.reshape(-1)
            for part in torch.meshgrid(
                torch.arange(y0, min(h, y0 + ty)), torch.arange(x0, min(w, x0 + tx)), indexing="ij"
            )
        )
        query = features[count, :, qy, qx].T
        best = torch.full((len(qy), top_k), -9.0)
        for step, (frame, y, x, bottom, right, bounded) in enumerate(walk(task, plan, y0, x0, config)):
            if step % plan.steps_per_part == 0:
                best.fill_(-9.0)
            v, u = torch.meshgrid(
                torch.arange(y, min(y + ky, bottom)), torch.arange(x, min(x + kx, right)), indexing="ij"
            )
            v, u = v.reshape(-1), u.reshape(-1)
            scores = query @ features[frame][:, v, u]
            steps += 1
            if not (scores.max(dim=1).values >= best[:, -1]).any():
                continue
            struck += 1
            dy, dx = qy[:, None] - v, qx[:, None] - u
            distance = torch.maximum(dy.abs(), dx.abs()) if neighborhood == "square" else dy**2 + dx**2
            if bounded:
                scores[distance > plan.limit] = -9.5
            rounds += min(top_k, int((scores >= best[:, -1:]).sum(dim=1).max()))
            best = torch.cat([best, scores], dim=1).topk(top_k, dim=1).values
    return struck / steps, rounds / steps


def walk(task, plan, y0, x0, config):
    """Yield the key blocks of a tile in the kernel's order."""
    (h, w), count, *_, free = task
    for frame in range(count):
        bounded = frame >= free
        top, left = (max(0, y0 - plan.reach), max(0, x0 - plan.reach)) if bounded else (0, 0)
        bottom = min(h, y0 + config.tile[0] + plan.reach) if bounded else h
        right = min(w, x0 + config.tile[1] + plan.reach) if bounded else w
        for y in range(top, bottom, config.block[0]):
            for x in range(left, right, config.block[1]):
                yield frame, y, x, bottom, right, bounded


def pairs(task, config):
    """Return the pairs of patches inside the windows, and the scores that the kernel computes for them."""
    (h, w), count, radius, _, neighborhood, free = task
    plan = triton_ops.plan((h, w), count, free, radius, neighborhood, config, 132)
    ys, xs = torch.arange(h), torch.arange(w)
    dy, dx = (ys[:, None] - ys).abs(), (xs[:, None] - xs).abs()
    if neighborhood == "square":
        near = int((dy <= radius).sum()) * int((dx <= radius).sum())
    else:
        near = sum(
            int((dy**2 == d * d).sum()) * int((dx**2 <= plan.limit - d * d).sum()) for d in range(plan.reach + 1)
        )
    needed = free * (h * w) ** 2 + (count - free) * near
    size = math.prod(config.tile) * math.prod(config.block)
    blocks = sum(
        sum(1 for _ in walk(task, plan, y0, x0, config))
        for y0 in range(0, h, config.tile[0])
        for x0 in range(0, w, config.tile[1])
    )
    return needed, blocks * size


def predict(sm, dtype, task, built, channels=384):
    """Return the floor and the predicted time in seconds: the slowest unit alone, and all units one after the other."""
    _, processors, flops, bandwidth, clock = DEVICES[sm]
    config, halves = built["config"], DTYPES[dtype]
    needed, computed = pairs(task, config)
    products = 1 if halves == 1 else 3
    (h, w), count, *_ = task
    traffic = (count + 1) * h * w * channels * 2 * halves
    # The rates at 30x55 stand for 60x110 too: more keys a query mean fewer hits a step, so these are rather too many.
    struck, rounds = hits(((30, 55), *task[1:]), config)
    paths = built["paths"]
    per_score = paths["step"] + struck * paths.get("hit", 0) + rounds * paths.get("round", 0)
    plan = triton_ops.plan(task[0], count, task[5], task[2], task[4], config, processors)
    programs = plan.tiles * plan.parts
    filled = programs / (math.ceil(programs / processors) * processors)  # a last wave may leave processors idle
    tensor = computed * 2 * channels * products / flops / filled
    issue = computed * per_score / (processors * 128 * clock) / filled  # 4 schedulers of 32 lanes
    floor = max(needed * 2 * channels * products / flops, traffic / bandwidth)
    return needed, computed, traffic, floor, struck, rounds, per_score, max(tensor, issue), tensor + issue


def tables(found):
    """Print what benchmarks/README.md holds."""
    print(f"Triton {triton.__version__}, torch {torch.__version__}, {datetime.date.today()}; no GPU involved.\n")
    print(
        "| kernel | queries x keys, warps, stages | registers | stack bytes | shared KB of limit | tensor-core instr. "
        "| instr. a score: step | + hit | + each round |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, row in found.items():
        cut = row.get("config")
        shape = "x".join(map(str, cut.tile)) + " x " + "x".join(map(str, cut.block)) if cut else ""
        shape += f", {cut.warps}, {cut.stages}" if cut else ""
        paths = [
            f"{row.get('paths', {}).get(path, math.nan):.1f}".replace("nan", "") for path in ("step", "hit", "round")
        ]
        print(
            f"| {name} | {shape} | {row['registers']} | {row['stack']} | "
            f"{row['shared'] / KB:.0f} of {row['limit'] // KB} | "
            f"{row['tensor_cores']} | " + " | ".join(paths) + " |"
        )
    print(
        "\n| device, dtype | grid, frames, r, k | GFLOP in windows (computed) | MB of features | floor us | "
        "steps with a hit, rounds a step | instr. a score | predicted us |\n|---|---|---|---|---|---|---|---|"
    )
    for sm in DEVICES:
        for dtype in DTYPES:
            for task in TASKS:
                row = predict(sm, dtype, task, found[f"best_of_part {dtype} sm_{sm}"])
                needed, computed, traffic, floor, struck, rounds, per_score, least, most = row
                gflop = 2 * 384e-9 * (1 if dtype == "bf16" else 3)
                grid, count, radius, top_k, shape, _ = task
                print(
                    f"| {DEVICES[sm][0]} {dtype} | {grid[0]}x{grid[1]}, {count}, {radius} {shape}, {top_k} | "
                    f"{needed * gflop:.1f} ({computed * gflop:.1f}) | {traffic / 1e6:.0f} | {floor * 1e6:.0f} | "
                    f"{100 * struck:.0f} %, {rounds:.2f} | {per_score:.0f} | {least * 1e6:.0f}-{most * 1e6:.0f} |"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the facts of the kernels only")
    if parser.parse_args().json:
        print(json.dumps(everything()))
    else:
        tables(everything())
