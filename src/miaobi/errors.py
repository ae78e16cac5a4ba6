"""The one error tree. A message gives the value received, the values allowed and the next step to take."""


class MiaobiError(Exception):
    """Base of every error that Miaobi raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(MiaobiError):
    """What the user asked for cannot be done: a bad prompt, value, path or bundle."""

    exit_code = 2


class MachineError(MiaobiError):
    """The machine cannot do it: no space, no permission, a runtime that is not installed."""


class BundleError(InputError):
    """A bundle is missing, incomplete, altered or of a kind that is never loaded (pickle)."""


class DataError(InputError):
    """A data set is missing, incomplete or damaged."""


class TrainingError(MachineError):
    """A training run cannot start or go on."""
