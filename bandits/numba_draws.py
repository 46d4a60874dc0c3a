"""Compiled twins of `bandits.draws`: the same bits for the same seed, stream and key.

Invariants: equal to `bits`, `uniforms` and `normals` bit for bit. Keys and bits are uint64 throughout: one signed
number among them would turn a product into a float.
"""

import math

import numpy as np
from numba import njit

from bandits.numba_inner import inner

_ONE = np.uint64(1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1, _MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_LOW_BITS = np.uint64(12)


@njit(inline="always")
def mix(z):  # type: ignore[no-untyped-def]
    """SplitMix64 finaliser (`bandits.hashing.mix`)."""
    z = (z ^ (z >> _SHIFT_1)) * _MULTIPLIER_1
    z = (z ^ (z >> _SHIFT_2)) * _MULTIPLIER_2
    return z ^ (z >> _SHIFT_3)


@inner
def stream_key(seed, stream):  # type: ignore[no-untyped-def]
    """Offset and odd factor that turn a key into its bits (`bandits.draws.bits`)."""
    offset = mix(mix(seed + _GOLDEN) + np.uint64(stream) * _GOLDEN)
    return offset, mix(offset + _GOLDEN) | _ONE


@njit(inline="always")
def key_bits(offset, factor, key):  # type: ignore[no-untyped-def]
    """The bits of one key."""
    return mix(key * factor + offset)


@njit(inline="always")
def key_uniform(offset, factor, key):  # type: ignore[no-untyped-def]
    """The uniform draw of one key (`bandits.draws.uniforms`)."""
    return (np.float64(key_bits(offset, factor, key) >> _LOW_BITS) + 0.5) * 2.0**-52


@njit(inline="always")
def coarse_word(base, block):  # type: ignore[no-untyped-def]
    """Of its four quarters draws 4 * block to 4 * block + 3 of a key are made (`bandits.draws.coarse_normals`)."""
    return mix(base + np.uint64(block + 1) * _GOLDEN)


_TAIL = 0.13533528323661269189  # exp(-2)
_ROOT_2_PI = 2.50662827463100050242


@inner
def normal_quantile(y0):  # type: ignore[no-untyped-def]
    """Inverse normal distribution function of 0 < y0 < 1, as `scipy.special.ndtri` (Cephes, Moshier 1989)."""
    lower, y = True, y0
    if y > 1.0 - _TAIL:
        y, lower = 1.0 - y, False
    if y > _TAIL:
        y -= 0.5
        y2 = y * y
        return (y + y * (y2 * _centre_above(y2) / _centre_below(y2))) * _ROOT_2_PI
    x = math.sqrt(-2.0 * math.log(y))
    z = 1.0 / x
    part = z * _near_above(z) / _near_below(z) if x < 8.0 else z * _far_above(z) / _far_below(z)
    x = x - math.log(x) / x - part
    return -x if lower else x


@njit(inline="always")
def _centre_above(x):  # type: ignore[no-untyped-def]
    p = -5.99633501014107895267e1 * x + 9.80010754185999661536e1
    p = (p * x + -5.66762857469070293439e1) * x + 1.39312609387279679503e1
    return p * x + -1.23916583867381258016e0


@njit(inline="always")
def _centre_below(x):  # type: ignore[no-untyped-def]
    p = (x + 1.95448858338141759834e0) * x + 4.67627912898881538453e0
    p = (p * x + 8.63602421390890590575e1) * x + -2.25462687854119370527e2
    p = (p * x + 2.00260212380060660359e2) * x + -8.20372256168333339912e1
    return (p * x + 1.59056225126211695515e1) * x + -1.18331621121330003142e0


@njit(inline="always")
def _near_above(x):  # type: ignore[no-untyped-def]
    p = (4.05544892305962419923e0 * x + 3.15251094599893866154e1) * x + 5.71628192246421288162e1
    p = (p * x + 4.40805073893200834700e1) * x + 1.46849561928858024014e1
    p = (p * x + 2.18663306850790267539e0) * x + -1.40256079171354495875e-1
    return (p * x + -3.50424626827848203418e-2) * x + -8.57456785154685413611e-4


@njit(inline="always")
def _near_below(x):  # type: ignore[no-untyped-def]
    p = (x + 1.57799883256466749731e1) * x + 4.53907635128879210584e1
    p = (p * x + 4.13172038254672030440e1) * x + 1.50425385692907503408e1
    p = (p * x + 2.50464946208309415979e0) * x + -1.42182922854787788574e-1
    return (p * x + -3.80806407691578277194e-2) * x + -9.33259480895457427372e-4


@njit(inline="always")
def _far_above(x):  # type: ignore[no-untyped-def]
    p = (3.23774891776946035970e0 * x + 6.91522889068984211695e0) * x + 3.93881025292474443415e0
    p = (p * x + 1.33303460815807542389e0) * x + 2.01485389549179081538e-1
    p = (p * x + 1.23716634817820021358e-2) * x + 3.01581553508235416007e-4
    return (p * x + 2.65806974686737550832e-6) * x + 6.23974539184983293730e-9


@njit(inline="always")
def _far_below(x):  # type: ignore[no-untyped-def]
    p = (x + 6.02427039364742014255e0) * x + 3.67983563856160859403e0
    p = (p * x + 1.37702099489081330271e0) * x + 2.16236993594496635890e-1
    p = (p * x + 1.34204006088543189037e-2) * x + 3.28014464682127739104e-4
    return (p * x + 2.89247864745380683936e-6) * x + 6.79019408009981274425e-9
