"""The Hub of the tests with data sets: the same repositories, under the addresses that data sets have."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.hub import Answer, Hub, Request


class DatasetHub(Hub):
    """What is added is served as data sets, and not as models."""

    def answer(self, request: Request) -> Answer:
        asked = request.path
        if request.origin == "hub":
            known = request.path.startswith(("/api/datasets/", "/datasets/"))
            request.path = request.path.replace("/api/datasets/", "/api/models/", 1).removeprefix("/datasets")
            request.path = request.path if known else "/nothing"
        try:
            return super().answer(request)
        finally:
            request.path = asked


def jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), target)
    return target.getvalue()
