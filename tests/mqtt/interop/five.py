"""What only MQTT 5 has. Each function is a check."""

import socket
import time

from client import PATIENCE, V5, Client, check, equal, fresh, properties, publish_properties
from paho.mqtt.packettypes import PacketTypes


def pair(**reader):
    return Client(V5, **reader), Client(V5)


def session_expiry():
    for lives, seconds, wait in ((False, 0, 0), (True, 600, 0), (False, 1, 2.5)):
        name = fresh("expiry")
        Client(V5, name, clean=True, SessionExpiryInterval=seconds).close()
        time.sleep(wait)
        equal(Client(V5, name, clean=False).present(), lives, f"a session of {seconds} s")
    # The good-bye may change it, but not bring back what ends with its connection.
    name = fresh("expiry")
    Client(V5, name, SessionExpiryInterval=600).close(SessionExpiryInterval=0)
    equal(Client(V5, name, clean=False).present(), False, "ended by the good-bye")
    client = Client(V5, fresh("expiry"))
    client.paho.disconnect(properties=properties(PacketTypes.DISCONNECT, SessionExpiryInterval=5))
    # More than the listener grants is cut, and said.
    equal(Client(V5, SessionExpiryInterval=0xFFFFFFFF).connack("SessionExpiryInterval"), 7 * 24 * 3600)


def shared_subscriptions_are_refused():
    client = Client(V5)
    equal(client.connack("SharedSubscriptionAvailable"), 0)
    client.subscribe("$share/group/in/#", qos=1, expect=[0x9E])


def client_topic_alias():
    reader, writer = pair()
    topic = fresh("in/alias")
    reader.subscribe(topic)
    equal(writer.connack("TopicAliasMaximum"), 64)
    writer.publish(topic, "named", 1, props=publish_properties(TopicAlias=3))
    writer.publish("", "by alias", 2, props=publish_properties(TopicAlias=3))
    equal([(m.topic, m.payload) for m in reader.got(2)], [(topic, b"named"), (topic, b"by alias")])
    for alias, topic in ((65, "in/x"), (9, "")):
        # Too large; never named.
        other = Client(V5)
        other.paho.publish(topic, "x", 1, False, publish_properties(TopicAlias=alias))
        equal(other.ended(), 0x94, f"alias {alias}")


def server_topic_alias():
    # Allowed to it, and not used: each message has its topic.
    reader, writer = pair(TopicAliasMaximum=10)
    topic = fresh("in/named")
    reader.subscribe(topic)
    for _ in range(3):
        writer.publish(topic)
    equal([(m.topic, hasattr(m.properties, "TopicAlias")) for m in reader.got(3)], [(topic, False)] * 3)


def flow_control_of_the_listener():
    client = Client(V5)
    maximum = client.connack("ReceiveMaximum")
    equal(maximum, 16_384)
    # Beyond it the connection ends: paho keeps to it, so it is written by hand.
    topic, rest = b"in/flood", b"\x00x"
    packets = bytearray()
    for number in range(1, maximum + 2):
        body = len(topic).to_bytes(2, "big") + topic + number.to_bytes(2, "big") + rest
        packets += bytes([0x34, len(body)]) + body
    client.send(bytes(packets))
    equal(client.ended(), 0x93)


def flow_control_of_the_client():
    reader, writer = pair(manual_ack=True, ReceiveMaximum=2)
    topic = fresh("in/flow")
    reader.subscribe(topic)
    for number in range(6):
        writer.publish(topic, str(number), 1)
    first = reader.got(2)
    reader.silent()
    # One at a time, as they are acknowledged.
    pending = first
    for number in range(2, 6):
        reader.acknowledge(pending.pop(0))
        pending += reader.got(1)
        equal(pending[-1].payload, str(number).encode())
    # QoS 0 is not counted.
    writer.publish(topic, "free", 0)
    equal(reader.got(1)[0].payload, b"free")


