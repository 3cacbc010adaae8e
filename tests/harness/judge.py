"""DuckDB as the judge: one JSON question a line in, one answer a line out.

    {"table": "raw", "path": ".../tables/raw"}            makes a Delta table known; `deltalake` lists its files
    {"lines": "sent", "path": "....jsonl", "columns": ""}  makes a file of JSON lines known
    {"sql": "SELECT ..."}                                  rows, as a list of objects; times as RFC 3339 text in UTC
"""
import base64
import datetime
import decimal
import json
import sys

import deltalake
import duckdb

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


def answer(question):
    if "table" in question:
        table = deltalake.DeltaTable(question["path"])
        connection.register(question["table"], table.to_pyarrow_dataset())
        return table.version()
    if "lines" in question:
        columns = question["columns"]
        connection.execute(
            f"CREATE OR REPLACE TABLE {question['lines']} AS "
            f"SELECT * FROM read_json('{question['path']}', format = 'newline_delimited', columns = {columns})"
        )
        return None
    # By way of Arrow: DuckDB's own conversion of times needs one more package.
    result = connection.sql(question["sql"])
    rows = result.to_arrow_table().to_pylist() if result is not None else []
    return [{name: plain(value) for name, value in row.items()} for row in rows]


for line in sys.stdin:
    try:
        print(json.dumps({"ok": answer(json.loads(line))}), flush=True)
    except Exception as error:  # Told to the test, which fails with it.
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
