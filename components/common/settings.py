"""Settings that came in a file from outside: each is asked for by name, type and range."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from components.common.errors import DataError

_MISSING: Any = object()


def shown(value: object) -> str:
    """The value as an error shows it: short, whatever it is."""
    if type(value) is int and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if type(value) is str:
        return repr(value if len(value) <= 40 else value[:40] + "...")
    if value is None or type(value) in (bool, int, float):
        return repr(value)
    return f"of type {type(value).__name__}"


class Settings:
    """The settings in a file; what nobody asks for is ignored.

    Args:
        values: a mapping or a Namespace; None is an empty one.
        where: what they are of, for errors.
        hint: likewise.
        defaults: for settings that are not in the file.

    Raises:
        DataError: `values` is something else. The methods raise it for a setting that is missing
            without a default, of another type, or out of its range.
    """

    def __init__(
        self, values: object, where: str, hint: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        if isinstance(values, argparse.Namespace):
            values = vars(values)
        if values is not None and not isinstance(values, Mapping):
            raise DataError(f"{where}: its settings are {shown(values)}", hint=hint)
        self._values: dict[Any, Any] = {**(defaults or {}), **(values or {})}
        self._where, self._hint = where, hint

    def below(self, name: str, defaults: Mapping[str, Any] | None = None) -> "Settings":
        """The settings that are the value of a setting; none where there is none."""
        return Settings(self._values.get(name), f"{self._where}: {name}", self._hint, defaults)

    def whole(self, name: str, least: int, most: int, default: Any = _MISSING) -> int:
        value = self._get(name, default)
        if name in self._values and not (type(value) is int and least <= value <= most):
            raise self._refusal(name, value, f"a whole number from {least} to {most}")
        return int(value)

    def whole_or_none(self, name: str, least: int, most: int) -> int | None:
        return None if self._get(name, _MISSING) is None else self.whole(name, least, most)

    def share(self, name: str, default: float) -> float:
        """A number of at least 0 and below 1."""
        value = self._get(name, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise self._refusal(name, value, "a number from 0 to below 1")
        return float(value)

    def choice(self, name: str, among: Sequence[str], default: str) -> str:
        value = self._get(name, default)
        if type(value) is not str or value not in among:
            raise self._refusal(name, value, f"one of {', '.join(among)}")
        return value

    def require(self, name: str, wanted: object, default: object = _MISSING) -> None:
        """Refuse another value than `wanted`, which is also the default unless another is given."""
        value = self._get(name, wanted if default is _MISSING else default)
        numbers = type(value) in (int, float) and type(wanted) in (int, float)
        if not (numbers or type(value) is type(wanted)) or value != wanted:
            raise self._refusal(name, value, f"{wanted!r}, the only one that is computed")

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name, default)
        if value is _MISSING:
            raise DataError(f"{self._where}: {name} is missing", hint=self._hint)
        return value

    def _refusal(self, name: str, value: object, wanted: str) -> DataError:
        return DataError(f"{self._where}: {name} is {shown(value)}, not {wanted}", hint=self._hint)
