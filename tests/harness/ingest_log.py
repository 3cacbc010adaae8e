"""A second reader of the ingest log, which shares no code with the engine: what arrived, when, and in which epoch.

It reads segments that the engine has ended or closed well, in order; see engine/src/ingest/mod.rs for the format. It
checks no checksums: that is the engine's work, and a wrong byte here makes the tables differ from the log.
"""
import datetime
import json
import os
import re
import struct

HEADER_BYTES, FRAME_BYTES = 80, 16
MESSAGES, SEAL, OPEN, NOTED = 2, 5, 1, 6
BROKEN = re.compile(rb'"who":"([^"]+)","seq":(\d+),"v":"?(-?\d+)')


def segments(folder):
    """Bytes of each segment, up to where the next one says that it ends."""
    names = sorted(name for name in os.listdir(folder) if re.fullmatch(r"\d{10}\.log", name))
    if [int(name[:10]) for name in names] != list(range(1, len(names) + 1)):
        raise ValueError(f"segments are missing in {folder}: {names}")
    parts = []
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            parts.append(file.read())
    for part, following in zip(parts, parts[1:] + [None]):
        if part[:8] != b"tidemill":
            raise ValueError("that is no segment")
        yield part if following is None else part[: struct.unpack_from("<Q", following, 56)[0]]


def records(folder):
    for segment in segments(folder):
        at = HEADER_BYTES
        while at + FRAME_BYTES <= len(segment):
            length = struct.unpack_from("<I", segment, at)[0]
            if length == 0:
                break
            yield memoryview(segment)[at + FRAME_BYTES : at + FRAME_BYTES + length]
            at += FRAME_BYTES + length


def text(body, at):
    length = struct.unpack_from("<I", body, at)[0]
    return bytes(body[at + 4 : at + 4 + length]).decode(), at + 4 + length


def epochs(folder):
    """Yields (epoch, now, [(source, partition, arrival, payload), ...])."""
    partitions, events = {}, []
    for body in records(folder):
        if body[0] == OPEN:
            source, at = text(body, 5)
            partitions[struct.unpack_from("<I", body, 1)[0]] = (source, text(body, at)[0])
        elif body[0] == MESSAGES:
            partition, arrival, _, count = struct.unpack_from("<IqQI", body, 1)
            source, name = partitions[partition]
            lengths = struct.unpack_from(f"<{2 * count}I", body, 25)
            at = 25 + 8 * count
            for topic, payload in zip(lengths[::2], lengths[1::2]):
                at += topic
                events.append((source, name, arrival, bytes(body[at : at + payload])))
                at += payload
        elif body[0] == NOTED:
            # As above, with attributes for each message; behind the messages stand notes, which are not input.
            partition, arrival, _, count, notes = struct.unpack_from("<IqQII", body, 1)
            source, name = partitions[partition]
            lengths = struct.unpack_from(f"<{3 * count}I", body, 29)
            at = 29 + 12 * count + 8 * notes
            for topic, payload, attributes in zip(lengths[::3], lengths[1::3], lengths[2::3]):
                at += topic
                events.append((source, name, arrival, bytes(body[at : at + payload])))
                at += payload + attributes
        elif body[0] == SEAL:
            epoch, now = struct.unpack_from("<Qq", body, 1)
            yield epoch, now, events
            events = []
    if events:
        raise ValueError(f"{len(events)} messages stand behind the last seal: the log was not closed well")


def micros(stamp):
    instant = datetime.datetime.fromisoformat(stamp)
    return (instant - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def reading(payload):
    """(who, seq, v, ts); ts is None if it cannot be a row."""
    try:
        row = json.loads(payload)
        if type(row["v"]) is int:
            return row["who"], row["seq"], row["v"], micros(row["ts"])
    except ValueError:
        pass
    found = BROKEN.search(payload)
    if found is None:
        raise ValueError(f"the log holds what nobody has sent: {payload!r}")
    return found[1].decode(), int(found[2]), int(found[3]), None
