"""Errors of the model, named by what the caller does about them; every message is one line and ends in a hint."""


class ModelError(Exception):
    """Anything the model refuses or cannot do; the subclasses say what follows."""


class BundleError(ModelError):
    """A folder is not a usable bundle: refuse to start, say how to get a good one."""


class EventsFileError(ModelError):
    """A file of events, items or labels cannot be read: name the file, the row and what is wrong with it, and stop."""


class TrainingDataError(ModelError):
    """The events are too few to learn anything from: stop, ask for more."""


class DatasetUnavailable(ModelError):
    """A public data set could not be fetched: go on without it or stop, but do not pretend."""


class DeviceUnavailable(ModelError):
    """torch has no such device here: refuse to start, name another or use auto."""


class CheckpointError(ModelError):
    """A checkpoint cannot be read or written, or is another training's: remove it or name another folder."""


class PlotsUnavailable(ModelError):
    """matplotlib is not installed: install the extra, or leave out the plots."""
