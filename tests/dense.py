"""The affinity's definition, dense and in float64, and what a backend's answer must have in common with it."""

import torch


def dense_scores(query, context, *, radius=None, neighborhood="disk", free_frames=0):
    """Return ``(h*w, M*h*w)`` float64 dot products of vectors as they are; -inf outside the window."""
    query, context = query.double(), context.double()
    frames, _, h, w = context.shape
    scores = torch.einsum("cyx,mcvu->yxmvu", query, context)
    if radius is not None:
        y, x = torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64)
        dy, dx = (y[:, None] - y)[:, None, :, None], (x[:, None] - x)[None, :, None, :]  # (y, x, v, u)
        if neighborhood == "square":
            inside = torch.maximum(dy.abs(), dx.abs()) <= radius
        elif neighborhood == "closed_disk":
            inside = torch.hypot(dy, dx) <= radius
        else:
            inside = torch.hypot(dy, dx) < radius
        windowed = torch.arange(frames) >= free_frames
        outside = ~inside[:, :, None] & windowed[:, None, None]
        scores = scores.masked_fill(outside, -torch.inf)
    return scores.reshape(h * w, frames * h * w)


def assert_best(weights, indices, scores, *, top_k, temperature, keep_ties=False, tolerance=1e-5):
    """Check an answer against dense scores; candidates nearer to one another than ``tolerance`` may change places."""
    rows = len(scores)
    assert weights.dtype == torch.float32
    assert indices.dtype == torch.int64
    assert weights.shape == indices.shape
    weights, indices = weights.double().cpu(), indices.cpu()
    assert ((indices >= 0) & (indices < scores.shape[1])).all()
    assert (weights.diff(dim=1) <= 0).all()
    kept = weights > 0
    found = scores.gather(1, indices).masked_fill(~kept, -torch.inf)
    assert (found > -torch.inf).sum() == kept.sum()  # nothing from outside the window
    for row in range(rows):
        chosen = indices[row][kept[row]]
        assert len(chosen.unique()) == len(chosen)
        ranked = scores[row][scores[row] > -torch.inf].sort(descending=True).values
        k = min(top_k, len(ranked))
        if keep_ties:
            least = int((ranked >= ranked[k - 1]).sum())
            assert k <= len(chosen) <= max(least, int((ranked >= ranked[k - 1] - tolerance).sum()))
        else:
            assert len(chosen) == k
        torch.testing.assert_close(found[row][: len(chosen)], ranked[: len(chosen)], atol=tolerance, rtol=0)
    expected = torch.softmax(found / temperature, dim=1)
    torch.testing.assert_close(weights, expected, atol=2e-6 + tolerance / temperature, rtol=0)


def exact_best(scores, top_k):
    """Return the indices that must be chosen where scores are exact: higher score first, then smaller index."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
