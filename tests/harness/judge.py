"""DuckDB as the judge: one JSON question a line in, one answer a line out.

    {"table": "raw", "path": ".../tables/raw"}            makes a Delta table known; `deltalake` lists its files; "version"
                                                          is that of before, if not the newest
    {"ledger": "sent", "path": "....csv", "columns": ""}   makes ledgers known
    {"history": "raw", "path": ".../tables/raw"}          like table, with the version that brought each row; and
                                                          raw_versions: the epoch of each version
    {"log": ".../log", "sources": {...}}                  reads the ingest log, see ingest_log.py, and asks the model of
                                                          windows: log, model_w, model_late; by source
    {"sql": "SELECT ..."}                                  rows, as a list of objects; times as RFC 3339 text in UTC
"""
import base64
import datetime
import decimal
import json
import os
import sys
from urllib.parse import unquote

import deltalake
import duckdb
import pyarrow

import ingest_log

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../oracle"))
import windows

connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")


def plain(value):
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        text = value.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return text + (f".{value.microsecond:06d}".rstrip("0") if value.microsecond else "") + "Z"
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def make(name, columns, rows):
    """A table of DuckDB from rows of Python; columns: {name: type of Arrow}."""
    names = list(columns)
    arrays = [pyarrow.array([row[at] for row in rows], columns[name]) for at, name in enumerate(names)]
    connection.register("made", pyarrow.table(arrays, names=names))
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM made")
    connection.unregister("made")


def history(name, path):
    table = deltalake.DeltaTable(path)
    epoch, epochs, added = -1, [], []
    for version in range(table.version() + 1):
        with open(os.path.join(path, f"_delta_log/{version:020}.json")) as file:
            for line in file:
                action = json.loads(line)
                if "txn" in action:
                    epoch = action["txn"]["version"]
                if "add" in action:
                    added.append((os.path.basename(unquote(action["add"]["path"])), version))
        epochs.append((version, epoch))
    integer, text = pyarrow.int64(), pyarrow.string()
    make(f"{name}_versions", {"version": integer, "epoch": integer}, epochs)
    make("added", {"file": text, "version": integer}, added)
    files = [unquote(uri).removeprefix("file://") for uri in table.file_uris()]
    if files:
        connection.execute(
            f"CREATE OR REPLACE TABLE {name} AS SELECT r.* EXCLUDE filename, a.version "
            f"FROM read_parquet({files}, filename = true) r LEFT JOIN added a ON parse_filename(r.filename) = a.file"
        )
    else:
        connection.register("empty", table.to_pyarrow_dataset().to_table())
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT *, 0::BIGINT AS version FROM empty")
    return table.version()


def log(folder, sources):
    """sources: {name: {"window": [...], "delay": .., "idle": .., "ahead": ..}}, times in microseconds"""
    rows, cases = [], {name: [] for name in sources}
    for epoch, now, events in ingest_log.epochs(folder):
        good = {name: [] for name in sources}
        for source, part, arrival, payload in events:
            who, seq, v, ts = ingest_log.reading(payload)
            home = "dead" if ts is None else "plain"
            if ts is not None:
                home = "future" if ts > arrival + sources[source]["ahead"] else "plain"
                good[source].append((part, who, ts, arrival, (v, seq)))
            rows.append((source, who, seq, v, ts, epoch, home))
        for name in sources:
            cases[name].append((now, good[name]))
    integer, text = pyarrow.int64(), pyarrow.string()
    columns = {"source": text, "who": text, "seq": integer, "v": integer, "ts": integer, "epoch": integer, "home": text}
    make("log", columns, rows)
    found, late = [], []
    for name, options in sources.items():
        table, missed, _, _ = windows.run(
            cases[name], tuple(options["window"]), options["delay"], idle=options["idle"], ahead=options["ahead"]
        )
        late += [(name, event[1], event[4][1]) for event in missed]
        for (who, start, end), values in table.items():
            v = [value[0] for value in values]
            found.append((name, who, start, end, len(v), sum(v), min(v), max(v)))
    make("model_late", {"source": text, "who": text, "seq": integer}, late)
    numbers = dict.fromkeys(["ws", "we", "n", "total", "least", "greatest"], integer)
    make("model_w", {"source": text, "who": text, **numbers}, found)
    return len(rows)


def answer(question):
    if "table" in question:
        table = deltalake.DeltaTable(question["path"], version=question.get("version"))
        connection.register(question["table"], table.to_pyarrow_dataset())
        return table.version()
    if "ledger" in question:
        connection.execute(
            f"CREATE OR REPLACE TABLE {question['ledger']} AS "
            f"SELECT * FROM read_csv('{question['path']}', header = false, columns = {question['columns']})"
        )
        return None
    if "history" in question:
        return history(question["history"], question["path"])
    if "log" in question:
        return log(question["log"], question["sources"])
    # By way of Arrow: DuckDB's own conversion of times needs one more package.
    result = connection.sql(question["sql"])
    rows = result.to_arrow_table().to_pylist() if result is not None else []
    return [{name: plain(value) for name, value in row.items()} for row in rows]


for line in sys.stdin:
    try:
        print(json.dumps({"ok": answer(json.loads(line))}), flush=True)
    except Exception as error:  # Told to the test, which fails with it.
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
