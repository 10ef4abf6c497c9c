"""The kinds of speech system that can be put under test, each behind the `System` protocol."""

from duologue.eval.systems.codec import CodecSystem
from duologue.eval.systems.command import CommandSystem
from duologue.eval.systems.model import ModelOptions, ModelSystem
from duologue.eval.systems.recordings import RecordedSystem
from duologue.eval.systems.server import ServerSystem

__all__ = ["CodecSystem", "CommandSystem", "ModelOptions", "ModelSystem", "RecordedSystem", "ServerSystem"]
