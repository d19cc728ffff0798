"""The affinity's CUDA kernels in Triton: the best of a part of the context, and the merge of the parts.

Imported only when a kernel is launched: importing siammae must not need Triton.

What decides the speed of :func:`best_of_part` is not the matrix product but what follows it: a tensor core of an H100
makes a score in so few cycles that the other units may spend only about 24 instructions on it. Hence: no window mask,
no index and no 64-bit number for a key until a block of keys has a score that reaches some query's k-th best; no
division by a number that is not a power of two inside the loop; ``tl.topk`` not at all.
"""

import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret

# Coordinates: frames have at most 8192 patches on a side. A key outside its frame is moved to row 2**15, which is
# farther than any limit; the limits of a frame without a window let every real key pass.
_FAR = tl.constexpr(1 << 15)
_NO_LIMIT_SQUARE = tl.constexpr(1 << 14)
_NO_LIMIT_DISK = tl.constexpr(1 << 28)
# An empty place of a list holds the lowest finite score, so that keys outside the window (-inf) never enter.
_EMPTY = tl.constexpr(-3.4028234663852886e38)
# Packed scores (see pack): +inf, which no candidate beats; below every empty place; what is never replaced.
_UNBEATEN = tl.constexpr(0x7F800000FFFFFFFF)
_NOTHING = tl.constexpr(-0x7F80000000000000)
_FIXED = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def pack(score, index):
    """Join score and index in an int64 whose order is: higher score, then smaller index (as reference._pack)."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # + 0.0 turns -0.0 into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - index.to(tl.int64))


@triton.jit
def unpack_score(packed):
    """Return the score in a packed int64."""
    ordered = (packed >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def dot(q, k, scores, UPCAST: tl.constexpr):
    """Add the products of a chunk of channels, in float32."""
    if UPCAST:
        scores = tl.dot(q.to(tl.float32), k.to(tl.float32), scores, input_precision="ieee")
    else:
        scores = tl.dot(q, k, scores)
    return scores


@triton.jit
def multiply(
    q,
    at,  # pointers to a block's keys, (CHUNK, keys)
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    C: tl.constexpr,
    CHUNK: tl.constexpr,
    HALVES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Return the scores of a tile with a block, (QUERIES, KEYS) float32.

    A float32 x of at most 1 comes as two float16: ``a``, and ``b = (x - a) * 2048``; 22 bits together. Three products
    of float16 are twice as fast as three of tf32, which has no more bits, and need no splitting here. ``b * b`` is left
    out: below 2**-22 of the product.
    """
    scores = tl.zeros((QUERIES, KEYS), tl.float32)
    small = tl.zeros((QUERIES, KEYS), tl.float32)
    for c in tl.static_range(0, C // CHUNK):
        k = tl.load(tl.multiple_of(at + c * CHUNK, (16, 1)))
        scores = dot(q[c], k, scores, UPCAST)
        if HALVES == 2:
            small = dot(q[C // CHUNK + c], k, small, UPCAST)
            small = dot(q[c], tl.load(tl.multiple_of(at + (C + c * CHUNK), (16, 1))), small, UPCAST)
    return scores + small * (1 / 2048) if HALVES == 2 else scores


@triton.jit
def inside(scores, qy, qx, ky, kx, bound, SQUARE: tl.constexpr):
    """Set the scores of keys outside the window to -inf."""
    dy, dx = qy[:, None] - ky[None, :], qx[:, None] - kx[None, :]
    distance = tl.maximum(tl.abs(dy), tl.abs(dx)) if SQUARE else dy * dy + dx * dx
    return tl.where(distance <= bound, scores, float("-inf"))


@triton.jit
def empty_lists(real, slots, top_k, K: tl.constexpr):
    """Return a list for each query: nothing enters those beyond the grid, nor the places from ``top_k`` on."""
    empty = tl.where(slots < top_k, pack(tl.full((K,), _EMPTY, tl.float32), slots), _FIXED)
    return tl.where(real[:, None], empty[None, :], _UNBEATEN)


@triton.jit
def keep_best(best, scores, columns, base, w, rounds, KX: tl.constexpr):
    """Move the ``rounds`` highest scores of each row into the list ``best``, unless the list holds better ones.

    The list is not sorted: a newcomer takes the place of the least. Packed numbers differ from one another, so exactly
    one place changes.
    """
    for _ in range(rounds):
        score = tl.max(scores, 1)
        column = tl.min(tl.where(scores == score[:, None], columns[None, :], 1 << 30), 1)  # equal: the smaller index
        scores = tl.where(columns[None, :] == column[:, None], float("-inf"), scores)
        candidate = pack(score, base + column // KX * w + column % KX)
        least = tl.min(best, 1)
        entry = (best == least[:, None]) & (candidate > least)[:, None]
        best = tl.where(entry, candidate[:, None], best)
    return best


@triton.jit
def best_of_part(
    query,  # (h, w, HALVES * C), the halves one after the other
    frames,  # (M,) int64: the addresses of the context frames, laid out alike
    partial,  # (parts, h*w, K) int64, packed
    h,
    w,
    count,  # context frames, of which the first
    free,  # have no window
    reach,  # rows and columns that a window spans on each side
    limit,  # largest distance inside the window: squared for disks
    steps_per_part,
    top_k,
    C: tl.constexpr,
    CHUNK: tl.constexpr,  # channels multiplied at once; divides C
    TY: tl.constexpr,  # queries of a program: a tile of TY x TX patches
    TX: tl.constexpr,
    KY: tl.constexpr,  # keys of a step: a block of KY x KX patches of one frame
    KX: tl.constexpr,
    K: tl.constexpr,  # places of a list: top_k rounded up to a power of two
    SQUARE: tl.constexpr,
    HALVES: tl.constexpr,  # 1, or 2 where a float32 is given as two float16 (see multiply)
    UPCAST: tl.constexpr,  # for the interpreter, which multiplies the bits of bfloat16 as if they were integers
    STAGES: tl.constexpr,
):
    """Find the best keys of one tile of queries (axis 0) in one part of the context (axis 1).

    The steps of a tile are the key blocks of the frames without a window, then those of the windows' common bounding
    box in every other frame. A part is a run of ``steps_per_part`` of them, so that parts are equally long.
    """
    dtype: tl.constexpr = query.dtype.element_ty
    unlimited: tl.constexpr = _NO_LIMIT_SQUARE if SQUARE else _NO_LIMIT_DISK
    tiles_x = tl.cdiv(w, TX)
    y0, x0 = tl.program_id(0) // tiles_x * TY, tl.program_id(0) % tiles_x * TX
    rows = tl.arange(0, TY * TX)
    qy, qx = y0 + rows // TX, x0 + rows % TX
    real = (qy < h) & (qx < w)
    channels = tl.arange(0, CHUNK)
    place = (tl.minimum(qy, h - 1).to(tl.int64) * w + tl.minimum(qx, w - 1)) * HALVES * C
    q = ()
    for c in tl.static_range(0, HALVES * C, CHUNK):
        q += (tl.load(query + place[:, None] + (c + channels)[None, :]),)  # type: ignore[assignment]

    slots = tl.arange(0, K)
    best = empty_lists(real, slots, top_k, K)
    bar = unpack_score(tl.min(best, 1))  # each query's k-th best

    top, left = tl.maximum(y0 - reach, 0), tl.maximum(x0 - reach, 0)
    bottom, right = tl.minimum(y0 + TY + reach, h), tl.minimum(x0 + TX + reach, w)
    whole_x, near_x = tl.cdiv(w, KX), tl.cdiv(right - left, KX)
    whole, near = tl.cdiv(h, KY) * whole_x, tl.cdiv(bottom - top, KY) * near_x
    begin = tl.program_id(1) * steps_per_part
    end = tl.minimum(begin + steps_per_part, free * whole + (count - free) * near)
    frame = tl.where(begin < free * whole, begin // whole, free + (begin - free * whole) // near)
    start = tl.where(frame < free, frame * whole, free * whole + (frame - free) * near)  # the frame's first step

    columns = tl.arange(0, KY * KX)
    cy, cx = columns // KX, columns % KX
    while start < end:
        is_free = frame < free
        low_y, low_x = tl.where(is_free, 0, top), tl.where(is_free, 0, left)
        high_y, high_x = tl.where(is_free, h, bottom), tl.where(is_free, w, right)
        blocks_x, blocks = tl.where(is_free, whole_x, near_x), tl.where(is_free, whole, near)
        bound = tl.where(is_free, unlimited, limit)
        keys = tl.load(frames + frame).to(tl.pointer_type(dtype))
        first = tl.maximum(begin - start, 0)
        by, bx = first // blocks_x, first % blocks_x
        for _ in tl.range(first, tl.minimum(end - start, blocks), num_stages=STAGES):
            y, x = low_y + by * KY, low_x + bx * KX
            there = (y + cy < high_y) & (x + cx < high_x)
            block = keys + (y.to(tl.int64) * w + x) * HALVES * C
            # A key outside is read as the block's first.
            at = block + (tl.where(there, cy * w + cx, 0)[None, :] * (HALVES * C) + channels[:, None])
            at = tl.multiple_of(at, (16, 1))  # an address read from memory says nothing of its alignment
            scores = multiply(q, at, TY * TX, KY * KX, C, CHUNK, HALVES, UPCAST)
            # Raw scores: those outside the window may raise a false alarm, which costs time and nothing else.
            if tl.max((tl.max(scores, 1) >= bar).to(tl.int32), 0) > 0:
                scores = inside(scores, qy, qx, tl.where(there, y + cy, _FAR), x + cx, bound, SQUARE)
                rounds = tl.max(tl.sum((scores >= bar[:, None]).to(tl.int32), 1), 0)
                base = (frame.to(tl.int64) * h + y) * w + x
                best = keep_best(best, scores, columns, base, w, tl.minimum(rounds, top_k), KX)
                bar = unpack_score(tl.min(best, 1))
            bx += 1
            wrap = bx == blocks_x
            bx, by = tl.where(wrap, 0, bx), tl.where(wrap, by + 1, by)
        start += blocks
        frame += 1

    out = (tl.program_id(1).to(tl.int64) * h * w + qy * w + qx) * K
    tl.store(partial + out[:, None] + slots[None, :], best, mask=real[:, None])


@triton.jit
def merge_parts(
    partial,  # (parts, patches, K) int64, packed
    weights,  # (patches, top_k) float32
    indices,  # (patches, top_k) int64
    patches,
    parts,
    top_k,
    temperature,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,  # parts * K rounded up to a power of two
    ROWS: tl.constexpr,
):
    """Keep the best of all parts, sorted, and turn their scores into weights."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = rows < patches
    columns, slots = tl.arange(0, COLUMNS), tl.arange(0, K)
    part, slot = columns // K, columns % K
    at = (part.to(tl.int64) * patches)[None, :] + rows[:, None]
    used = real[:, None] & ((part < parts) & (slot < top_k))[None, :]
    left = tl.load(partial + at * K + slot[None, :], mask=used, other=_NOTHING)
    best = tl.full((ROWS, K), _NOTHING, tl.int64)
    for i in range(top_k):
        highest = tl.max(left, 1)
        best = tl.where(slots[None, :] == i, highest[:, None], best)
        left = tl.where(left == highest[:, None], _NOTHING, left)
    scores = unpack_score(best)
    found = scores > _EMPTY  # a window may hold fewer than top_k patches
    peak = tl.max(scores, 1)
    gaps = tl.where(found, scores - peak[:, None], 0.0) / temperature
    shares = tl.where(found, tl.exp(gaps), 0.0)
    shares /= tl.maximum(tl.sum(shares, 1), 1.0)[:, None]  # the best has a share of 1; rows beyond the last have none
    index = tl.where(found, 0xFFFFFFFF - (best & 0xFFFFFFFF), 0)
    out = rows.to(tl.int64)[:, None] * top_k + slots[None, :]
    kept = real[:, None] & (slots < top_k)[None, :]
    tl.store(weights + out, shares, mask=kept)
    tl.store(indices + out, index, mask=kept)
