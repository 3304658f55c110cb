"""What Kubernetes takes as a quantity, a name, a label or a toleration.

It is checked before anything is sent: KFP finds a wrong one only when it makes the step's pod, and
then says neither which step nor which parameter. Source: Kubernetes' apimachinery, pkg/api/resource
and pkg/util/validation.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from components.common.errors import ConfigError

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_OPERATORS = ("Exists", "Equal")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TOLERATION = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}


def _like(pattern: str | re.Pattern[str], hint: str) -> Callable[[Any], str]:
    """Tells what to do about a wrong value, the hint; "" if it is right. So with all the others."""
    return lambda value: "" if re.fullmatch(pattern, value) else hint


cpu = _like(r"[0-9]+(\.[0-9]+)?m?", "Write it as Kubernetes does, such as 8 or 500m")
# A number of bytes without a unit has many digits; fewer are a unit forgotten.
memory = _like(
    r"[0-9]{7,}|[0-9]+(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)",
    "Write it as Kubernetes does, such as 512Mi or 64Gi",
)
# Of a Secret, a service account and so on.
name = _like(_NAME, "Use small letters, digits, dots and hyphens, as Kubernetes does")
# Of a Secret or ConfigMap that is mounted: KFP calls the volume by its name.
volume = _like(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
    "Use small letters, digits and hyphens, 63 at most: a volume is called by it",
)
# The key of a Secret or ConfigMap, which is a file where that is mounted.
file = _like(r"[-A-Za-z0-9_][-A-Za-z0-9_.]{0,252}", "Give one of its keys, such as ca.crt")


def resource(value: str) -> str:
    return _key(value) and "Give a resource's name, such as nvidia.com/gpu"


def labels(values: Mapping[Any, Any]) -> str:
    for key, value in values.items():
        if wrong := _key(key):
            return wrong
        if not (isinstance(value, str) and (not value or _LABEL.fullmatch(value))):
            return f"{key}: the value of a label is text of letters, digits, -, _ and ., 63 at most"
    return ""


def annotations(values: Mapping[Any, Any]) -> str:
    for key, value in values.items():
        if wrong := _key(key):
            return wrong
        if not isinstance(value, str):
            return f"{key}: the value of an annotation is text"
    return ""


def environment(values: Mapping[Any, Any]) -> str:
    for key, value in values.items():
        if not (isinstance(key, str) and _VARIABLE.fullmatch(key)):
            return f"{key!r:.60} is no name of a variable"
        if not isinstance(value, str):
            return f"{key}: the value of a variable is text"
        if key == "RACE_IMAGE" or key.startswith(("PET_", "KFP_")):
            return f"{key} is set by the pipeline itself"
    return ""


def tolerations(values: list[Any]) -> str:
    """Of a list of tolerations as in a pod's spec."""
    for given in values:
        if not isinstance(given, dict) or not given:
            return """Each is a JSON object, such as {"key": "gpu", "operator": "Exists"}"""
        for key, value in given.items():
            if key not in _TOLERATION:
                return f"{key!r:.60} is none of {', '.join(_TOLERATION)}"
            if type(value) is not _TOLERATION[key]:
                return f"{key} is {value!r:.60}"
        if wrong := _toleration(**given):
            return wrong
    return ""


def _toleration(
    key: str = "",
    operator: str = "Equal",
    value: str = "",
    effect: str = "",
    tolerationSeconds: int | None = None,
) -> str:
    if operator not in _OPERATORS:
        return f"operator {operator!r:.60} is none of {', '.join(_OPERATORS)}"
    if effect and effect not in _EFFECTS:
        return f"effect {effect!r:.60} is none of {', '.join(_EFFECTS)}"
    if operator == "Exists" and value:
        return "operator Exists takes no value"
    if operator == "Equal" and not key:
        return "without a key the operator has to be Exists"
    if tolerationSeconds is not None and effect != "NoExecute":
        return "tolerationSeconds wants effect NoExecute"
    return (key and _key(key)) or labels({"value": value})


def _key(value: Any) -> str:
    """Of a label, an annotation or a resource: a name, which may have a domain before it."""
    domain, slash, own = str(value).rpartition("/")
    if isinstance(value, str) and _LABEL.fullmatch(own) and (not slash or _NAME.fullmatch(domain)):
        return ""
    return f"{value!r:.60} is no key, such as team or example.org/team"


def require(called: str, value: Any, wrong: Callable[[Any], str], *, empty: bool = False) -> None:
    """See that a parameter's value is what Kubernetes takes.

    Args:
        called: what the user calls the parameter.
        wrong: one of the functions above.
        empty: whether "" stands for none.

    Raises:
        ConfigError: it is not.
    """
    if not (empty and value == "") and (hint := wrong(value)):
        raise ConfigError(f"{called} is {value!r:.120}", hint=hint)
