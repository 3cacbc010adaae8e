"""Reads a growing table again and again with three foreign readers, at least as often as is asked and until each has seen it
grow; prints one JSON line for each look.

    while_running.py TABLE LOOKS        rows hold `seq` = 0, 1, 2, ...: a reader must see a beginning of it, without holes
"""
import json
import sys
import time

import deltalake
import duckdb
import polars

path, looks = sys.argv[1], int(sys.argv[2])


def look(reader):
    if reader == "polars":
        frame = polars.scan_delta(path).select(
            polars.len().alias("n"), polars.col("seq").max().alias("top"), polars.col("seq").n_unique().alias("distinct")
        ).collect()
        return frame.row(0)
    table = deltalake.DeltaTable(path)
    dataset = table.to_pyarrow_dataset()
    if reader == "deltalake":
        seqs = dataset.to_table(columns=["seq"])["seq"].to_pylist()
        return len(seqs), max(seqs, default=None), len(set(seqs))
    with duckdb.connect() as connection:
        connection.register("numbers", dataset)
        return connection.execute("SELECT count(*), max(seq), count(DISTINCT seq) FROM numbers").fetchone()


begin, round, first, grown = time.monotonic(), 0, {}, set()
while round < looks or (len(grown) < 3 and time.monotonic() - begin < 60):
    round += 1
    for reader in ("deltalake", "polars", "duckdb"):
        n, top, distinct = look(reader)
        print(json.dumps({"reader": reader, "n": n, "top": top, "distinct": distinct}), flush=True)
        if n > 0 and first.setdefault(reader, n) < n:
            grown.add(reader)
