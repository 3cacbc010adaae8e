"""Reads a table as a stranger would: files listed by deltalake, SQL by DuckDB. Knows nothing of tidemill.

    read_table.py TABLE_DIR                 every row
    read_table.py TABLE_DIR 'SELECT ...'    SQL over the table, which is called t

Prints one JSON object for each row. Instants are microseconds since 1970, dates are text, bytes are hexadecimal,
decimals are text if they are no integers, and numbers that JSON lacks are "NaN", "Infinity" and "-Infinity".
"""

import datetime
import decimal
import json
import math
import os
import sys
import traceback

import deltalake
import duckdb

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def plain(value):
    """Returns a value that JSON can hold, the same whichever reader it came from."""
    match value:
        case datetime.datetime():
            instant = value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)
            return (instant - EPOCH) // datetime.timedelta(microseconds=1)
        case datetime.date():
            return value.isoformat()
        case bytes() | bytearray():
            return value.hex()
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else str(value)
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value


def query(table_dir, sql):
    """Yields the rows of a question about a table as dictionaries."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("t", deltalake.DeltaTable(table_dir).to_pyarrow_dataset())
    for batch in connection.sql(sql).to_arrow_reader(10_000):
        for row in batch.to_pylist():
            yield {name: plain(value) for name, value in row.items()}


def run(main):
    """Runs a script and ends the process: after an exception, threads of the readers can keep Python from ending."""
    status = 0
    try:
        main()
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main():
    for row in query(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "SELECT * FROM t"):
        print(json.dumps(row))


if __name__ == "__main__":
    run(main)
