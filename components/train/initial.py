"""A model of fairseq's without the random weights that a checkpoint is about to replace.

Filling roberta_large with random numbers takes most of the time of its start: fairseq draws each
weight two to four times. Within `undrawn` large tensors stay as they were allocated, and draws are
only counted. The generator then jumps over them, so that what is drawn next, such as a new ranking
head, is what it would be.

torch's generator for the CPU is the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998). Its
state after any number of draws follows from t ** draws modulo the characteristic polynomial of its
recurrence (Haramoto et al., 2008). Polynomials over GF(2) are Python integers here, bit i is t**i.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_SIZE, _MIDDLE, _TWIST = 624, 397, 0x9908B0DF  # words of the state; of the recurrence
_DEGREE = 19937


@contextmanager
def undrawn() -> Iterator[None]:
    """Within the block, what torch would draw on the CPU is skipped; what follows is unchanged.

    Matrices that are made in the block hold anything: all of them have to be replaced.
    """
    mode = _Undrawn()
    with mode:
        yield
    mode.catch_up()


class _Undrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; torch would import its compiler, for seconds, to skip this."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is _aten.zeros.default and len(args[0]) > 1:
            func = _aten.empty.memory_format
        elif torch.Tag.nondeterministic_seeded in func.tags:
            draws = _draws(func, args[0], kwargs)
            self.draws += draws
            if draws:
                return args[0]
            self.catch_up()
        return func(*args, **(kwargs or {}))

    def catch_up(self) -> None:
        """Bring torch's generator to where it would be."""
        skip(torch.default_generator, self.draws)
        self.draws = 0


def _draws(func: Any, target: Any, kwargs: Any) -> int:
    """How many numbers of 32 bits torch's default generator would give; 0 where that is unknown."""
    if not isinstance(target, torch.Tensor) or (kwargs or {}).get("generator") is not None:
        return 0
    if target.dtype != torch.float32 or target.device.type != "cpu" or not target.is_contiguous():
        return 0
    count = target.numel()
    if func is _aten.uniform_.default:
        return count
    if func is _aten.normal_.default and count >= 16:
        # Made in groups of 16, the last of which overlaps (ATen/native/cpu/DistributionTemplates.h)
        return count + (16 if count % 16 else 0)
    return 0


def skip(generator: torch.Generator, draws: int) -> None:
    """Bring a generator on the CPU to where it is after giving this many numbers of 32 bits."""
    state = generator.get_state()
    # ATen/CPUGeneratorImpl.cpp: the seed, (how many are left, -), the place in the words, the words
    fields = state.numpy()[: 8 * (3 + _SIZE)].view(np.uint64)
    words = fields[3:]
    place = int(fields[2]) or _SIZE  # where none was given yet, the words are to be renewed
    renewed, place = divmod(place + draws - 1, _SIZE)
    if not draws:
        return
    if renewed:
        words[:] = _ahead(words.astype(np.uint32), renewed * _SIZE)
    fields[2] = place + 1
    fields[1:2].view(np.int32)[0] = _SIZE - place
    generator.set_state(state)


def _ahead(words: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """The words of the recurrence from word `count` on, at least 1, given those from word 0 on."""
    given = np.empty(_SIZE + _DEGREE + 1, np.uint32)
    given[:_SIZE] = words
    chunk = _SIZE - _MIDDLE  # none of these depends on another
    for end in range(_SIZE, len(given), chunk):
        old = given[end - _SIZE : end - _SIZE + chunk + 1][: len(given) - end + 1]
        mixed = (old[:-1] & np.uint32(1 << 31)) | (old[1:] & np.uint32((1 << 31) - 1))
        twisted = (mixed >> np.uint32(1)) ^ (mixed & np.uint32(1)) * np.uint32(_TWIST)
        given[end : end + chunk] = given[end - chunk : end][: len(mixed)] ^ twisted
    result = np.zeros(_SIZE, np.uint32)
    # From word 1 on, for of word 0 only one bit takes part in the recurrence.
    for power, bit in enumerate(reversed(f"{_power(count - 1):b}")):
        if bit == "1":
            result ^= given[power + 1 : power + 1 + _SIZE]
    return result


def _power(exponent: int) -> int:
    """t ** exponent, modulo the characteristic polynomial."""
    result = 1
    for bit in f"{exponent:b}":
        square = int("0".join(f"{result:b}"), 2)
        result = _modulo(square << int(bit))
    return result


def _modulo(polynomial: int) -> int:
    lower = _lower_powers()
    while high := polynomial >> _DEGREE:
        polynomial &= (1 << _DEGREE) - 1
        for power in lower:
            polynomial ^= high << power
    return polynomial


@functools.cache
def _lower_powers() -> list[int]:
    """The powers in the characteristic polynomial, but for the highest one."""
    polynomial = 1  # Horner's scheme, over the bits of _TWIST
    for bit in range(32):
        shift = bit < 31  # of a word's bits, one is the upper part
        polynomial = polynomial << _SIZE - shift ^ polynomial << _MIDDLE - shift
        polynomial ^= _TWIST >> bit & 1
    return [power for power in range(_DEGREE) if polynomial >> power & 1]
