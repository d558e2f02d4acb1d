"""Sends one of each call and a burst through the Segment SDK for Python, then says which message
ids the SDK made. Its arguments are those of client.mjs.

    python client.py HOST WRITE_KEY USER BURST
"""

import json
import sys

from segment.analytics.client import Client

# A small batch makes many requests of the burst, so that many can go wrong on their way.
UPLOAD_SIZE = 20


def main():
    host, write_key, user, burst = sys.argv[1:]
    errors = []
    client = Client(
        write_key,
        host=host,
        upload_size=UPLOAD_SIZE,
        upload_interval=0.1,
        on_error=lambda error, batch: errors.append(f"{len(batch)} events: {error}"),
    )
    sent = [
        client.identify(user, {"email": f"{user}@example.com", "plan": "pro"}),
        client.track(user, "Order Completed", {"total": 12.5}),
        client.page(user, "Docs", "Start", {"path": "/"}),
        client.screen(user, "", "Home", {"variant": "b"}),
        client.group(user, "acme", {"employees": 7}),
        client.alias(f"{user}-before", user),
    ]
    sent += [client.track(user, "Burst", {"n": n}) for n in range(int(burst))]
    errors += ["the SDK's queue is full" for accepted, _ in sent if not accepted]
    client.flush()
    client.join()
    message_ids = [message["messageId"] for _, message in sent]
    print(json.dumps({"messageIds": message_ids, "errors": errors}))


if __name__ == "__main__":
    main()
