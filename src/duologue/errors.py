"""The exceptions a caller may catch.

Every one of them carries a message of one line that says what was given, what is expected and what to do.
The command line prints that line on stderr and ends with exit code 2; a library caller catches `DuologueError`
for all of them, or one of its kinds.
"""


class DuologueError(Exception):
    """Base of everything that a caller can cause and may catch."""


class DuologueWarning(UserWarning):
    """Something that was done otherwise than asked: context left out, or speech cut at its cap."""


class AudioError(DuologueError):
    """A recording that is missing, empty, not audio, silent where speech is needed, or not writable."""


class TextError(DuologueError):
    """Text with nothing speakable in it, or too long to be spoken."""


class ScriptError(DuologueError):
    """A conversation script that does not parse; the message names the line."""


class OptionError(DuologueError, ValueError):
    """An option, such as `temperature` or `topk`, outside its range or of the wrong type."""


class ConfigError(DuologueError):
    """A configuration with unknown, missing or contradictory fields."""


class CheckpointError(DuologueError):
    """A checkpoint with missing, extra, doubled or misshapen tensors, or a file that is truncated or refused."""


class HubError(CheckpointError):
    """A hub repository that cannot be had: unknown, gated, offline or unreachable."""


class CodeError(DuologueError, ValueError):
    """Audio codes outside the codebook, or of the wrong shape."""


class ContextError(DuologueError):
    """A conversation that does not fit the model even after old segments were evicted."""


class EngineError(DuologueError):
    """The engine failed while it spoke; what it says is the cause."""


class BusyError(DuologueError):
    """The engine has no room for another request now; the same request may succeed later."""


class VoiceError(DuologueError):
    """A voice that is unknown, malformed, made for another codec, or already there."""


class DataError(DuologueError):
    """A corpus that cannot be prepared: nothing to be found, a table that does not parse, results of another input."""


class TrainingError(DuologueError):
    """Training that cannot go on: no usable data, a loss that is not finite, a changed configuration."""


class EvaluationError(DuologueError):
    """An evaluation that cannot be run: an unknown suite or system, a missing instrument, a report that is not one."""
