"""The kernels behind `kernels`, in Triton; imported only where Triton is installed."""

# mypy: ignore-errors
# ruff: noqa: D103, N803 - Triton's constants are written so; what each does stands in `kernels`.

import triton
import triton.language as tl


@triton.jit
def gated(states, out, stride, half, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = place < half
    gate = tl.load(states + row * stride + place, mask=there, other=0.0).to(tl.float32)
    up = tl.load(states + row * stride + half + place, mask=there, other=0.0).to(tl.float32)
    opened = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * half + place, (opened * up).to(out.dtype.element_ty), mask=there)


@triton.jit
def add_norm(x, y, weight, total, normed, stride_y, hidden, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    there = place < hidden
    a = tl.load(x + row * hidden + place, mask=there, other=0.0).to(tl.float32)
    b = tl.load(y + row * stride_y + place, mask=there, other=0.0).to(tl.float32)
    added = (a + b).to(total.dtype.element_ty)
    tl.store(total + row * hidden + place, added, mask=there)
    states = added.to(tl.float32)
    factor = tl.rsqrt(tl.sum(states * states, axis=0) / hidden + eps)
    scaled = states * factor * tl.load(weight + place, mask=there, other=0.0).to(tl.float32)
    tl.store(normed + row * hidden + place, scaled.to(normed.dtype.element_ty), mask=there)


@triton.jit
def turn_and_keep(
    states, cos, sin, keys, values, target, out, stride, heads, key_heads, SIZE: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    place = tl.arange(0, SIZE)
    source = states + row * stride + head * SIZE
    projected = tl.load(source + place)
    at = tl.load(target + row)
    if head < heads + key_heads:
        other = tl.load(source + (place + SIZE // 2) % SIZE).to(tl.float32)
        c = tl.load(cos + row * SIZE + place).to(tl.float32)
        s = tl.load(sin + row * SIZE + place).to(tl.float32)
        straight = (projected.to(tl.float32) * c).to(projected.dtype).to(tl.float32)
        turned = (straight + other * s).to(projected.dtype)
        if head < heads:
            tl.store(out + (row * heads + head) * SIZE + place, turned)
        else:
            tl.store(keys + (at * key_heads + (head - heads)) * SIZE + place, turned)
    else:
        tl.store(values + (at * key_heads + (head - heads - key_heads)) * SIZE + place, projected)


@triton.jit
def attend(
    queries, keys, values, used, out, scale, row_stride, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr,
    SIZE: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    key_head = tl.program_id(1)
    query = tl.arange(0, QUERIES)
    place = tl.arange(0, SIZE)
    group: tl.constexpr = HEADS // KEY_HEADS
    there = query[:, None] < group
    at = (row * HEADS + key_head * group + query[:, None]) * SIZE + place[None, :]
    q = tl.load(queries + at, mask=there, other=0.0)
    # Powers of 2, which the hardware has, in place of e.
    factor = scale * 1.4426950408889634
    most = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, SIZE], tl.float32)
    length = tl.load(used + row)
    start = row * row_stride + key_head * SIZE
    for first in range(0, length, BLOCK):
        token = first + tl.arange(0, BLOCK)
        seen = token < length
        offsets = start + token[:, None].to(tl.int64) * (KEY_HEADS * SIZE) + place[None, :]
        k = tl.load(keys + offsets, mask=seen[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k)) * factor
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrunk = tl.exp2(most - higher)
        v = tl.load(values + offsets, mask=seen[:, None], other=0.0)
        sums = sums * shrunk[:, None] + tl.dot(weights.to(v.dtype), v)
        total = total * shrunk + tl.sum(weights, 1)
        most = higher
    tl.store(out + at, (sums / total[:, None]).to(out.dtype.element_ty), mask=there)


@triton.jit
def draw(
    logits, first, second, temperature, sampled, best, where, stride, vocabulary, parts, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    token = part * BLOCK + tl.arange(0, BLOCK)
    there = token < vocabulary
    score = tl.load(logits + row * stride + token, mask=there, other=0.0).to(tl.float32) / tl.load(temperature + row)
    bits = (token.to(tl.uint32) * 0x9E3779B9) ^ tl.load(first + row).to(tl.uint32, bitcast=True)
    bits = _mix(bits) ^ tl.load(second + row).to(tl.uint32, bitcast=True)
    bits = _mix(bits) & 0x7FFFFFFF
    uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10
    uniform = tl.minimum(uniform, 0.99999994)
    # -log(1 - u) to float32's precision: the series where 1 - u would round u away.
    series = uniform * (1.0 + uniform * (0.5 + uniform * (1.0 / 3.0 + uniform * (0.25 + uniform * 0.2))))
    exponential = tl.where(uniform < 0.01, series, -tl.log(1.0 - uniform))
    score = tl.where(there, score - tl.log(exponential) * tl.load(sampled + row), float("-inf"))
    tl.store(best + row * parts + part, tl.max(score, axis=0))
    tl.store(where + row * parts + part, part * BLOCK + tl.argmax(score, axis=0).to(tl.int32))


@triton.jit
def _mix(bits):
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)
