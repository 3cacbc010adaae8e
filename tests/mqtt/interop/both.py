"""What holds in both versions. Each function is a check."""

import select
import socket
import time

from client import PATIENCE, V3, V5, Client, check, equal, fresh


def lasting(version):
    """What makes a session outlive its connection."""
    return {"clean": False, **({"SessionExpiryInterval": 600} if version == V5 else {})}


def seen(messages):
    return [(message.topic, message.payload.decode(), message.qos, int(message.retain)) for message in messages]


def basic(version):
    reader, writer = Client(version), Client(version)
    topic = fresh("in/basic")
    reader.subscribe(topic, qos=2)
    for qos in (0, 1, 2):
        writer.publish(topic, f"message {qos}", qos)
    equal(seen(reader.got(3)), [(topic, f"message {qos}", qos, 0) for qos in (0, 1, 2)])
    # At most what was granted.
    reader.subscribe(topic, qos=0)
    writer.publish(topic, "again", 2)
    equal(seen(reader.got(1)), [(topic, "again", 0, 0)])
    for client in (reader, writer):
        client.close()


def order(version):
    reader, writer = Client(version), Client(version)
    topic = fresh("in/order")
    reader.subscribe(topic)
    infos = [writer.paho.publish(topic, str(number), number % 3) for number in range(300)]
    for info in infos:
        info.wait_for_publish(PATIENCE)
    # Of one quality: paho holds back what is beyond its window, and a message of QoS 2 until it is released.
    messages = reader.got(300)
    for qos in (0, 1, 2):
        equal([int(message.payload) for message in messages if message.qos == qos], list(range(qos, 300, 3)), f"QoS {qos}")


def retained(version):
    writer, branch = Client(version), fresh("in/kept")
    for qos in (0, 1, 2):
        writer.publish(f"{branch}/{qos}", f"qos {qos}", qos, retain=True)
    reader = Client(version)
    reader.subscribe(f"{branch}/+")
    equal(seen(reader.got(3)), [(f"{branch}/{qos}", f"qos {qos}", qos, 1) for qos in (0, 1, 2)])
    # Who is there gets it without the flag; the empty one too.
    writer.publish(f"{branch}/1", b"", 1, retain=True)
    equal(seen(reader.got(1)), [(f"{branch}/1", "", 1, 0)])
    later = Client(version)
    later.subscribe(f"{branch}/#")
    equal([message.topic for message in later.got(2)], [f"{branch}/0", f"{branch}/2"])
    later.silent()


def will(version):
    for says_goodbye in (False, True):
        witness, topic = Client(version), fresh("in/will")
        witness.subscribe(topic)
        mortal = Client(version, will={"topic": topic, "payload": "gone", "qos": 2, "retain": True})
        if says_goodbye:
            mortal.close()
            witness.silent()
        else:
            mortal.die()
            equal(seen(witness.got(1)), [(topic, "gone", 2, 0)])
            later = Client(version)
            later.subscribe(topic)
            equal(seen(later.got(1)), [(topic, "gone", 2, 1)])


