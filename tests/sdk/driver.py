"""Runs the real Segment SDKs for Node.js and Python against a running Beckon.

Each SDK sends one of each call and a burst of 1,000 events in three ways at once: directly,
through a proxy that drops every third answer after the events are stored, and through one that
answers 429 and 500 first. Then each message id an SDK made must be stored exactly once, and
nothing else: an SDK that repeats itself, a server that counts twice and an event that is lost all
show.

The SDKs wait between tries (429: the Retry-After of 1 s; else 0.5 s, doubling), so the whole run
takes some 10 s, and everything that waits has a bound.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from proxy import Proxy, drop_every_third, refuse_first

HERE = os.path.dirname(os.path.abspath(__file__))
BURST = 1000
CALLS = 6
START_SECONDS_MAX = 90
STOP_SECONDS_MAX = 20
CLIENT_SECONDS_MAX = 180
PAGE = 100
PAGES_MAX = 200
LISTENING = re.compile(r"listening.*?(127\.0\.0\.1):(\d+)", re.IGNORECASE)

WAYS = {"direct": None, "drops": drop_every_third, "refuses": refuse_first}


class Failed(Exception):
    """Something is not as it must be; the message says what."""


class Beckon:
    """A Beckon of our own, on a free port, with a data folder that goes when it ends."""

    def __init__(self, binary, log_path):
        self.admin_key = secrets.token_hex(16)
        self.client_key = secrets.token_hex(16)
        self.data_dir = tempfile.mkdtemp(prefix="beckon-sdk-")
        self.log_path = log_path
        self.address = None
        self.found = threading.Event()
        environment = {
            name: value
            for name, value in os.environ.items()
            if name != "DATABASE_URL" and not name.startswith("BECKON_")
        }
        environment |= {
            "BECKON_LISTEN": "127.0.0.1:0",
            "BECKON_DATA_DIR": self.data_dir,
            "BECKON_ADMIN_KEY": self.admin_key,
            "BECKON_CLIENT_KEY": self.client_key,
        }
        self.process = subprocess.Popen(
            [binary, "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with open(self.log_path, "w", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                match = LISTENING.search(line)
                if match and self.address is None:
                    self.address = (match.group(1), int(match.group(2)))
                    self.found.set()
        self.found.set()

    def wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        self.found.wait(START_SECONDS_MAX)
        if self.address is None:
            raise Failed(f"beckon did not say where it listens; see {self.log_path}")
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            time.sleep(0.1)
        raise Failed(f"beckon did not become ready; see {self.log_path}")

    @property
    def url(self):
        host, port = self.address
        return f"http://{host}:{port}"

    def get(self, path, **query):
        request = urllib.request.Request(
            f"{self.url}{path}?{urllib.parse.urlencode(query)}",
            headers={"x-api-key": self.admin_key},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def events_of(self, user):
        """Every stored event of a user."""
        events = []
        for page in range(PAGES_MAX):
            answer = self.get("/v1/admin/events", user_id=user, limit=PAGE, offset=page * PAGE)
            events += answer["events"]
            if len(answer["events"]) < PAGE:
                if len(events) != answer["total"]:
                    raise Failed(f"{user}: {len(events)} events listed, total {answer['total']}")
                return events
        raise Failed(f"{user}: more than {PAGES_MAX * PAGE} events")

    def stop(self):
        """Asks it to end, and says whether it ended well."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX) == 0
        except subprocess.TimeoutExpired:
            return False

    def clean_up(self):
        """Leaves no process and no file behind, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        pid_file = os.path.join(self.data_dir, "postgres", "postmaster.pid")
        with contextlib.suppress(OSError, ValueError):
            with open(pid_file, encoding="utf-8") as file:
                os.kill(int(file.readline()), signal.SIGQUIT)
            time.sleep(1)
        shutil.rmtree(self.data_dir, ignore_errors=True)


def command_of(sdk, workspace):
    if sdk == "node":
        return ["node", os.path.join(workspace, "client.mjs")]
    return [sys.executable, os.path.join(HERE, "client.py")]


def send(beckon, sdk, way, workspace):
    """Lets one SDK send in one way; returns the message ids it made."""
    user = f"{sdk}-{way}"
    behaviour = WAYS[way]
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(*beckon.address, behaviour)) if behaviour else None
        host = proxy.url if proxy else beckon.url
        started = time.monotonic()
        client = subprocess.run(
            [*command_of(sdk, workspace), host, beckon.client_key, user, str(BURST)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=CLIENT_SECONDS_MAX,
            check=False,
        )
        seconds = time.monotonic() - started
    if client.returncode != 0:
        raise Failed(f"{user}: the client ended with {client.returncode}: {client.stderr[-2000:]}")
    report = json.loads(client.stdout.splitlines()[-1])
    if report["errors"]:
        raise Failed(f"{user}: the SDK reports {report['errors'][:5]}")
    made = report["messageIds"]
    if len(made) != BURST + CALLS or len(set(made)) != len(made):
        raise Failed(f"{user}: the SDK made {len(made)} ids, {len(set(made))} distinct")
    told = ""
    if proxy:
        told = check_proxy(user, proxy)
    print(f"  {user:16} sent {len(made)} events in {seconds:4.1f} s{told}", flush=True)
    return user, made


def check_proxy(user, proxy):
    """The proxy must have hurt, and Beckon must have answered everything well."""
    if proxy.complaints:
        raise Failed(f"{user}: beckon answered {proxy.complaints[:3]}")
    if proxy.broken < 3:
        raise Failed(f"{user}: only {proxy.broken} answers were broken, so nothing was tested")
    if proxy.duplicates == 0:
        raise Failed(f"{user}: events were sent twice, yet beckon reports no duplicates")
    return (
        f" ({proxy.broken} of {proxy.requests} answers broken,"
        f" {proxy.duplicates} duplicates reported)"
    )


def check_stored(beckon, user, made):
    """Each message id is stored exactly once, and so is each event of the burst."""
    events = beckon.events_of(user)
    stored = collections.Counter(event.get("message_id") for event in events)
    if None in stored:
        raise Failed(f"{user}: an event is listed without its message_id: {events[0]}")
    lost = [message_id for message_id in made if message_id not in stored]
    twice = [message_id for message_id, count in stored.items() if count > 1]
    foreign = [message_id for message_id in stored if message_id not in set(made)]
    if lost or twice or foreign:
        raise Failed(
            f"{user}: {len(lost)} events lost, {len(twice)} stored twice, {len(foreign)} unknown;"
            f" among them {(lost + twice + foreign)[:3]}"
        )
    # The ids were the SDK's. This looks at what the events say, whatever ids they have.
    numbers = sorted(e["properties"]["n"] for e in events if e["event"] == "Burst")
    if numbers != list(range(BURST)):
        raise Failed(f"{user}: the burst's {BURST} events are {len(numbers)} in the store")
    if f"{user}@example.com" not in json.dumps(beckon.get(f"/v1/admin/users/{user}")):
        raise Failed(f"{user}: the traits of identify are not stored")


def run(beckon, workspace):
    beckon.wait_until_ready()
    runs = [(sdk, way) for sdk in ("node", "python") for way in WAYS]
    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        futures = [pool.submit(send, beckon, sdk, way, workspace) for sdk, way in runs]
        results = [future.result() for future in futures]
    for user, made in results:
        check_stored(beckon, user, made)
    expected = sum(len(made) for _, made in results)
    total = beckon.get("/v1/admin/events", limit=1)["total"]
    if total != expected:
        raise Failed(f"{expected} events were sent, {total} are stored")
    if not beckon.stop():
        raise Failed(f"beckon did not end with success; see {beckon.log_path}")
    return expected


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beckon", required=True, help="the beckon binary")
    parser.add_argument("--workspace", required=True, help="where the SDKs are installed")
    arguments = parser.parse_args()
    started = time.monotonic()
    log_path = os.path.join(arguments.workspace, "beckon.log")
    print("the Segment SDKs against a running beckon:", flush=True)
    beckon = Beckon(arguments.beckon, log_path)
    try:
        expected = run(beckon, arguments.workspace)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        beckon.clean_up()
    seconds = time.monotonic() - started
    print(f"ok: {expected} events, each stored exactly once, in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
