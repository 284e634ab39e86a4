"""Random numbers without a generator's state: the bits of a number spread over all of a hash's."""

import torch

_FACTORS = (2146121005, -2073254261)  # 0x7FEB352D, 0x846CA68B as int32


def mix_bits(bits: torch.Tensor) -> torch.Tensor:
    """Spreads every bit of int32 values over all others; a bijection.

    Multiplications and shifted exclusive ors after C. Wellons' search for hashes of little bias (`lowbias32`).
    """
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * _FACTORS[0]
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * _FACTORS[1]
    return bits ^ ((bits >> 16) & 0xFFFF)
