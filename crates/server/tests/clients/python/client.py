"""client.py CLIENT URL: the clients in Python.

Those that do not reconnect are connected again with the last id.
"""

import asyncio
import importlib
import json
import subprocess
import sys
import time

name, url = sys.argv[1:]
last_id = ""


def told(kind, data, id):
    global last_id
    last_id = id or last_id
    print(json.dumps({"type": kind, "data": data, "id": id}), flush=True)


def headers():
    return {"Last-Event-ID": last_id} if last_id else {}


def httpx_sse():
    import httpx
    from httpx_sse import connect_sse

    try:
        with httpx.Client() as client, connect_sse(client, "GET", url, headers=headers()) as source:
            for event in source.iter_sse():
                told(event.event, event.data, event.id)
    except httpx.HTTPError:
        pass


def requests_sse():
    from requests_sse import EventSource

    with EventSource(url) as source:
        for event in source:
            told(event.type, event.data, event.last_event_id)


def sseclient():
    import requests
    from sseclient import SSEClient

    try:
        for event in SSEClient(requests.get(url, stream=True, headers=headers())).events():
            told(event.event, event.data, event.id)
    except requests.RequestException:
        pass


def aiohttp(package):
    client = importlib.import_module(f"{package}.client")

    async def read():
        async with client.EventSource(url, headers=headers()) as source:
            async for event in source:
                told(event.type, event.data, event.last_event_id)

    try:
        asyncio.run(read())
    except Exception as error:  # A cut, or aiohttp's own time-out.
        print(repr(error), file=sys.stderr)


def curl():
    """curl prints the bytes. Here they are taken apart, and it is started again with the last id."""
    command = ["curl", "--silent", "--no-buffer", url]
    for field, value in headers().items():
        command += ["--header", f"{field}: {value}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        fields = {}
        for line in running.stdout:
            field, _, value = line.rstrip("\n").partition(":")
            if line == "\n":
                if "data" in fields:
                    kind = fields.get("event", ["message"])[-1]
                    told(kind, "\n".join(fields["data"]), fields.get("id", [""])[-1])
                fields = {}
            elif field:
                fields.setdefault(field, []).append(value.removeprefix(" "))


while True:
    match name:
        case "curl":
            curl()
        case "httpx-sse":
            httpx_sse()
        case "requests-sse":
            requests_sse()
        case "sseclient-py":
            sseclient()
        case "aiohttp-sse-client":
            aiohttp("aiohttp_sse_client")
        case "aiohttp-sse-client2":
            aiohttp("aiohttp_sse_client2")
    time.sleep(0.3)
