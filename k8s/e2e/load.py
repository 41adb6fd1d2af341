"""Searches without a pause until it is told to stop, and counts what failed: a pod of the cluster runs it.

    python load.py http://router:8080/predictions/search photo.jpg 4

A connection for each search, as an ingress that follows the endpoints has it: a kept one would outlive its pod.
SIGTERM ends it; the last line of its output is {"searches": n, "failures": [...], "versions": [...]}.
"""

import json
import signal
import sys
import threading
import urllib.request

stop = threading.Event()


def search(url: str, photo: bytes) -> str:
    """Return the index version that answered; raises what went wrong."""
    headers = {"content-type": "image/jpeg", "connection": "close"}
    with urllib.request.urlopen(urllib.request.Request(url, photo, headers), timeout=15) as response:
        return str(json.load(response)["index"]["version"])


def one_client(url: str, photo: bytes, versions: list[str], failures: list[str]) -> None:
    """Search until stopped; keep what each search gave."""
    while not stop.is_set():
        try:
            versions.append(search(url, photo))
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            stop.wait(0.1)


def main() -> None:
    """Run the clients and print the result."""
    url, path, clients = sys.argv[1:]
    with open(path, "rb") as file:
        photo = file.read()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    versions: list[str] = []
    failures: list[str] = []
    arguments = (url, photo, versions, failures)
    threads = [threading.Thread(target=one_client, args=arguments) for _ in range(int(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = {"searches": len(versions) + len(failures), "failures": failures, "versions": sorted(set(versions))}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
