"""A client of paho-mqtt whose answers can be waited for."""

import itertools
import select
import socket
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

V3, V5 = paho.MQTTv311, paho.MQTTv5
# A debug build on a busy machine, with a sync in between.
PATIENCE = 60
# As long as nothing must come.
SILENCE = 0.5
_numbers = itertools.count(1)


def properties(packet, **values):
    """Properties of a packet, by the names that paho gives them."""
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def publish_properties(**values):
    return properties(PacketTypes.PUBLISH, **values)


def fresh(name):
    """A client id or a topic that no other check uses."""
    return f"{name}-{next(_numbers)}"


class Failed(Exception):
    """A check that did not hold."""


def check(is_so, what):
    if not is_so:
        raise Failed(what)


def equal(found, expected, what=""):
    check(found == expected, f"{what}: {found!r}, not {expected!r}")


class Client:
    """Connects at once, to the listener at `Client.port`; it never connects again by itself."""

    port = 0

    def __init__(self, version, client_id=None, clean=True, keep_alive=60, will=None, manual_ack=False, expect=0, **connect):
        self.version, self.told = version, threading.Condition()
        self.connected = self.disconnected = None
        self.messages, self.answers = [], {}
        client_id = fresh("client") if client_id is None else client_id
        v3 = {"clean_session": clean} if version == V3 else {}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, reconnect_on_failure=False,
            manual_ack=manual_ack, **v3)
        self.paho.on_connect = lambda c, u, flags, code, props: self._tell("connected", (flags.session_present, code, props))
        self.paho.on_disconnect = lambda c, u, flags, code, props: self._tell("disconnected", code)
        self.paho.on_message = lambda c, u, message: self._note(lambda: self.messages.append(message))
        self.paho.on_subscribe = lambda c, u, mid, codes, props: self._note(lambda: self.answers.update({mid: codes}))
        self.paho.on_unsubscribe = lambda c, u, mid, codes, props: self._note(lambda: self.answers.update({mid: codes}))
        self.paho.on_publish = lambda c, u, mid, code, props: self._note(lambda: self.answers.update({mid: code}))
        if will:
            self.paho.will_set(**will)
        v5 = {"clean_start": clean, "properties": properties(PacketTypes.CONNECT, **connect)} if version == V5 else {}
        self.paho.connect("127.0.0.1", Client.port, keepalive=keep_alive, **v5)
        self.paho.loop_start()
        self.wait(lambda: self.connected or self.disconnected, "an answer to CONNECT")
        if expect is not None:
            equal(self.code(), expect, "the answer to CONNECT")

    def _note(self, change):
        with self.told:
            change()
            self.told.notify_all()

    def _tell(self, name, value):
        self._note(lambda: setattr(self, name, value))

    def wait(self, is_so, what, seconds=PATIENCE):
        with self.told:
            check(self.told.wait_for(is_so, seconds), f"not within {seconds} s: {what}")

    def code(self):
        return self.connected[1].value if self.connected else None

    def present(self):
        return self.connected[0]

    def connack(self, name):
        """A property of CONNACK, or None."""
        return getattr(self.connected[2], name, None)

    def subscribe(self, *filters, qos=2, expect=None, number=None, **options):
        """Subscribes, and returns the codes."""
        if self.version == V5:
            asked = [(name, SubscribeOptions(qos=qos, **options)) for name in filters]
            more = {"properties": properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number)} if number else {}
        else:
            asked, more = [(name, qos) for name in filters], {}
        _, mid = self.paho.subscribe(asked, **more)
        self.wait(lambda: mid in self.answers, f"SUBACK for {filters}")
        codes = [code.value for code in self.answers.pop(mid)]
        equal(codes, expect if expect is not None else [qos] * len(filters), f"SUBACK for {filters}")

    def unsubscribe(self, *filters):
        """Unsubscribes, and returns the codes of version 5."""
        _, mid = self.paho.unsubscribe(list(filters))
        self.wait(lambda: mid in self.answers, f"UNSUBACK for {filters}")
        return [code.value for code in self.answers.pop(mid) or []]

    def publish(self, topic, payload=b"x", qos=1, retain=False, props=None):
        """Publishes, and waits for the last acknowledgement; returns its code."""
        info = self.paho.publish(topic, payload, qos, retain, props)
        info.wait_for_publish(PATIENCE)
        check(info.is_published(), f"{topic} is not acknowledged")
        self.wait(lambda: info.mid in self.answers, f"an answer to {topic}")
        return self.answers.pop(info.mid).value

    def got(self, count, what="messages"):
        """Waits for so many messages, and returns them in their order, without those of before."""
        self.wait(lambda: len(self.messages) >= count, f"{count} {what}, there are {len(self.messages)}")
        with self.told:
            taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def silent(self):
        """Nothing comes: what is asked for and answered behind it has no message before it."""
        time.sleep(SILENCE)
        equal([message.topic for message in self.messages], [], "messages that should not come")

    def acknowledge(self, message):
        self.paho.ack(message.mid, message.qos)

    def send(self, data):
        """Bytes, whatever they are, as fast as they are taken: paho's socket does not wait."""
        link, rest = self.paho.socket(), memoryview(data)
        while rest:
            check(select.select([], [link], [], PATIENCE)[1], "the listener does not take what is sent")
            rest = rest[link.send(rest):]

    def close(self, **props):
        """Says good-bye."""
        v5 = {"properties": properties(PacketTypes.DISCONNECT, **props)} if props else {}
        self.paho.disconnect(**v5)
        self.wait(lambda: self.disconnected is not None, "the end")
        self.paho.loop_stop()

    def die(self):
        """Ends without a good-bye, as a device without power."""
        # First: paho's thread sleeps for up to a second.
        self.paho.socket().shutdown(socket.SHUT_RDWR)
        self.paho.loop_stop()

    def ended(self):
        """Waits until the listener ends the connection, and returns the reason code."""
        self.wait(lambda: self.disconnected is not None, "the listener to end the connection")
        return self.disconnected.value
