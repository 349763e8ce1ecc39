"""Async rewards that ask a server with a client kept for the process's life."""

import asyncio
import os
import time

import httpx
from http_helper import read

CLIENT = None
ADDRESS = os.environ.get("GENAC_TEST_ADDRESS", "http://localhost:1")


async def ask(completions):
    """The server's number for each response; it hangs, blocks or fails where that says so."""
    global CLIENT
    CLIENT = CLIENT or httpx.AsyncClient(timeout=60)
    text = completions[0]
    if text == "block":
        time.sleep(60)
    if text == "sleep":
        await asyncio.sleep(60)
    if text == "stubborn":
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue
    if text == "thread":
        await asyncio.to_thread(time.sleep, 60)
    if text == "child task":
        await asyncio.gather(asyncio.sleep(0.01), blocks())
    if text == "callback":
        asyncio.get_running_loop().call_later(0.01, time.sleep, 60)
        await asyncio.sleep(60)
    break_loop(text)
    if text == "pause":
        time.sleep(0.4)
    reply = await CLIENT.get(f"{ADDRESS}/{text}")
    return [read(reply.text)]


def break_loop(text):
    if text == "cancel":
        for task in asyncio.all_tasks():
            task.cancel()
    if text == "close":
        os.closerange(3, 1000)


async def blocks():
    time.sleep(60)


def hides(completions):
    """An async function that does not look like one."""
    return ask(completions)
