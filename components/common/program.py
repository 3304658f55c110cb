"""A step as a program, made from its config dataclass and its function:

    main = Program(GateConfig, gate, __doc__)

    if __name__ == "__main__":
        main.run()

Besides the flags of the config every step has two that a pipeline uses. `--settings` is a JSON
object of parameters: it replaces flags that stand before it, and may not name one that stands after
it. `--executor-input` is what Kubeflow Pipelines tells of inputs and outputs.
"""

import difflib
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from components.common import executor, strict_json
from components.common.cli import config_of, options, parser, run_step
from components.common.errors import ConfigError
from components.common.remote import at_hand

SETTINGS, EXECUTOR_INPUT = "--settings", "--executor-input"


@dataclass(frozen=True)
class Program:
    """A step's command line.

    `function` takes the config and gives a result, whose `outcome` is handed on to Kubeflow
    Pipelines where it has one.

    Args:
        documentation: what `--help` says; from a line that starts with "example" on, below the
            flags.
        writes: whether there will be an output.
        show: what is printed of the result.
        after: called with the result when all outputs are whole, where they belong.
    """

    config: type
    function: Callable[[Any], Any]
    documentation: str | None
    writes: Callable[[Any], bool] = lambda config: True
    show: Callable[[Any], str] | None = None
    after: Callable[[Any], None] = lambda result: None

    @property
    def name(self) -> str:
        """The module, such as components.train."""
        return self.function.__module__.rpartition(".")[0]

    def __call__(self, argv: Sequence[str] | None = None) -> None:
        """Run the step with these arguments; its errors are raised."""
        arguments, given = handed(sys.argv[1:] if argv is None else argv, self.config)
        about, _, examples = textwrap.dedent(self.documentation or "").partition("\nexample")
        flags = parser(
            self.config,
            prog=f"python -m {self.name}",
            description=about,
            epilog=f"example{examples}" if examples else "",
        )
        config: Any = config_of(self.config, flags.parse_args(arguments))
        with at_hand(config, writes=self.writes(config)) as local:
            result = self.function(local)
        if self.show:
            print(self.show(result))
        if given:
            outcome = getattr(result, "outcome", executor.Outcome())
            given.write(outcome, getattr(config, "output", None))
        self.after(result)

    def run(self) -> NoReturn:
        """Run the step as a process: errors are one line, and the exit status says their kind."""
        raise SystemExit(run_step(self))


def handed(argv: Sequence[str], config: type) -> tuple[list[str], executor.ExecutorInput | None]:
    """The arguments with what a pipeline adds to them spelled out as flags.

    Raises:
        ConfigError: one of the two flags has a wrong value.
    """
    plain: list[str] = []
    given = None
    remaining = list(argv)
    while remaining:
        flag, equals, value = remaining.pop(0).partition("=")
        if flag == SETTINGS and equals:
            plain += as_flags(settings(value), config, _names(remaining))
        elif flag == EXECUTOR_INPUT and equals:
            given = executor.parse(value)
            # A command can name one artifact by its path, a list of them only so.
            lists = (o for o in options(config) if o.repeated and o.is_path)
            found = [(o.flag, a) for o in lists for a in given.inputs.get(o.name, ())]
            plain += [f"{flag}={artifact.path}" for flag, artifact in found]
        else:
            plain.append(flag + equals + value)
    return plain, given


def settings(text: str) -> Mapping[str, Any]:
    """The JSON object that `--settings` is.

    Raises:
        ConfigError: it is none.
    """
    try:
        value = strict_json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{SETTINGS}: not a JSON object: {text[:60]!r}",
            hint="""Write it as {"dropout": 0.2}""",
        )
    return value


def as_flags(values: Mapping[str, Any], config: type, elsewhere: Iterable[str] = ()) -> list[str]:
    """A step's parameters by name, as its flags.

    Args:
        elsewhere: names that are set in another way.

    Raises:
        ConfigError: a name is unknown or set elsewhere, or a value is of another type.
    """
    known = {o.name: o for o in options(config) if not o.is_path}
    flags = []
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise ConfigError(
                f"{SETTINGS}: there is no parameter {name!r:.60}",
                hint=f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}",
            )
        if name in elsewhere:
            raise ConfigError(
                f"{SETTINGS}: {name} is an input of its own", hint="Set it there instead"
            )
        flags += known[name].spelled(known[name].check(value, name))
    return flags


def _names(argv: Iterable[str]) -> set[str]:
    return {a.partition("=")[0].removeprefix("--").replace("-", "_") for a in argv}
