"""Duologue: conversational speech with the CSM model and the Mimi codec.

The public names. Each is imported when it is first asked for, so that `import duologue` alone is quick.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duologue.engine.conversation import Conversation
    from duologue.engine.generator import Generator
    from duologue.engine.load import load, load_codec
    from duologue.engine.scheduled import ScheduledSpeech
    from duologue.engine.scheduler import Scheduler
    from duologue.engine.speech import Speech, SpeechStream
    from duologue.engine.stopping import StopPolicy
    from duologue.engine.voices import Voice, VoiceLibrary
    from duologue.errors import (
        AudioError,
        BusyError,
        CheckpointError,
        CodeError,
        ConfigError,
        ContextError,
        DataError,
        DuologueError,
        DuologueWarning,
        EngineError,
        EvaluationError,
        HubError,
        OptionError,
        ScriptError,
        TextError,
        TrainingError,
        VoiceError,
    )
    from duologue.frames import Segment

    __version__: str

__all__ = [
    "AudioError",
    "BusyError",
    "CheckpointError",
    "CodeError",
    "ConfigError",
    "ContextError",
    "Conversation",
    "DataError",
    "DuologueError",
    "DuologueWarning",
    "EngineError",
    "EvaluationError",
    "Generator",
    "HubError",
    "OptionError",
    "ScheduledSpeech",
    "Scheduler",
    "ScriptError",
    "Segment",
    "Speech",
    "SpeechStream",
    "StopPolicy",
    "TextError",
    "TrainingError",
    "Voice",
    "VoiceError",
    "VoiceLibrary",
    "__version__",
    "load",
    "load_codec",
]

_HOMES = {
    "Conversation": "duologue.engine.conversation",
    "Generator": "duologue.engine.generator",
    "ScheduledSpeech": "duologue.engine.scheduled",
    "Scheduler": "duologue.engine.scheduler",
    "Segment": "duologue.frames",
    "Speech": "duologue.engine.speech",
    "SpeechStream": "duologue.engine.speech",
    "StopPolicy": "duologue.engine.stopping",
    "Voice": "duologue.engine.voices",
    "VoiceLibrary": "duologue.engine.voices",
    "load": "duologue.engine.load",
    "load_codec": "duologue.engine.load",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            value: Any = metadata.version("duologue")
        except metadata.PackageNotFoundError:  # a source tree on the path that was never installed
            value = "0+unknown"
    elif name in __all__:
        value = getattr(import_module(_HOMES.get(name, "duologue.errors")), name)
    else:
        raise AttributeError(f"module 'duologue' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
