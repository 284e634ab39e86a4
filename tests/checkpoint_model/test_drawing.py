import math

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from em_tasks.plugins.checkpoint_model.engines.drawing import (
    RowSampling,
    draw,
    gumbel_noise,
    is_filtered,
    row_keys,
    token_logprobs,
)
from em_tasks.plugins.checkpoint_model.engines.protocol import Sampling


def rows(sampling: Sampling, seeds: list[int], step: int = 0) -> RowSampling:
    return RowSampling.of([sampling] * len(seeds), seeds, [step] * len(seeds), "cpu")


def test_noise_is_gumbel_distributed_and_differs_by_seed_step_and_token() -> None:
    noise = gumbel_noise(torch.arange(40), torch.zeros(40, dtype=torch.int64), 5000).double()
    assert abs(float(noise.mean()) - 0.5772156649) < 0.01
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.03
    for bound in (-1.0, 0.0, 1.0, 3.0, 6.0):
        expected = math.exp(-math.exp(-bound))
        assert abs(float((noise <= bound).double().mean()) - expected) < 0.004
    later = gumbel_noise(torch.arange(40), torch.ones(40, dtype=torch.int64), 5000).double()
    pairs = [(noise[0], noise[1]), (noise[:, 0], noise[:, 1]), (noise[3], later[3]), (noise[4, :-1], noise[4, 1:])]
    for one, other in pairs:
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 5 / math.sqrt(len(one))


def test_noise_is_what_it_was() -> None:
    # An independent computation of the hash in Python's own integers.
    def mix(x: int) -> int:
        x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
        return x ^ x >> 16

    def noise(seed: int, step: int, token: int) -> float:
        state = (seed * (2**64 - 7046029254386353131) + (step + 1) * (2**64 - 4417276706812531889)) % 2**64
        state = ((state ^ state >> 30) * (2**64 - 4658895280553007687)) % 2**64
        state = ((state ^ state >> 27) * (2**64 - 7723592293110705685)) % 2**64
        state ^= state >> 31
        bits = mix(mix(token * 0x9E3779B9 % 2**32 ^ state % 2**32) ^ state >> 32)
        return -math.log(-math.log1p(-((bits % 2**31) + 0.5) / 2**31))

    cases = [(0, 0, 0), (1, 0, 5), (2**63 - 1, 599, 128_255), (123_456_789_012_345, 17, 2_047)]
    for seed, step, token in cases:
        drawn = gumbel_noise(torch.tensor([seed]), torch.tensor([step]), token + 1)[0, token]
        assert float(drawn) == pytest.approx(noise(seed, step, token), rel=1e-4, abs=1e-5)


def test_keys_of_neighbouring_seeds_and_steps_are_all_different() -> None:
    seeds, steps = torch.arange(300).repeat_interleave(300), torch.arange(300).repeat(300)
    first, second = row_keys(seeds, steps)
    assert len({*zip(first.tolist(), second.tolist(), strict=True)}) == 90_000


def test_draws_follow_the_softmax_at_any_temperature() -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
    for temperature in (0.5, 1.0, 2.0):
        drawn = draw(logits.expand(20_000, -1), rows(Sampling(1, temperature), list(range(20_000))), filtered=False)
        share = torch.bincount(drawn, minlength=12) / 20_000
        assert torch.allclose(share, (logits[0] / temperature).softmax(-1), atol=0.012)


def test_temperature_0_takes_the_likeliest_whatever_the_others_do() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    how = RowSampling.of([Sampling(1, 0), Sampling(1, 9.0), *[Sampling(1, 0)] * 3], [0, 1, 2, 3, 4], [0] * 5, "cpu")
    drawn = draw(logits, how, filtered=False)
    assert drawn[[0, 2, 3, 4]].tolist() == logits.argmax(-1)[[0, 2, 3, 4]].tolist()


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 0.7, 0), (1.0, 1.0, 5), (0.6, 0.5, 7), (2.0, 0.999, 0), (1.0, 1e-6, 0)]
)
def test_top_p_and_top_k_leave_what_transformers_leaves(temperature: float, top_p: float, top_k: int) -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(3)) * 3
    how = Sampling(1, temperature, top_p, top_k)
    assert is_filtered(how)
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    scores = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
    drawn = draw(logits.expand(4_000, -1), rows(how, list(range(4_000))), filtered=True)
    share = torch.bincount(drawn, minlength=40) / 4_000
    assert torch.allclose(share, scores[0].softmax(-1), atol=0.03)
    assert set(drawn.tolist()) <= set(scores[0].isfinite().nonzero().flatten().tolist())


def test_filters_of_one_row_leave_its_neighbours_alone() -> None:
    logits = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    hows = [Sampling(1, 1.0), Sampling(1, 1.0, top_k=1), Sampling(1, 1.0)]
    mixed = draw(logits, RowSampling.of(hows, [7, 8, 9], [4] * 3, "cpu"), filtered=True)
    plain = draw(logits, rows(Sampling(1), [7, 8, 9], 4), filtered=False)
    assert mixed[[0, 2]].tolist() == plain[[0, 2]].tolist()
    assert mixed[1] == logits[1].argmax()


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    drawn, best, which = token_logprobs(logits, torch.tensor([3, 4]), 2)
    assert torch.allclose(drawn, logits.log_softmax(-1)[[0, 1], [3, 4]])
    assert which[:, 0].tolist() == logits.argmax(-1).tolist()
    assert torch.allclose(best[:, 0], logits.log_softmax(-1).max(-1).values)
