"""The command itself: a process that serves, is asked by many at once, left by some, and told to stop in the middle."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.unit.serve.conftest import asks, picture

import minicpmv

TEXTS = [f"Repeat: {word}" for word in ("flour", "tea 4.50", "21 Sep", "qB7", "honey and milk", "a", "7 8 9")]
TEXTS.append("What is written in the picture?")
AT_ONCE = 32


class Command:
    """`minicpmv serve` in a process of its own."""

    def __init__(self, *flags: str) -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        environment = {**os.environ, "PYTHONPATH": str(Path(minicpmv.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        words = ["-m", "minicpmv", "serve", "--device", "cpu", "--dtype", "float32", "--port", str(port), *flags]
        self.process = subprocess.Popen(
            [sys.executable, *words], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
        self.port = port
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.stderr.read()  # type: ignore[union-attr]
            try:
                self.client.models.list()
                return
            except openai.APIConnectionError:
                time.sleep(0.1)

    def ask(self, text: str, **options: Any) -> str:
        messages = asks(picture(), text) if text.startswith("What") else asks(text)
        answer = self.client.chat.completions.create(model="nano", messages=messages, max_tokens=16, **options)
        return answer.choices[0].message.content or ""

    def held(self) -> dict[str, int]:
        """What the process holds: memory in kB, threads, open files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        files = len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))
        return {"kb": int(lines["VmRSS"].split()[0]), "threads": int(lines["Threads"]), "files": files}

    def end(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    command = Command("--max-num-seqs", "8", "--max-waiting", "256", "--kv-cache-gib", "0.05")
    yield command
    command.end()


def test_everybody_gets_their_own_answer_whatever_the_others_do(command: Command) -> None:
    """1,000 requests, 32 at a time: a tenth malformed, a tenth left in the middle, a twentieth read slowly."""
    alone = {text: command.ask(text) for text in TEXTS}
    before = command.held()
    chance = random.Random(0)
    plans = [(chance.choice(TEXTS), chance.random()) for _ in range(1000)]

    def one(plan: tuple[str, float]) -> tuple[str, str | None]:
        text, fate = plan
        if fate < 0.1:
            with pytest.raises(openai.BadRequestError):
                command.ask(text, temperature="hot")
            return text, None
        if fate < 0.3:
            messages = asks(picture(), text) if text.startswith("What") else asks(text)
            stream: Any = command.client.chat.completions.create(
                model="nano", messages=messages, max_tokens=16, stream=True
            )
            said = ""
            for number, chunk in enumerate(stream):
                said += chunk.choices[0].delta.content or ""
                if fate < 0.2 and number == 2:
                    stream.close()
                    return text, None
                if fate > 0.25:
                    time.sleep(0.02)
            return text, said
        return text, command.ask(text)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(one, plans))
    assert sum(answer is not None for _, answer in answers) > 700
    assert {(text, answer) for text, answer in answers if answer is not None} <= set(alone.items())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        after = command.held()
        if after["files"] <= before["files"] + AT_ONCE + 4 and after["threads"] <= before["threads"] + 45:
            break
        time.sleep(0.2)
    assert after["files"] <= before["files"] + AT_ONCE + 4  # connections that the client keeps
    assert after["threads"] <= before["threads"] + 45  # at most the 40 of the pool that prepares requests
    assert after["kb"] <= before["kb"] * 1.3 + 50_000


def test_a_client_that_only_connects_harms_nobody(command: Command) -> None:
    idle = [socket.create_connection(("127.0.0.1", command.port)) for _ in range(30)]
    try:
        idle[0].send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        idle[1].send(b"\x00\xff\x00\xff\r\n\r\n")
        assert command.ask(TEXTS[0])
    finally:
        for connection in idle:
            connection.close()


def test_sigterm_in_the_middle_finishes_what_was_begun() -> None:
    command = Command("--drain-s", "60")
    try:
        wanted = command.ask(TEXTS[0])
        answers: list[Any] = []

        def one() -> None:
            answers.append(
                command.client.chat.completions.create(
                    model="nano",
                    messages=asks(picture(), "What is written?"),
                    max_tokens=60,
                    extra_body={"min_tokens": 60},
                )
            )

        threads = [threading.Thread(target=one) for _ in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        command.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(90)
        assert len(answers) == 12
        assert {answer.usage.completion_tokens for answer in answers} == {60}
        assert wanted
        with pytest.raises(openai.APIConnectionError):
            command.ask(TEXTS[0])
        assert command.process.wait(60) == 0
    finally:
        command.end()


def test_a_port_that_is_taken_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        environment = {**os.environ, "PYTHONPATH": str(Path(minicpmv.__file__).parents[1])}
        words = ["-m", "minicpmv", "serve", "--device", "cpu", "--port", str(place.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("limits", ["[1]", '{"image": "many"}', '{"sound": 3}', "{"])
def test_limits_that_are_none_are_refused_before_anything_is_loaded(limits: str) -> None:
    from minicpmv.cli.main import main

    assert main(["serve", "--limit-mm-per-prompt", limits]) == 1
    assert json.dumps(limits)