def properties_of_messages():
    reader, writer = pair()
    topic = fresh("in/props")
    reader.subscribe(topic)
    user = [("a", "1"), ("b", ""), ("a", "2"), ("", "ü")]
    for qos in (0, 1, 2):
        writer.publish(topic, "x", qos, props=publish_properties(
            UserProperty=user, PayloadFormatIndicator=1, ContentType="text/plain", ResponseTopic="in/answers",
            CorrelationData=b"\x00\xff"))
    for message in reader.got(3):
        found = message.properties
        # Each, and in their order.
        equal(found.UserProperty, user)
        equal((found.PayloadFormatIndicator, found.ContentType), (1, "text/plain"))
        equal((found.ResponseTopic, found.CorrelationData), ("in/answers", b"\x00\xff"))
    # A retained message and a will keep theirs.
    writer.publish(topic, "kept", 1, True, publish_properties(ContentType="kept"))
    later = Client(V5)
    later.subscribe(topic)
    equal(later.got(1)[0].properties.ContentType, "kept")
    reader.got(1)
    will = {"topic": topic, "payload": "gone", "properties": properties(PacketTypes.WILLMESSAGE, ContentType="will")}
    Client(V5, will=will).die()
    equal(reader.got(1)[0].properties.ContentType, "will")


def publication_expiry():
    name, branch = fresh("expire"), fresh("in/expire")
    reader, writer = Client(V5, name, SessionExpiryInterval=600), Client(V5)
    reader.subscribe(f"{branch}/+")
    reader.close()
    begin = time.monotonic()
    for seconds in (1, 600, None):
        props = publish_properties(MessageExpiryInterval=seconds) if seconds else None
        writer.publish(f"{branch}/{seconds}", "x", 1, False, props)
        writer.publish(f"in/{branch}/{seconds}", "x", 1, True, props)
    time.sleep(2.2)
    reader = Client(V5, name, clean=False, SessionExpiryInterval=600)
    messages = reader.got(2)
    equal([m.topic for m in messages], [f"{branch}/600", f"{branch}/None"])
    left, most = messages[0].properties.MessageExpiryInterval, time.monotonic() - begin
    check(600 - most - 1 <= left <= 598, f"{left} s are left of 600 after {most:.1f} s")
    later = Client(V5)
    later.subscribe(f"in/{branch}/+")
    equal([m.topic for m in later.got(2)], [f"in/{branch}/600", f"in/{branch}/None"])
    later.silent()


def subscription_options():
    client, other, topic = Client(V5), Client(V5), fresh("in/options")
    client.subscribe(topic, noLocal=True)
    client.publish(topic, "mine", 1)
    other.publish(topic, "another's", 1)
    equal([m.payload for m in client.got(1)], [b"another's"], "no local")
    client.subscribe(topic, retainAsPublished=True)
    other.publish(topic, "as published", 1, retain=True)
    equal([m.retain for m in client.got(1)], [True], "retain as published")
    # 0: always, 1: if the subscription is new, 2: never.
    client.subscribe(topic, retainHandling=0)
    equal([m.payload for m in client.got(1)], [b"as published"])
    client.subscribe(topic, retainHandling=1)
    client.subscribe(topic, retainHandling=2)
    client.silent()
    client.unsubscribe(topic)
    client.subscribe(topic, retainHandling=2)
    client.silent()
    client.unsubscribe(topic)
    client.subscribe(topic, retainHandling=1)
    equal([m.payload for m in client.got(1)], [b"as published"])


def subscription_identifiers():
    reader, writer = pair()
    branch = fresh("in/ids")
    reader.subscribe(f"{branch}/a", number=456)
    reader.subscribe(f"{branch}/+", number=2)
    reader.subscribe(f"{branch}/#")
    for name, ids in (("a", [2, 456]), ("b", [2])):
        writer.publish(f"{branch}/{name}", "x", 1)
        equal(sorted(reader.got(1)[0].properties.SubscriptionIdentifier), ids)
    writer.publish(f"{branch}/a/b", "x", 1)
    check(not hasattr(reader.got(1)[0].properties, "SubscriptionIdentifier"), "a subscription without one")


def request_and_response():
    asks, answers = Client(V5), Client(V5)
    questions, replies = fresh("in/questions"), fresh("in/replies")
    answers.subscribe(questions)
    asks.subscribe(replies)
    asks.publish(questions, "2 + 2", 1, props=publish_properties(ResponseTopic=replies, CorrelationData=b"7"))
    question = answers.got(1)[0]
    back = publish_properties(CorrelationData=question.properties.CorrelationData)
    answers.publish(question.properties.ResponseTopic, "4", 1, props=back)
    reply = asks.got(1)[0]
    equal((reply.payload, reply.properties.CorrelationData), (b"4", b"7"))


