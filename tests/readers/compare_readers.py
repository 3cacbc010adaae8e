"""Reads a table with every reader there is: compare_readers.py TABLE_DIR COLUMN [FILTER]

Prints for each reader one JSON object: its name, the columns, all rows ordered by COLUMN, and how many rows it finds
with FILTER, a condition in SQL that readers may use to skip files.
"""

import json
import sys

import deltalake
import polars

from read_table import plain, query, run


def with_deltalake(table_dir, condition):
    """deltalake's own engine, DataFusion inside."""
    builder = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(table_dir))
    ask = lambda sql: builder.execute(sql).read_all()
    rows = polars.DataFrame(ask("SELECT * FROM t")).to_dicts()
    found = polars.DataFrame(ask(f"SELECT count(*) AS n FROM t WHERE {condition}"))
    return rows, found["n"][0]


def with_pyarrow(table_dir, condition):
    """pyarrow over the files that deltalake lists."""
    table = deltalake.DeltaTable(table_dir).to_pyarrow_table()
    found = polars.SQLContext(t=polars.from_arrow(table), eager=True).execute(f"SELECT count(*) AS n FROM t WHERE {condition}")
    return table.to_pylist(), found["n"][0]


def with_polars(table_dir, condition):
    """Polars, lazily, with its own pruning."""
    frame = polars.scan_delta(table_dir)
    found = polars.SQLContext(t=frame).execute(f"SELECT count(*) AS n FROM t WHERE {condition}").collect()
    return frame.collect().to_dicts(), found["n"][0]


def with_duckdb(table_dir, condition):
    """DuckDB over deltalake's dataset."""
    rows = list(query(table_dir, "SELECT * FROM t"))
    return rows, next(query(table_dir, f"SELECT count(*) AS n FROM t WHERE {condition}"))["n"]


def main():
    table_dir, column = sys.argv[1:3]
    condition = sys.argv[3] if len(sys.argv) > 3 else "TRUE"
    for reader in (with_deltalake, with_pyarrow, with_polars, with_duckdb):
        rows, found = reader(table_dir, condition)
        rows = sorted((plain(row) for row in rows), key=lambda row: row[column])
        print(json.dumps({"reader": reader.__name__[5:], "columns": list(rows[0]), "rows": rows, "found": found}))


if __name__ == "__main__":
    run(main)
