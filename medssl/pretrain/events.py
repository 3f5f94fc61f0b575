"""TensorBoard event files, written without torch's writer (whose import costs seconds)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


class Events:
    """The event file of a run from a step on; without a folder nothing is written."""

    def __init__(self, folder: Path | None, step: int) -> None:
        self.writer: Any = None
        if folder is not None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            folder.mkdir(parents=True, exist_ok=True)
            self.writer = EventFileWriter(str(folder), filename_suffix=f".from-{step}")

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Write the numbers of a curve row at a step."""
        if self.writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=n, simple_value=v) for n, v in row.items() if n not in ("epoch", "step") and v is not None]
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Flush."""
        if self.writer is not None:
            self.writer.close()
