"""Writes a hundred rows in every shape into the folder that is named: v counts from 0, note is there in every second row."""
import gzip
import json
import os
import sys

import polars
import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

folder = sys.argv[1]
rows = [{"v": v, "note": f"note {v}" if v % 2 else None} for v in range(100)]
table = pyarrow.table(
    {
        "v": pyarrow.array([row["v"] for row in rows], pyarrow.int32()),
        "note": pyarrow.array([row["note"] for row in rows]).dictionary_encode(),
        "more": pyarrow.array([[1.5]] * 100),
    }
)
lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
text = pyarrow.BufferOutputStream()
pyarrow.csv.write_csv(pyarrow.table({"note": table["note"].cast(pyarrow.string()), "v": table["v"]}), text)
text = text.getvalue().to_pybytes()


def write(name, content):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)


def stream(arrow):
    out = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(out, arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=37)
    return out.getvalue().to_pybytes()


write("rows.ndjson", lines)
write("rows.json", json.dumps(rows).encode())
write("rows.csv", text)
write("rows.arrows", stream(table))
polars.DataFrame(rows).write_ipc_stream(os.path.join(folder, "polars.arrows"))
for codec in ["snappy", "zstd"]:
    pyarrow.parquet.write_table(table, os.path.join(folder, f"{codec}.parquet"), compression=codec, row_group_size=30)
write("rows.ndjson.gz", gzip.compress(lines))
zstd = pyarrow.Codec("zstd")
write("rows.csv.zst", zstd.compress(text, asbytes=True))
write("bomb.zst", zstd.compress(b" " * (60 << 20), asbytes=True))
