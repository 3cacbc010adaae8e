"""Sends a request of remote write 2.0: the message is declared as its .proto file does, and encoded by Google's library."""

import sys
import urllib.request

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
TYPES = {
    "string": FIELD.TYPE_STRING, "uint32": FIELD.TYPE_UINT32, "int64": FIELD.TYPE_INT64, "double": FIELD.TYPE_DOUBLE,
    "uint64": FIELD.TYPE_UINT64, "sint32": FIELD.TYPE_SINT32, "sint64": FIELD.TYPE_SINT64,
}
# Name, number, type; a star: repeated.
MESSAGES = {
    "Request": [("symbols", 4, "*string"), ("timeseries", 5, "*TimeSeries")],
    "TimeSeries": [
        ("labels_refs", 1, "*uint32"), ("samples", 2, "*Sample"), ("histograms", 3, "*Histogram"),
        ("exemplars", 4, "*Exemplar"), ("metadata", 5, "Metadata"), ("created_timestamp", 6, "int64"),
    ],
    "Sample": [("value", 1, "double"), ("timestamp", 2, "int64")],
    "Exemplar": [("labels_refs", 1, "*uint32"), ("value", 2, "double"), ("timestamp", 3, "int64")],
    "Metadata": [("type", 1, "uint32"), ("help_ref", 3, "uint32"), ("unit_ref", 4, "uint32")],
    "BucketSpan": [("offset", 1, "sint32"), ("length", 2, "uint32")],
    "Histogram": [
        ("count_int", 1, "uint64"), ("sum", 3, "double"), ("schema", 4, "sint32"), ("zero_threshold", 5, "double"),
        ("zero_count_int", 6, "uint64"), ("positive_spans", 11, "*BucketSpan"), ("positive_deltas", 12, "*sint64"),
        ("timestamp", 15, "int64"),
    ],
}

file = descriptor_pb2.FileDescriptorProto(name="write.proto", package="write", syntax="proto3")
for name, fields in MESSAGES.items():
    message = file.message_type.add(name=name)
    for field, number, kind in fields:
        label = FIELD.LABEL_REPEATED if kind.startswith("*") else FIELD.LABEL_OPTIONAL
        kind = kind.lstrip("*")
        if kind in TYPES:
            message.field.add(name=field, number=number, label=label, type=TYPES[kind])
        else:
            message.field.add(name=field, number=number, label=label, type=FIELD.TYPE_MESSAGE, type_name=f".write.{kind}")
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Request = message_factory.GetMessageClass(pool.FindMessageTypeByName("write.Request"))

symbols = ["", "__name__", "up", "job", "v2", "instance", "google", "rtt", "Whether it is.", "seconds"]
up = dict(
    labels_refs=[1, 2, 3, 4, 5, 6],
    samples=[dict(value=1, timestamp=1_700_000_000_000), dict(value=0, timestamp=1_700_000_001_000)],
    metadata=dict(type=2, help_ref=8),
    exemplars=[dict(value=1)],
)
other = dict(labels_refs=[1, 4], samples=[dict(value=5, timestamp=1_700_000_000_000)])
histogram = dict(
    count_int=6, sum=9.5, zero_threshold=0.001, positive_spans=[dict(offset=0, length=2)], positive_deltas=[2, 2],
    timestamp=1_700_000_000_000,
)
rtt = dict(labels_refs=[1, 7], histograms=[histogram], metadata=dict(type=3, unit_ref=9))
body = Request(symbols=symbols, timeseries=[up, other, rtt]).SerializeToString()

request = urllib.request.Request(sys.argv[1], bytes(cramjam.snappy.compress_raw(body)), method="POST")
request.add_header("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
request.add_header("Content-Encoding", "snappy")
request.add_header("X-Prometheus-Remote-Write-Version", "2.0.0")
answer = urllib.request.urlopen(request)
written = [f"{kind} {answer.headers[f'X-Prometheus-Remote-Write-{kind}-Written']}" for kind in ("samples", "histograms", "exemplars")]
print(answer.status, *written)
