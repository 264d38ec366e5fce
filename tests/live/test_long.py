"""Long answers, crowds and retries, against a private horde with the real one's limits."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import requests

from horde_proxy.prompts.tokens import truncate
from tests.live.processes import Processes, until

MODEL = "horde-proxy/echo"
ANONYMOUS = {"AI_HORDE_API_KEY": "0000000000"}
TEXT = "".join(
    f"{number}. Die Größe – 漢字 {number} 😀\n\n```python\nprint({number} * 'ab')\n```\n"
    for number in range(400)
)


def strict_horde(processes: Processes) -> str:
    return processes.serve_horde(private_horde__strict="true", access__mode="open")


def proxy(processes: Processes, horde: str, **settings: str) -> str:
    """A proxy before that horde, anonymous and at the public horde's pace."""
    return processes.serve(
        horde__url=horde,
        horde__api_key="0000000000",
        horde__validated_backends="false",
        horde__address_limits='["2/second", "90/minute"]',
        horde__key_limits='["2/second"]',
        **settings,
    )[0]


def streamed(url: str, text: str, **fields: Any) -> tuple[float, float, str, str]:
    """(seconds to the first text, to the end, the text, the finish reason)."""
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}
    began, first, content, reason = time.monotonic(), 0.0, "", ""
    with requests.post(
        f"{url}/v1/chat/completions", json={**body, **fields}, stream=True, timeout=300
    ) as answer:
        for line in answer.iter_lines(chunk_size=1):
            if not line.startswith(b"data: {"):
                continue
            [choice] = json.loads(line[6:])["choices"]
            piece = choice["delta"].get("content") or ""
            first = first or (time.monotonic() - began if piece else 0.0)
            content += piece
            reason = choice["finish_reason"] or reason
    return first, time.monotonic() - began, content, reason


def test_a_long_answer_is_streamed_while_it_is_written(processes: Processes) -> None:
    horde = strict_horde(processes)
    processes.work(horde, "--max-length", "200", "--speed", "400", "--name", "one")
    url = proxy(processes, horde)
    first, total, content, reason = streamed(url, TEXT, max_tokens=2000)
    assert content == truncate(TEXT, 2000)
    assert reason == "length"
    assert first < total / 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_worker_of_four_tokens_a_second_among_others_is_no_trouble(
    processes: Processes,
) -> None:
    horde = strict_horde(processes)
    processes.work(horde, "--max-length", "200", "--speed", "4", "--name", "slow")
    processes.work(horde, "--max-length", "200", "--speed", "40", "--name", "quick")
    first, total, content, _ = streamed(proxy(processes, horde), TEXT, max_tokens=2000)
    assert content == truncate(TEXT, 2000)
    assert first < total / 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_hundred_chats_at_once_with_one_anonymous_key_all_get_their_answer(
    processes: Processes,
) -> None:
    horde = strict_horde(processes)
    processes.work(horde, "--threads", "20")
    url = proxy(processes, horde)
    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(lambda number: streamed(url, f"chat {number}")[2:], range(200)))
    assert found == [(f"chat {number}", "stop") for number in range(200)]


def count_submits(horde: str) -> int:
    totals = requests.get(f"{horde}/api/v2/stats/text/totals", timeout=60).json()
    requested: int = totals["minute"]["requests"]
    return requested


def test_a_retry_of_the_openai_package_is_given_the_answer_that_is_on_its_way(
    processes: Processes,
) -> None:
    url = processes.serve_horde(server__cancel_grace="60", server__reattach="true")
    processes.work(url, "--delay", "10")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=6, max_retries=9) as client:
        chat = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello you"}]
        )
    assert chat.choices[0].message.content == "Hello you"
    assert count_submits(url) == 1


def test_what_nobody_comes_back_for_is_cancelled_after_the_grace(processes: Processes) -> None:
    url = processes.serve_horde(server__cancel_grace="10")
    processes.work(url, "--delay", "300")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(requests.Timeout):
        requests.post(f"{url}/v1/chat/completions", json=body, timeout=2)
    left = time.monotonic()

    def running() -> int:
        return len(requests.get(f"{url}/v1/horde/requests", timeout=60).json()["data"])

    until(lambda: running() == 1)
    until(lambda: running() == 0)
    assert time.monotonic() - left > 9
