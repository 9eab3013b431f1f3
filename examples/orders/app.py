"""A shop that is no part of the mesh: it publishes tasks by Dapr, and a log of outcomes grows.

    POST /orders/7 {"text": "What is a turn?"}      publishes a task as a CloudEvent
    GET /orders/7                                   shows its answers so far

The order's number is the id of the event, so an order that is posted twice is one task.

Needs `pip install 'dapr[fastapi]'`, without the older `dapr-ext-fastapi`. In this folder, with the broker
that `mesh up --store dapr` prints:

    export ORDERS_BROKER_URL=mqtt://orders:$ORDERS_PASSWORD@127.0.0.1:1883
    export APP_PORT=8001 DAPR_HTTP_PORT=3500 DAPR_GRPC_PORT=50001 DAPR_HOST_IP=127.0.0.1
    LOOPBACK="--dapr-listen-addresses 127.0.0.1 --metrics-listen-address 127.0.0.1"
    LOOPBACK="$LOOPBACK --dapr-internal-grpc-listen-address 127.0.0.1"
    python app.py &
    daprd --app-id orders --app-port 8001 --resources-path components $LOOPBACK &
    curl localhost:8001/orders/7 -H 'content-type: application/json' -d '{"text": "What is a turn?"}'
    curl localhost:8001/orders/7
"""

import json
import os
from typing import Any

import uvicorn
from dapr.aio.clients import DaprClient
from dapr.ext.fastapi import DaprApp
from fastapi import FastAPI

app = FastAPI()
dapr = DaprApp(app)
orders: dict[str, dict[str, Any]] = {}


@app.post("/orders/{number}", status_code=202)
async def order(number: str, payload: dict[str, Any]) -> None:
    """Publish a task; its answers come later."""
    event = {
        "specversion": "1.0",
        "id": number,
        "source": "/orders",
        "type": "shop.order",
        "datacontenttype": "application/json",
        "data": {"capability": "general-query", "payload": payload},
    }
    async with DaprClient() as client:
        await client.publish_event(
            "bus", "tasks", json.dumps(event), data_content_type="application/cloudevents+json"
        )


@app.get("/orders/{number}")
def show(number: str) -> dict[str, Any]:
    """Show the answers so far."""
    return orders.get(number, {})


@dapr.subscribe(pubsub="bus", topic="task-receipts")  # type: ignore[untyped-decorator]
def on_receipt(event: dict[str, Any]) -> None:
    """Takes `meshwright.task.accepted`, and `meshwright.task.refused` with the reason."""
    orders.setdefault(event["requestid"], {})[event["type"]] = event["data"]


@dapr.subscribe(pubsub="bus", topic="task-results")  # type: ignore[untyped-decorator]
def on_outcome(event: dict[str, Any]) -> None:
    """Takes `meshwright.task.ended`. It may come twice, with the same id."""
    orders.setdefault(event["requestid"], {})[event["type"]] = event["data"]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]))
