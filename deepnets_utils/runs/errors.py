"""The errors that a user can mend. Imports no torch."""


class ParameterError(ValueError):
    """A parameter is unknown or has an impossible value; the message lists what is allowed."""


class DataError(RuntimeError):
    """A data set cannot be had: the message says what, where, and what to do."""