def will_delay():
    witness, branch = Client(V5), fresh("in/delay")
    witness.subscribe(f"{branch}/+")

    def mortal(name, delay, expiry):
        props = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=delay)
        will = {"topic": f"{branch}/{name}", "payload": name, "qos": 1, "properties": props}
        return Client(V5, f"{branch}{name}".replace("/", "-"), will=will, SessionExpiryInterval=expiry)

    # Who dies last has the same delay: when its will comes, that of the one who came back would have come, too.
    came_back = mortal("never", 12, 600)
    came_back.die()
    back = Client(V5, f"{branch}never".replace("/", "-"), clean=False, SessionExpiryInterval=600)
    check(back.present(), "the session is there")
    begin = time.monotonic()
    mortal("cut short by the session", 600, 1).die()
    mortal("late", 12, 600).die()
    equal(sorted(m.payload for m in witness.got(2)), [b"cut short by the session", b"late"])
    check(time.monotonic() - begin > 11.9, "the will came at once")
    witness.silent()
    # A clean start ends the session, and so the delay.
    last = mortal("at last", 600, 600)
    last.die()
    Client(V5, f"{branch}at last".replace("/", "-"), clean=True)
    equal([m.payload for m in witness.got(1)], [b"at last"])


def assigned_client_id():
    first = Client(V5, "", SessionExpiryInterval=600)
    name = first.connack("AssignedClientIdentifier")
    check(name and name != Client(V5, "").connack("AssignedClientIdentifier"), f"{name!r}")
    first.close()
    again = Client(V5, name, clean=False, SessionExpiryInterval=600)
    equal((again.present(), again.connack("AssignedClientIdentifier")), (True, None))


def maximum_packet_size():
    reader, writer = pair(MaximumPacketSize=100)
    equal(writer.connack("MaximumPacketSize"), 16 << 20)
    topic = fresh("in/size")
    reader.subscribe(topic)
    writer.publish(topic, "x" * 200, 2)
    writer.publish(topic, "small", 2)
    # As if the large one had been delivered.
    equal([m.payload for m in reader.got(1)], [b"small"])
    other = Client(V5)
    other.send(b"\x30\xff\xff\xff\x7f")
    equal(other.ended(), 0x95)


def server_keep_alive():
    # The listener takes the client's own.
    equal(Client(V5, keep_alive=120).connack("ServerKeepAlive"), None)
    # Zero is no limit.
    silent = Client(V5, keep_alive=0)
    time.sleep(2)
    check(silent.disconnected is None, "a client without keep-alive is thrown out")


def authentication_exchanges_are_refused():
    # A method in CONNECT, and AUTH out of nowhere.
    equal(Client(V5, expect=None, AuthenticationMethod="SCRAM-SHA-1").code(), 0x8C)
    client = Client(V5)
    client.send(b"\xf0\x00")
    equal(client.ended(), 0x82)


def capabilities():
    client = Client(V5)
    for name in ("MaximumQoS", "RetainAvailable", "WildcardSubscriptionAvailable", "SubscriptionIdentifierAvailable"):
        check(client.connack(name) in (None, 1), f"{name}: everything is there")


def malformed_packets_cost_their_own_connection():
    witness = Client(V5)
    # QoS 3; a wildcard in a topic; an unknown property; packet id 0; a second CONNECT.
    for data, code in ((b"\x36\x07\x00\x01a\x00\x01\x00x", 0x81), (b"\x30\x05\x00\x01#\x00x", 0x90),
                       (b"\x30\x06\x00\x01a\x02\x63\x00", 0x81), (b"\x32\x07\x00\x01a\x00\x00\x00x", 0x82),
                       (b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00", 0x82)):
        client = Client(V5)
        client.send(data)
        found = client.ended()
        check(found in (code, 0x81), f"{data!r} ends with {found:#x}")
    with socket.create_connection(("127.0.0.1", Client.port), PATIENCE) as link:
        link.sendall(b"GET / HTTP/1.1\r\n\r\n")
        equal(link.recv(100), b"", "an answer to HTTP")
    check(witness.disconnected is None, "another client was thrown out")


CHECKS = [session_expiry, shared_subscriptions_are_refused, client_topic_alias, server_topic_alias,
          flow_control_of_the_listener, flow_control_of_the_client, properties_of_messages, publication_expiry,
          subscription_options, subscription_identifiers, request_and_response, will_delay, assigned_client_id,
          maximum_packet_size, server_keep_alive, authentication_exchanges_are_refused, capabilities,
          malformed_packets_cost_their_own_connection]
