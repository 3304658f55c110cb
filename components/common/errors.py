"""The errors that a user can meet, and their exit statuses.

    RaceError
    ├── ConfigError      2   a parameter is wrong, or parameters contradict each other
    ├── DataError        3   an input is not what it should be
    ├── TransferError    4   bytes could not be moved: network, object storage
    ├── OutputError      5   the output could not be written: permissions, disk full
    ├── TrainingError    6   training stopped or a rank died
    │   └── CollapseError  8 what it trains can come to nothing any more
    └── GateError        7   the result is complete, but worse than was asked for

An error is raised once, at the depth that knows what happened, and shown to the user once, by
`components.common.cli.run_step` or by the `race` command: one line with what, where, and what
to do about it.
"""

LONGEST = 2000  # characters of what went wrong, as users see it


class RaceError(Exception):
    """What went wrong and where; `hint` says what the reader can do about it.

    Both are phrases without a final full stop. `str()` joins them to the one line that users see.
    """

    exit_status = 1
    transient = False
    """Whether the same may end well when it is tried again; of a TrainingError, each knows."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        # A stranger's name may have millions of characters.
        what = self.what if len(self.what) <= LONGEST else f"{self.what[:LONGEST]}..."
        return one_line(f"{what}. {self.hint}" if self.hint else what)


def one_line(text: str) -> str:
    """The text as one line that a terminal shows and does not obey, whatever a stranger put in it.

    Names of files and members of archives may hold line ends, escape sequences or broken Unicode.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(text.split())
    )


class ConfigError(RaceError):
    exit_status = 2


class DataError(RaceError):
    exit_status = 3


class TransferError(RaceError):
    exit_status = 4
    transient = True


class OutputError(RaceError):
    exit_status = 5


class TrainingError(RaceError):
    exit_status = 6


class CollapseError(TrainingError):
    exit_status = 8


class GateError(RaceError):
    exit_status = 7


LASTING = tuple(
    kind.exit_status for kind in (ConfigError, DataError, OutputError, GateError, CollapseError)
)
"""Exit statuses of what ends the same when it is tried again."""
