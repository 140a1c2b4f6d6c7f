"""Reads published traces: Alibaba's openb (``sn,cpu_milli,...``, ``name,cpu_milli,...``), Microsoft's Philly jobs.

The files are read wholly and checked before anything is made of them; a broken row names file, line and column.
A table may have further columns; those that are not read here do not matter.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tangram import units
from tangram.errors import InvalidTrace, NotReachable

_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu")
_POD_COLUMNS = ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
_JOB_COLUMNS = ("timestamp", "duration", "num_gpus")
_WHOLE = re.compile(r"\d{1,18}", re.ASCII)
_DURATION = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_MOST = 10**12
_MOST_GPUS = 1024
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class TraceNode:
    """A row of the node list."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    model: str
    """"" when the list does not say."""


@dataclass(frozen=True, slots=True)
class TracePod:
    """A row of the pod list."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    """Of each GPU: 1000 unless it is one GPU in part; 0 without GPUs."""
    models: str
    """Allowed GPU models, separated by ``|``; "" for any."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One row with the place where it stands, so that a bad field can be named."""

    file: str
    line: int
    fields: dict[str, str]

    def text(self, column: str) -> str:
        return self.fields.get(column, "").strip()

    def whole(self, column: str, most: int = _MOST) -> int:
        """The field as a whole number. Raises InvalidTrace."""
        text = self.text(column)
        if not _WHOLE.fullmatch(text) or int(text) > most:
            raise self.fault(column, text, f"a whole number from 0 to {most}")
        return int(text)

    def fault(self, column: str, value: object, allowed: str) -> InvalidTrace:
        shown = value[:_LONGEST_SHOWN] if isinstance(value, str) else value
        return InvalidTrace(self.file, self.line, column, shown, allowed)


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A row of a job list in Philly's format."""

    arrival: int
    """Seconds since the epoch; the trace's times are taken for UTC."""
    seconds: int
    """How long it ran, at least 1."""
    gpus: int


def read_jobs(path: Path) -> tuple[TraceJob, ...]:
    """Jobs with GPUs in the order of their arrival, from Microsoft's Philly trace (``timestamp,duration,num_gpus``).

    Raises InvalidTrace, and NotReachable when the file cannot be read.
    """
    jobs = [_job(row) for row in _rows(path, _JOB_COLUMNS)]
    return tuple(sorted((job for job in jobs if job.gpus), key=lambda job: job.arrival))


def _job(row: _Row) -> TraceJob:
    arrival = units.timestamp_seconds(row.text("timestamp"))
    if not arrival:
        raise row.fault("timestamp", row.text("timestamp"), "a time such as 2017-10-09 07:01:55")
    if not _DURATION.fullmatch(row.text("duration")):
        raise row.fault("duration", row.text("duration"), "seconds such as 66.0")
    return TraceJob(arrival, max(1, round(float(row.text("duration")))), row.whole("num_gpus", _MOST_GPUS))


def read_nodes(path: Path, *, with_models: bool = False) -> tuple[TraceNode, ...]:
    """The node list; ``with_models``: it has to name the models, because pods ask for some.

    Raises InvalidTrace, and NotReachable when the file cannot be read.
    """
    nodes: dict[str, TraceNode] = {}
    for row in _rows(path, (*_NODE_COLUMNS, "model") if with_models else _NODE_COLUMNS):
        name = row.text("sn")
        if not name or name in nodes:
            raise row.fault("sn", name, "a name that no other node has")
        nodes[name] = TraceNode(
            name,
            row.whole("cpu_milli"),
            row.whole("memory_mib"),
            row.whole("gpu", _MOST_GPUS),
            row.text("model"),
        )
    return tuple(nodes.values())


def read_pods(path: Path) -> tuple[TracePod, ...]:
    """The pod list, in its own order. Raises InvalidTrace, and NotReachable when the file cannot be read."""
    return tuple(_pod(row) for row in _rows(path, _POD_COLUMNS))


def _pod(row: _Row) -> TracePod:
    gpus = row.whole("num_gpu", _MOST_GPUS)
    milli = row.whole("gpu_milli", units.MILLI_PER_GPU)
    if gpus == 1 and not milli:
        raise row.fault("gpu_milli", milli, f"1 to {units.MILLI_PER_GPU} for a pod with one GPU")
    if gpus != 1:
        milli = units.MILLI_PER_GPU if gpus else 0
    return TracePod(row.whole("cpu_milli"), row.whole("memory_mib"), gpus, milli, row.text("gpu_spec"))


def _rows(path: Path, needed: Sequence[str]) -> Iterator[_Row]:
    """Rows after the header; at least one. Raises InvalidTrace and NotReachable."""
    file, header, found = str(path), list[str](), False
    reader = csv.reader(io.StringIO(_text(path, needed[0]), newline=""), strict=True)
    try:
        for fields in reader:
            if not header:
                header = _header(file, reader.line_num, fields, needed)
            elif fields:
                found = True
                yield _row(file, reader.line_num, header, fields)
    except csv.Error as error:
        line, column = max(1, reader.line_num), (header or needed)[0]
        raise InvalidTrace(file, line, column, str(error), "rows of comma-separated values") from None
    if not header:
        raise InvalidTrace(file, 1, needed[0], "an empty file", f"a header with the columns {', '.join(needed)}")
    if not found:
        raise InvalidTrace(file, 2, needed[0], "no rows", "at least one row after the header")


def _text(path: Path, first_column: str) -> str:
    """The whole file, without the byte order mark that spreadsheets put before the first column's name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotReachable(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidTrace(str(path), line, first_column, error.object[error.start : error.end], "UTF-8") from None


def _header(file: str, line: int, fields: list[str], needed: Sequence[str]) -> list[str]:
    header = [field.strip() for field in fields]
    allowed = f"a header with the columns {', '.join(needed)}"
    for column in needed:
        if column not in header:
            raise InvalidTrace(file, line, column, ",".join(header)[:_LONGEST_SHOWN], allowed)
        if header.count(column) > 1:
            raise InvalidTrace(file, line, column, "named twice", "each column once")
    return header


def _row(file: str, line: int, header: list[str], fields: list[str]) -> _Row:
    if len(fields) != len(header):
        column = header[len(fields)] if len(fields) < len(header) else str(len(header) + 1)
        count = f"{len(fields)} fields"
        raise InvalidTrace(file, line, column, count, f"{len(header)} fields, as in the header")
    return _Row(file, line, dict(zip(header, fields, strict=True)))
