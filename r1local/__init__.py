"""r1local: the distilled DeepSeek-R1 models on a person's own machine, offline.

The public names below are loaded on first use, so that `import r1local` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1local.catalog import Catalog, load_catalog
    from r1local.chat_types import Sampling, Turn
    from r1local.conversation import Conversation
    from r1local.engine import EngineOptions, open_engine
    from r1local.errors import R1Error
    from r1local.events import AnswerDelta, Done, Event, Stats, ThinkDelta

# A literal: importlib.metadata costs 15-30 ms on every start.
__version__ = "0.1.0"

_HOME_OF = {
    "Catalog": "r1local.catalog",
    "load_catalog": "r1local.catalog",
    "Sampling": "r1local.chat_types",
    "Turn": "r1local.chat_types",
    "Conversation": "r1local.conversation",
    "EngineOptions": "r1local.engine",
    "open_engine": "r1local.engine",
    "R1Error": "r1local.errors",
    "AnswerDelta": "r1local.events",
    "Done": "r1local.events",
    "Event": "r1local.events",
    "Stats": "r1local.events",
    "ThinkDelta": "r1local.events",
}

__all__ = [
    "AnswerDelta",
    "Catalog",
    "Conversation",
    "Done",
    "EngineOptions",
    "Event",
    "R1Error",
    "Sampling",
    "Stats",
    "ThinkDelta",
    "Turn",
    "__version__",
    "load_catalog",
    "open_engine",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'r1local' has no attribute {name!r}")
