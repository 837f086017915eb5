"""Errors a user can act on: what is wrong, the value, where, and what to do."""


class MedclError(Exception):
    """A problem with the input, the configuration or the data; printed without a traceback."""


class TrainingFailed(MedclError):
    """A diagnosed failure of one run (diverged, out of memory, nothing to train on).

    The stage writes its declared outputs with `status: failed` and this reason, and the study
    goes on.
    """
