"""Conversations that were had, on disk: what the terminal interface lists, reopens, branches and searches.

    conversations.db                    SQLite: conversations, their turns as a tree, an index of the words
    conversations.db.TOKEN.live         the replies one process is writing right now, a line for every piece shown
    conversations.db.TOKEN.lock         held for as long as that process lives
    conversations.db.version-N          what the file was before its tables were changed

A reply under way stays out of the database: a line added to a file costs microseconds whatever the reply's length,
takes no lock that another process waits for, and cannot harm what is stored already. A kill loses none of it, because
the system has the line as soon as it is written. When the reply ends, or at the next open if its process died, it
becomes a row in the database, on disk before the call returns.
"""

from r1local.history.recorder import Recorder
from r1local.history.store import History
from r1local.history.values import START, Hit, Kind, Stored, StoredTurn, Summary

__all__ = ["START", "History", "Hit", "Kind", "Recorder", "Stored", "StoredTurn", "Summary"]
