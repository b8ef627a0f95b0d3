"""The entropy coder of CompressAI's strings, in plain Python.

It is rANS with a state of 31 to 63 bits that grows and shrinks by words of 32 (F. Giesen's *rans64*;
J. Duda, arXiv 1311.2540), with frequencies of 16 bits. With f the frequency of a symbol, c the sum of those
before it and x the state, of 2³¹ to 2⁶³::

    decode   s is the symbol with c ≤ x mod 2¹⁶ < c + f     x ← f·⌊x / 2¹⁶⌋ + x mod 2¹⁶ − c
             below 2³¹:    x ← 2³²·x + next word
    encode   from 2⁴⁷·f:   write x mod 2³², x ← ⌊x / 2³²⌋
             x ← 2¹⁶·⌊x / f⌋ + x mod f + c

An encoder takes the symbols from the last to the first, and a decoder reads its words from the last to
the first. The last entry of a table is an escape: behind it stand, in nibbles, the number of nibbles of
what lies outside the table, and that; CompressAI counts their number with carries of 15.

CompressAI's own coder is compiled, but it cannot be installed without torch, it belongs to one version of
Python, and it reads beyond the end of strings. This one cannot; decoding takes some 0.7 µs a symbol instead
of 0.2, which is less than a third of the time that an image takes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lic_da.io.bitstream import StreamError

PRECISION = 16
"""Bits of the frequencies."""

_MASK = (1 << PRECISION) - 1
_LOW = 1 << 31
_WORD = 32
_NIBBLE = 15
_MOST_NIBBLES = 8  # of 32 bits
_ENDS = "The stream's strings end before the latent that they should hold."


@dataclass(frozen=True)
class Tables:
    """Frequencies of the symbols, one table after another.

    Attributes:
        cdfs: of each table, the sums of frequencies before every symbol, from 0, and 2¹⁶; the last
            symbol is the escape.
        offsets: what the first symbol of each table stands for.
    """

    cdfs: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, cdf: NDArray, lengths: NDArray, offsets: NDArray) -> Tables:
        """Tables as CompressAI has them.

        Args:
            cdf: ``(tables, entries)`` integers, each row filled up behind its length.
            lengths: ``(tables,)``, entries of each that count.
            offsets: ``(tables,)``.

        Raises:
            ValueError: these are no tables.
        """
        if cdf.ndim != 2 or lengths.shape != (len(cdf),) or offsets.shape != (len(cdf),):
            raise ValueError("tables, lengths and offsets do not belong together")
        if len(cdf) == 0 or lengths.min() < 3 or lengths.max() > cdf.shape[1]:
            raise ValueError("a table has no entries")
        rows = [row[:length] for row, length in zip(cdf, lengths.tolist(), strict=True)]
        for row in rows:
            if row[0] != 0 or row[-1] != 1 << PRECISION or (np.diff(row) <= 0).any():
                raise ValueError("a table does not rise from 0 to 2^16")
        return cls(tuple(tuple(row.tolist()) for row in rows), tuple(offsets.tolist()))

    def __len__(self) -> int:
        return len(self.cdfs)

    def least_bits(self) -> NDArray[np.float64]:
        """Bits of the likeliest symbol of each table, ``(tables,)``."""
        return np.array([PRECISION - math.log2(max(np.diff(cdf))) for cdf in self.cdfs])


class RansDecoder:
    """Reads symbols out of a string, and nothing beyond its end.

    Args:
        string: as an encoder wrote it.

    Raises:
        StreamError: no encoder can have written the string.
    """

    def __init__(self, string: bytes) -> None:
        if len(string) < 8 or len(string) % 4:
            raise StreamError("The stream's strings are not those of an entropy coder.")
        self._words = iter(np.frombuffer(string, "<u4").tolist())
        self._state = next(self._words) | next(self._words) << _WORD
        if not _LOW <= self._state < _LOW << _WORD:
            raise StreamError("The stream's strings are not those of an entropy coder.")

    def decode(self, tables: Tables, indexes: Iterable[int]) -> list[int]:
        """The next symbols.

        Args:
            tables: to choose from.
            indexes: the number of the table of every symbol.

        Raises:
            StreamError: the string ends before.
        """
        try:
            return self._decode(tables, indexes)
        except StopIteration:
            raise StreamError(_ENDS) from None

    def _decode(self, tables: Tables, indexes: Iterable[int]) -> list[int]:
        words, state, symbols = self._words, self._state, []
        cdfs, offsets = tables.cdfs, tables.offsets
        for index in indexes:
            cdf = cdfs[index]
            low = state & _MASK
            entry = bisect_right(cdf, low) - 1
            start = cdf[entry]
            state = (cdf[entry + 1] - start) * (state >> PRECISION) + low - start
            if state < _LOW:
                state = state << _WORD | next(words)
            if entry == len(cdf) - 2:
                self._state = state
                entry = self._escaped(entry)
                state = self._state
            symbols.append(entry + offsets[index])
        self._state = state
        return symbols

    def _escaped(self, escape: int) -> int:
        """What stands behind an escape; entries below 0 and from ``escape`` on are coded so."""
        count = nibble = self._nibble()
        while nibble == _NIBBLE and count <= _MOST_NIBBLES:
            nibble = self._nibble()
            count += nibble
        if count > _MOST_NIBBLES:
            raise StreamError("The stream's strings hold a number that no encoder writes.")
        coded = sum(self._nibble() << 4 * place for place in range(count))
        return -(coded >> 1) - 1 if coded & 1 else (coded >> 1) + escape

    def _nibble(self) -> int:
        value = self._state & _NIBBLE
        self._state >>= 4
        if self._state < _LOW:
            self._state = self._state << _WORD | next(self._words)
        return value


class RansEncoder:
    """Collects symbols and writes them as a string."""

    def __init__(self) -> None:
        self._coded: list[tuple[int, int]] = []  # c and f of a symbol; f = 0: a nibble

    def encode(self, tables: Tables, indexes: Iterable[int], symbols: Sequence[int]) -> None:
        """Add symbols.

        Args:
            tables: to choose from.
            indexes: the number of the table of every symbol.
            symbols: 32-bit integers.
        """
        coded = self._coded
        for index, symbol in zip(indexes, symbols, strict=True):
            cdf = tables.cdfs[index]
            escape = len(cdf) - 2
            entry = symbol - tables.offsets[index]
            if 0 <= entry < escape:
                coded.append((cdf[entry], cdf[entry + 1] - cdf[entry]))
            else:
                coded.append((cdf[escape], cdf[escape + 1] - cdf[escape]))
                self._escape(entry, escape)

    def _escape(self, entry: int, escape: int) -> None:
        value = -2 * entry - 1 if entry < 0 else 2 * (entry - escape)
        count = (value.bit_length() + 3) // 4
        self._coded.append((count, 0))  # of a 32-bit number: no carry
        self._coded += [(value >> 4 * place & _NIBBLE, 0) for place in range(count)]

    def flush(self) -> bytes:
        """The string of all symbols."""
        state, words = _LOW, []
        for start, frequency in reversed(self._coded):
            if frequency:
                if state >= frequency << 47:
                    words.append(state & 0xFFFFFFFF)
                    state >>= _WORD
                state = (state // frequency << PRECISION) + state % frequency + start
            else:
                if state >= 1 << 59:
                    words.append(state & 0xFFFFFFFF)
                    state >>= _WORD
                state = state << 4 | start
        words += [state >> _WORD, state & 0xFFFFFFFF]
        self._coded = []
        return np.array(words[::-1], "<u4").tobytes()
