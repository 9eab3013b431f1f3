"""A device that measures and does what it is told: python device.py CELSIUS [PORT].

It needs paho-mqtt, which comes with Meshwright, and a broker on this machine.
"""

import json
import sys
from uuid import uuid4

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

celsius, port = float(sys.argv[1]), int((*sys.argv, "1883")[2])
answers = f"replies/anonymous/{uuid4()}"
device = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)


def listen(client: Client, *_: object) -> None:
    """Subscribe to the answers, once the broker is reached."""
    client.subscribe(answers, qos=1)


def measure(*_: object) -> None:
    """Give the mesh a task, once the answers are subscribed to."""
    where = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    where.ResponseTopic = answers
    where.UserProperty = [("reply", "outcome")]
    task = {"agent_id": "watchman", "payload": {"celsius": celsius}}
    device.publish("mesh/default/submit", json.dumps(task), qos=1, properties=where)


def obey(client: Client, userdata: object, message: MQTTMessage) -> None:
    """Print what to do, and end."""
    print(json.loads(message.payload)["result"]["do"])
    device.disconnect()


device.on_connect = listen
device.on_subscribe = measure
device.on_message = obey
device.connect("127.0.0.1", port)
device.loop_forever()