def zero_length_client_id(version):
    first, second = Client(version, ""), Client(version, "")
    equal((first.present(), second.present()), (False, False))
    topic = fresh("in/zero")
    first.subscribe(topic)
    second.publish(topic)
    equal(len(first.got(1)), 1)
    if version == V3:
        # Without a clean session there is no name to keep it under.
        with socket.create_connection(("127.0.0.1", Client.port), PATIENCE) as link:
            link.sendall(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00")
            equal(link.recv(4), b"\x20\x02\x00\x02", "CONNACK")
            equal(link.recv(1), b"", "the end")


def offline_message_queueing(version):
    name, branch, writer = fresh("away"), fresh("in/queue"), Client(version)
    Client(version, name, **lasting(version)).close(**({"SessionExpiryInterval": 600} if version == V5 else {}))
    reader = Client(version, name, **lasting(version))
    check(reader.present(), "the session is there")
    reader.subscribe(f"{branch}/+/a", f"{branch}/#")
    reader.close()
    for qos in (0, 1, 2):
        writer.publish(f"{branch}/{qos}", f"qos {qos}", qos)
    reader = Client(version, name, **lasting(version))
    check(reader.present(), "the session is there")
    # What is of QoS 0 does not wait.
    equal([(qos, text) for _, text, qos, _ in seen(reader.got(2))], [(1, "qos 1"), (2, "qos 2")])
    reader.silent()
    reader.close()
    # A clean start ends it.
    equal(Client(version, name, clean=True).present(), False)


def overlapping_subscriptions(version):
    reader, writer, branch = Client(version), Client(version), fresh("in/overlap")
    reader.subscribe(f"{branch}/#", qos=2)
    reader.subscribe(f"{branch}/+", qos=1)
    writer.publish(f"{branch}/x", "once", 2)
    # One copy, at the highest quality granted.
    equal(seen(reader.got(1)), [(f"{branch}/x", "once", 2, 0)])
    reader.silent()


def keep_alive(version):
    witness, topic = Client(version), fresh("in/silent")
    witness.subscribe(topic)
    # Who pings stays, through more than 1.5 keep-alives; it may be late by half of one, on a busy machine.
    lively, began = Client(version, keep_alive=12), time.monotonic()
    # As silent, with more time.
    patient = Client(version, keep_alive=120)
    patient.paho.loop_stop()
    begin = time.monotonic()
    silent = Client(version, keep_alive=2, will={"topic": topic, "payload": "silent", "qos": 1})
    silent.paho.loop_stop()
    equal(seen(witness.got(1)), [(topic, "silent", 1, 0)])
    took = time.monotonic() - begin
    check(took > 2.9, f"1.5 keep-alives took {took:.1f} s")
    link = patient.paho.socket()
    check(select.select([link], [], [], 0)[0] == [], f"after {took:.1f} s another client is thrown out, too")
    time.sleep(max(0, began + 19 - time.monotonic()))
    check(lively.disconnected is None, "a client that pings is thrown out")


def redelivery_on_reconnect(version):
    name, branch, writer = fresh("again"), fresh("in/again"), Client(version)
    reader = Client(version, name, manual_ack=True, **lasting(version))
    reader.subscribe(f"{branch}/#")
    for qos in (1, 2):
        writer.publish(f"{branch}/{qos}", f"qos {qos}", qos)
    first = reader.got(2)
    equal(sorted(message.dup for message in first), [False, False])
    reader.die()
    reader = Client(version, name, **lasting(version))
    check(reader.present(), "the session is there")
    # At QoS 1 it comes again, as a duplicate with the same id; at QoS 2 the release does, which paho gives out only if it
    # knows the message.
    again = reader.got(1)[0]
    before = next(message for message in first if message.qos == 1)
    equal((again.payload, again.dup, again.mid), (b"qos 1", True, before.mid))
    # Paho acknowledges after it has given a message out: what is answered now, is answered behind that.
    reader.unsubscribe("in/nothing")
    reader.close()
    reader = Client(version, name, **lasting(version))
    reader.silent()


def subscribe_failure(version):
    reader = Client(version)
    refused = 0x87 if version == V5 else 0x80
    reader.subscribe("no/reading", qos=1, expect=[refused])
    reader.subscribe("in/ok", "no/reading", "in/ok/#", qos=1, expect=[1, refused, 1])
    # Nobody reads it, and the device that publishes there is told, in version 5.
    writer = Client(version)
    equal(writer.publish("no/writing", "x", 1), 0x87 if version == V5 else 0)


def dollar_topics(version):
    reader, writer, topic = Client(version), Client(version), fresh("$own/topic")
    reader.subscribe("#", "+/+", qos=1)
    writer.publish(topic, "hidden", 1)
    seen_topic = fresh("in/dollar")
    writer.publish(seen_topic, "seen", 1)
    # Other checks publish meanwhile.
    reader.wait(lambda: any(message.topic == seen_topic for message in reader.messages), "what # takes")
    equal([message for message in reader.messages if message.topic.startswith("$")], [])
    reader.unsubscribe("#", "+/+")
    reader.subscribe(f"{topic}/#", qos=1)
    writer.publish(topic, "by name", 1)

    # What was on its way before the UNSUBSCRIBE may come behind its answer.
    def by_name():
        return [message for message in reader.messages if message.topic.startswith("$")]

    reader.wait(by_name, f"what {topic}/# takes")
    equal(seen(by_name()), [(topic, "by name", 1, 0)])


def unsubscribe(version):
    reader, writer, branch = Client(version), Client(version), fresh("in/un")
    reader.subscribe(f"{branch}/a", f"{branch}/b", f"{branch}/c")
    codes = reader.unsubscribe(f"{branch}/a", f"{branch}/nothing")
    equal(codes, [0, 0x11] if version == V5 else [], "UNSUBACK")
    for name in "abc":
        writer.publish(f"{branch}/{name}", name, 1)
    equal([message.payload for message in reader.got(2)], [b"b", b"c"])
    reader.silent()


def takeover(version):
    name = fresh("twice")
    first = Client(version, name, **lasting(version))
    second = Client(version, name, **lasting(version))
    check(second.present(), "the session goes on")
    code = first.ended()
    check(version == V3 or code == 0x8E, f"the first is told {code:#x}")


def large_messages(version):
    reader, writer, topic = Client(version), Client(version), fresh("in/large")
    reader.subscribe(topic)
    payload = bytes(range(256)) * 4096
    writer.publish(topic, payload, 2)
    equal(reader.got(1)[0].payload == payload, True, "one mebibyte")


CHECKS = [basic, order, retained, will, zero_length_client_id, offline_message_queueing, overlapping_subscriptions,
          keep_alive, redelivery_on_reconnect, subscribe_failure, dollar_topics, unsubscribe, takeover, large_messages]
