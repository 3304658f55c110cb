"""JSON as RFC 8259 has it. Python's own module also writes and reads what is none.

NaN, Infinity and numbers that no float holds are refused both ways: a figure that is none must not
look like one further on. Nor are a name twice in one object, half of a surrogate pair, which UTF-8
cannot express, and a value so deep that who copies or writes it exhausts the stack.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from components.common.errors import DataError
from components.common.files import plain

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DEEPEST = 100
_MOST_DIGITS = 300  # of an integer: as a float it is finite


def dumps(value: Any, **layout: Any) -> str:
    """As json.dumps.

    Raises:
        ValueError: there is a number that is not finite.
    """
    return json.dumps(value, allow_nan=False, **layout)


def write(path: Path, value: Any) -> None:
    """Write a file for programs and for people.

    Raises:
        ValueError: as `dumps` raises it.
        OSError: it cannot be written.
    """
    path.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")


def loads(text: str | bytes) -> Any:
    """The value in a text, or in bytes of UTF-8.

    Raises:
        ValueError: it is not JSON, or nested too deeply; says why in a phrase.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        if text.count("[") + text.count("{") > _DEEPEST:
            _require_shallow(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise ValueError(f"half of a surrogate pair (\\u{half:04x})") from None
    return value


def read(path: Path) -> Any:
    """The value in a file.

    Raises:
        ValueError: as `loads` raises it.
        DataError: it is a pipe, a socket or a device.
        OSError: it cannot be read.
    """
    return loads(plain(path).read_bytes())


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file that a reader cannot do without.

    Raises:
        DataError: it is missing or damaged; says `hint`.
        OSError: it cannot be read.
    """
    try:
        found = read(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint=hint) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})", hint=hint) from None
    if type(found) is not dict:
        raise DataError(f"{path}: not a JSON object", hint=hint)
    return found


def number(value: Any) -> float:
    """What a field that holds a figure holds.

    Raises:
        ValueError: it is no finite number.
    """
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        values = (one.values() if isinstance(one, dict) else one for one in level)
        level = [inner for one in values for inner in one if isinstance(inner, dict | list)]
        if not level:
            return
    raise RecursionError


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers of one text must not see two different values.
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is there twice in one object")
    return result


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is too large")
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
)
