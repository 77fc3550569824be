"""The plain path: section 2 of docs/design.md written down directly in float32, loops and all.

The tests' oracle."""

import torch
import torch.nn.functional as F


def tokens_of(visual, image, layers):
    """Image (3,H,H) -> (L,N,C) normalised tokens, by running the encoder block by block; the table must fit
    already."""
    x = visual.conv1(image[None]).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)
    kept = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        if number in layers:
            kept.append(x[0, 1:] / x[0, 1:].norm(dim=-1, keepdim=True))
    return torch.stack(kept)


def nearest(query, bank, align):
    """For each query token the index of its nearest bank token, one by one."""
    if align == "diff2":
        return torch.stack([(bank - token).norm(dim=-1).argmin() for token in query])
    return torch.stack([(bank @ token).argmax() for token in query])


def maps_of_all_heads(method, discrepancies):
    """Discrepancies (L,B,N,C) of square patch grids -> raw and refined maps (L,B,G,G), all heads at once."""
    grid = int(discrepancies.shape[2] ** 0.5)
    return method.maps_of(method.probabilities(discrepancies).unflatten(-1, (grid, grid)))


def raw_map(head, discrepancy):
    """One block's discrepancies (N,C) through its head, layer by layer, in eval mode -> (N,)."""
    x = discrepancy
    for layer in head.layers:
        if isinstance(layer, torch.nn.BatchNorm1d):
            x = (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt() * layer.weight + layer.bias
        elif isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.t() + (0 if layer.bias is None else layer.bias)
        else:
            x = x.clamp(min=0)
    return x.softmax(-1)[:, 1]


def refined_map(nam, raw):
    """A raw map (G,G) through NAM."""
    two = torch.stack([1 - raw, raw])[None]
    hidden = F.conv2d(two, nam.conv1.weight, nam.conv1.bias, padding=2).clamp(min=0)
    return F.conv2d(hidden, nam.conv2.weight, nam.conv2.bias, padding=2).softmax(1)[0, 1]


def discrepancy(tokens, matched, fd):
    if fd == "context":
        return tokens + (tokens - matched).abs()
    return tokens if fd == "none" else tokens - matched if fd == "signed" else (tokens - matched).abs()


def full_maps(encode, method, image, references, align="mulmax", fd="abs"):
    """-> raw (L,G,G), refined (L,G,G). `encode(image, side)` gives (L,N,C)."""
    query = encode(image)
    banks = [encode(reference) for reference in references]
    raw = []
    for block in range(len(query)):
        matched = None
        if banks:
            bank = torch.cat([tokens[block] for tokens in banks])
            matched = bank[nearest(query[block], bank, align)]
        grid = int(len(query[block]) ** 0.5)
        raw.append(raw_map(method.heads[block], discrepancy(query[block], matched, fd)).view(grid, grid))
    raw = torch.stack(raw)
    return raw, torch.stack([refined_map(method.nam, one) for one in raw])


def at_side(image, side, mode):
    """An image or map (C,H,W) at another side."""
    return F.interpolate(image[None], size=(side, side), mode=mode, antialias=True)[0]


def window_maps(
    encode,
    embed,
    method,
    image,
    references,
    size,
    stride,
    patch,
    align="mulmax",
    fd="abs",
    index=False,
    whole=False,
    encoded=None,
):
    """LFE -> stitched raw (L,G,G), refined (L,G,G); `index`: the published union of picked reference
    windows; `whole`: the references' whole images in place of their windows; `encoded`: the side in patches
    that windows are resized to."""
    grid = image.shape[-1] // patch
    encoded = encoded or size
    origins = list(range(0, grid - size + 1, stride))
    if origins[-1] != grid - size:
        origins.append(grid - size)

    def crops(photo):
        cut = [
            photo[:, r * patch : (r + size) * patch, c * patch : (c + size) * patch]
            for r in origins
            for c in origins
        ]
        return [at_side(window, encoded * patch, "bicubic") for window in cut]

    windows = [window for reference in references for window in crops(reference)]
    if whole:
        windows = list(references)
    if index:
        gallery = torch.stack([embed(window) for window in windows])
        picked = sorted({int((gallery @ embed(window)).argmax()) for window in crops(image)})
        windows = [windows[number] for number in picked]
    banks = [encode(window) for window in windows]
    total, count = None, torch.zeros(grid, grid)
    places = [(r, c) for r in origins for c in origins]
    for (r, c), window in zip(places, crops(image)):
        query = encode(window)
        if total is None:
            total = torch.zeros(len(query), grid, grid)
        count[r : r + size, c : c + size] += 1
        for block in range(len(query)):
            bank = torch.cat([tokens[block] for tokens in banks])
            matched = bank[nearest(query[block], bank, align)]
            part = raw_map(method.heads[block], discrepancy(query[block], matched, fd))
            part = at_side(part.view(1, encoded, encoded), size, "bilinear")[0]
            total[block, r : r + size, c : c + size] += part
    raw = total / count
    return raw, torch.stack([refined_map(method.nam, one) for one in raw])
