"""Writes messages and files of each binary format as the libraries of others write them: fastavro, protobuf, pyarrow.

    encode.py FOLDER

FOLDER holds readings.proto. Afterwards it holds readings.avsc, readings.desc, the messages NAME-0 to NAME-3 of each format (the
last of them damaged), and files of columns, of records and of messages behind their lengths.
"""

import gzip
import importlib
import io
import json
import os
import struct
import sys
from datetime import datetime, timezone

import fastavro
import grpc_tools
import pyarrow as pa
from fastavro.schema import fingerprint, to_parsing_canonical_form
from google.protobuf.internal import encoder
from grpc_tools import protoc

SCHEMA = {
    "type": "record",
    "name": "Reading",
    "namespace": "plant",
    "fields": [
        {"name": "device", "type": "string"},
        {"name": "n", "type": "long"},
        {"name": "temperature", "type": ["null", "double"], "default": None},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OK", "BAD"]}},
        {
            "name": "position",
            "type": ["null", {"type": "record", "name": "Position", "fields": [{"name": "lat", "type": "float"}]}],
        },
    ],
}


def readings():
    for n in range(3):
        yield {
            "device": f"dev-{n}",
            "n": n,
            "temperature": None if n == 1 else 20.5 + n,
            "ts": datetime.fromtimestamp(1_700_000_000 + n, timezone.utc),
            "state": "BAD" if n == 2 else "OK",
            "position": None if n == 1 else {"lat": 47.5},
        }


def write(folder, name, data):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def avro(folder):
    schema = fastavro.parse_schema(SCHEMA)
    write(folder, "readings.avsc", json.dumps(SCHEMA).encode())
    rabin = bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
    for n, reading in enumerate(readings()):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, reading)
        datum = out.getvalue()
        write(folder, f"avro-{n}", datum)
        write(folder, f"confluent-{n}", b"\0" + struct.pack(">I", 42) + datum)
        write(folder, f"single-{n}", b"\xc3\x01" + rabin + datum)
    write(folder, "avro-3", datum[:-1])
    write(folder, "confluent-3", b"\0" + struct.pack(">I", 43) + datum)
    write(folder, "single-3", b"\xc3\x01" + b"\0" * 8 + datum)
    for codec in ["null", "deflate", "snappy", "zstandard"]:
        out = io.BytesIO()
        try:
            fastavro.writer(out, schema, readings(), codec=codec)
        except ValueError:
            continue  # The library for this codec is not installed.
        write(folder, f"{codec}.avro", out.getvalue())


def protobuf(folder):
    include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    words = ["protoc", f"-I{folder}", f"-I{include}", "--include_imports"]
    outputs = [f"--descriptor_set_out={folder}/readings.desc", f"--python_out={folder}"]
    assert protoc.main([*words, *outputs, "readings.proto"]) == 0
    sys.path.insert(0, folder)
    module = importlib.import_module("readings_pb2")
    many = b""
    for n, reading in enumerate(readings()):
        message = module.Reading(device=reading["device"], n=n, state={"OK": 1, "BAD": 2}[reading["state"]])
        message.ts.FromDatetime(reading["ts"].replace(tzinfo=None))
        if reading["temperature"] is not None:
            message.temperature = reading["temperature"]
        if reading["position"]:
            message.position.lat = reading["position"]["lat"]
        data = message.SerializeToString()
        write(folder, f"protobuf-{n}", data)
        many += encoder._VarintBytes(len(data)) + data
    write(folder, "protobuf-3", data[:-1])
    write(folder, "protobuf.delimited", many)


def arrow(folder):
    for n, reading in enumerate(readings()):
        out = io.BytesIO()
        table = pa.Table.from_pylist([reading])
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        write(folder, f"arrow-{n}", out.getvalue())
    write(folder, "arrow-3", out.getvalue()[:-40])
    table = pa.Table.from_pylist(list(readings()))
    for codec in ["lz4", "zstd"]:
        out = io.BytesIO()
        with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        for name in [f"{codec}.arrows", f"stream-{codec}.arrow"]:
            write(folder, name, out.getvalue())
        out = io.BytesIO()
        with pa.ipc.new_file(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        write(folder, f"file-{codec}.arrow", out.getvalue())
    with pa.OSFile(os.path.join(folder, "file.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(os.path.join(folder, "stream.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def lines(folder):
    text = "".join(json.dumps({**reading, "ts": reading["ts"].isoformat()}) + "\n" for reading in readings())
    write(folder, "packed.ndjson.gz", gzip.compress(text.encode()))


if __name__ == "__main__":
    avro(sys.argv[1])
    protobuf(sys.argv[1])
    arrow(sys.argv[1])
    lines(sys.argv[1])
