"""What is changed at one host is seen at the other; and nothing accepted is lost with a host.

See several_hosts.py for the network. docs/several-hosts.md says what is shared, and what is not.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import requests

from bench.lab import MODEL
from horde_proxy.database.engine import Database
from horde_proxy.router.pause_database import PauseDatabase
from tests.live.network import needs_namespaces
from tests.live.postgresql import needs_postgresql
from tests.live.processes import until
from tests.live.several_hosts import ADMIN, KEY, OWNER, Host, SeveralHosts, obstacle
from tests.live.steady_load import SteadyLoad

pytestmark = [
    needs_namespaces,
    needs_postgresql,
    pytest.mark.skipif(bool(obstacle()), reason=obstacle()),
    pytest.mark.timeout(300),
]


class Receiver(BaseHTTPRequestHandler):
    """Takes notices. It runs in this process, and listens on the horde's machine."""

    received: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeveralHosts]:
    """Two hosts that keep the public horde's pace, for all tests that change little."""
    opened = SeveralHosts(
        tmp_path_factory.mktemp("hosts"),
        horde__address_limits='["2/second"]',
        notices__webhook="http://10.203.0.16:9000/notices",
        notices__private="true",
        notices__kudos_below="10000000",
    )
    with opened.network["horde"].joined():
        receiver = ThreadingHTTPServer(("10.203.0.16", 9000), Receiver)
    Thread(target=receiver.serve_forever, daemon=True).start()
    yield opened
    receiver.shutdown()
    receiver.server_close()
    opened.close()


def chat(host: Host, key: str = KEY, text: str = "wait 0", **fields: Any) -> requests.Response:
    messages = [{"role": "user", "content": text}]
    return host.post("/v1/chat/completions", {"model": MODEL, "messages": messages, **fields}, key)


def new_key(folder: Path, hosts: SeveralHosts, name: str, *options: str) -> str:
    """A key that is made by the command line of host a, once both hosts know it."""
    host = hosts.a
    shown = folder / f"{name}.txt"
    assert host.command("keys", "add", name, *options, output=shown).wait(60) == 0
    key = str(re.findall(r"\bhp-\S+", shown.read_text())[0])
    for host in (hosts.a, hosts.b):
        # Keys are read again every five seconds.
        until(lambda host=host: host.get("/v1/usage", key).ok, 30)  # type: ignore[misc]
    return key


def test_a_key_that_is_made_and_revoked_at_one_host_is_so_at_the_other(
    hosts: SeveralHosts, tmp_path: Path
) -> None:
    key = new_key(tmp_path, hosts, "laptop")
    assert [host.get("/v1/models", key).status_code for host in (hosts.a, hosts.b)] == [200, 200]
    assert hosts.b.command("keys", "revoke", "laptop").wait(60) == 0
    until(lambda: hosts.a.get("/v1/models", key).status_code == 401, 30)
    until(lambda: hosts.b.get("/v1/models", key).status_code == 401, 30)


def test_the_requests_of_a_minute_are_counted_at_both_hosts(
    hosts: SeveralHosts, tmp_path: Path
) -> None:
    key = new_key(tmp_path, hosts, "minute", "--requests-per-minute", "4")
    statuses = [chat(host, key).status_code for host in (hosts.a, hosts.b) * 3]
    assert statuses == [200, 200, 200, 200, 429, 429]
    refused = chat(hosts.b, key)
    assert "4 requests a minute" in refused.json()["error"]["message"]
    assert 0 < int(refused.headers["Retry-After"]) <= 60


def test_the_requests_at_once_are_counted_at_both_hosts(
    hosts: SeveralHosts, tmp_path: Path
) -> None:
    key = new_key(tmp_path, hosts, "once", "--concurrent", "1")
    with ThreadPoolExecutor(1) as pool:
        before = hosts.horde_calls().get("POST", 0)
        running = pool.submit(chat, hosts.a, key, "wait 15")
        until(lambda: hosts.horde_calls().get("POST", 0) > before)
        until(lambda: chat(hosts.b, key).status_code == 429, 30)
        assert "1 request at once" in chat(hosts.b, key).json()["error"]["message"]
        assert running.result().status_code == 200
    assert chat(hosts.b, key).status_code == 200


def test_usage_and_the_limits_of_a_day_are_those_of_both_hosts(
    hosts: SeveralHosts, tmp_path: Path
) -> None:
    key = new_key(tmp_path, hosts, "daily", "--tokens-per-day", "50")
    # A chat has 23 tokens of prompt, and 17 of answer.
    assert [chat(hosts.a, key).status_code, chat(hosts.b, key).status_code] == [200, 200]
    until(lambda: [chat(host, key).status_code for host in (hosts.a, hosts.b)] == [429, 429], 30)

    def rows(host: Host) -> list[tuple[str, int]]:
        data = host.get("/v1/usage", key).json()["data"]
        return [(row["key"], row["prompt_tokens"]) for row in data]

    until(lambda: rows(hosts.a) == rows(hosts.b), 30)
    assert {name for name, _ in rows(hosts.a)} == {"daily"}
    assert sum(tokens for _, tokens in rows(hosts.a)) in (46, 69, 92)


def test_a_login_at_one_host_holds_at_the_other_until_it_ends_there(
    hosts: SeveralHosts, tmp_path: Path
) -> None:
    key = new_key(tmp_path, hosts, "visitor")
    with requests.Session() as browser, hosts.client.joined():
        browser.headers["Accept"] = "text/html"
        form = browser.get(f"{hosts.a.url}/", timeout=60).text
        fields = {"key": key, "token": re.findall(r'name="token" value="([^"]+)"', form)[0]}
        browser.post(f"{hosts.a.url}/page/login", data=fields, timeout=60)
        # A browser sends them to nginx, which has one name for both hosts.
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        copy = {"Cookie": cookies, "Accept": "text/html"}
        page = requests.get(f"{hosts.b.url}/", headers=copy, timeout=60).text
        assert "page/logout" in page
        token = re.findall(r'name="token" value="([^"]+)"', page)[0]
        ended = requests.post(
            f"{hosts.b.url}/page/logout", data={"token": token}, headers=copy, timeout=60
        )
        assert ended.ok

        def is_in(url: str) -> bool:
            return "page/logout" in requests.get(f"{url}/", headers=copy, timeout=60).text

        until(lambda: not is_in(hosts.a.url) and not is_in(hosts.b.url), 30)


def test_a_stored_answer_is_continued_and_deleted_at_the_other_host(hosts: SeveralHosts) -> None:
    made = hosts.a.post("/v1/responses", {"model": MODEL, "input": "wait 0"}).json()
    assert hosts.b.get(f"/v1/responses/{made['id']}").json() == made
    body = {"model": MODEL, "input": "wait 0", "previous_response_id": made["id"]}
    second = hosts.b.post("/v1/responses", body).json()
    assert (second["status"], second["previous_response_id"]) == ("completed", made["id"])
    items = hosts.a.get(f"/v1/responses/{second['id']}/input_items").json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["wait 0"]
    assert hosts.b.request("DELETE", f"/v1/responses/{made['id']}", KEY).status_code == 200
    assert hosts.a.get(f"/v1/responses/{made['id']}").status_code == 404


def test_who_gave_an_answer_is_looked_up_at_the_other_host(hosts: SeveralHosts) -> None:
    answer = chat(hosts.a).json()
    path = f"/v1/generation?id={answer['id']}"
    until(lambda: hosts.b.get(path).status_code == 200, 30)
    record = hosts.b.get(path).json()["data"]
    assert (record["provider_name"], record["model"], record["status"]) == ("crowd", MODEL, 200)
    assert hosts.b.get(path, ADMIN).status_code == 404


def test_a_batch_of_a_file_of_the_other_host_is_done_and_read_anywhere(
    hosts: SeveralHosts,
) -> None:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": [{"role": "user", "content": "wait 0"}]},
        }
        for number in range(6)
    ]
    content = "".join(f"{json.dumps(line)}\n" for line in lines)
    files = {"file": ("in.jsonl", content)}
    uploaded = hosts.a.request(
        "POST", "/v1/files", KEY, data={"purpose": "batch"}, files=files
    ).json()
    body = {
        "input_file_id": uploaded["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = hosts.b.post("/v1/batches", body).json()
    path = f"/v1/batches/{batch['id']}"
    until(lambda: hosts.a.get(path).json()["status"] == "completed", 120)
    output = hosts.a.get(path).json()["output_file_id"]
    answers = hosts.b.get(f"/v1/files/{output}/content").text.splitlines()
    assert Counter(json.loads(answer)["custom_id"] for answer in answers) == {
        f"line-{number}": 1 for number in range(6)
    }


def test_both_hosts_keep_one_pace_of_submits(hosts: SeveralHosts) -> None:
    # Their windows are empty by then.
    time.sleep(1.1)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda number: chat((hosts.a, hosts.b)[number % 2], user=str(number)), range(8)
        )
        texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    # The crowd answers with the time of its own submit, milliseconds after ours.
    times = sorted(map(float, texts))
    assert times[-1] - times[0] > 2.5


def test_both_hosts_are_one_private_horde(hosts: SeveralHosts) -> None:
    worker = [
        "worker",
        "--horde",
        hosts.a.url,
        "--api-key",
        OWNER,
        "--backend",
        "echo",
        "--drain",
        "0",
    ]
    process = hosts.a.command(*worker, "--idle", "0.1")
    until(lambda: "echo" in hosts.b.get("/v1/models").text)
    messages = [{"role": "user", "content": "Hello there"}]
    answer = hosts.b.post("/v1/chat/completions", {"model": "echo", "messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
    names = [
        [entry["name"] for entry in host.get("/api/v2/workers?type=text").json()]
        for host in (hosts.a, hosts.b)
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 1
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def test_a_paused_endpoint_is_paused_at_both_hosts(hosts: SeveralHosts) -> None:
    # As the admin's page of either host does it.
    pauses = PauseDatabase(Database(hosts.database_url, setting="access.database"))
    hosts.client.call(lambda: pauses.pause("private", 1.0))

    def paused(host: Host) -> list[str]:
        data = host.get("/v1/endpoints", ADMIN).json()["data"]
        return [endpoint["name"] for endpoint in data if endpoint.get("paused_at")]

    until(lambda: [paused(host) for host in (hosts.a, hosts.b)] == [["private"]] * 2, 30)
    hosts.client.call(lambda: pauses.resume("private"))
    until(lambda: paused(hosts.a) == paused(hosts.b) == [], 30)
    pauses.database.close()


def test_a_notice_is_sent_by_one_host(hosts: SeveralHosts) -> None:
    until(lambda: Receiver.received, 90)
    # Each host looks every 30 s.
    time.sleep(35)
    assert [notice["type"] for notice in Receiver.received] == ["kudos.low"]
    assert Receiver.received[0]["data"] == {
        "endpoint": "crowd",
        "kudos": pytest.approx(1e6, rel=0.1),
        "below": 10_000_000,
    }


def test_a_host_that_ends_has_written_what_the_other_shows(hosts: SeveralHosts) -> None:
    """As when hosts are upgraded one after the other."""
    assert chat(hosts.a).ok
    ended = [process for process in hosts.network.started if is_serving(process, hosts.a)]
    for process in ended:
        process.send_signal(signal.SIGTERM)
    until(lambda: not hosts.a.machine.processes(), 60)
    facts = hosts.b.get("/v1/endpoints/history", ADMIN).json()["data"]
    assert {entry["endpoint"] for entry in facts} >= {"crowd"}
    through = hosts.client.call(
        lambda: [
            requests.get(
                f"{hosts.front}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=60
            ).status_code
            for _ in range(4)
        ]
    )
    assert through == [200] * 4
    hosts.a.start()
    assert chat(hosts.a).ok


def is_serving(process: subprocess.Popen[bytes], host: Host) -> bool:
    words = process.args if isinstance(process.args, list) else []
    return "serve" in words and f"{host.machine.address}:8080" in words and process.poll() is None


@pytest.fixture
def unpaced(tmp_path: Path) -> Iterator[SeveralHosts]:
    """Two hosts before a horde without a pace, for tests that kill them."""
    opened = SeveralHosts(tmp_path)
    yield opened
    opened.close()


def test_nothing_that_was_accepted_is_lost_with_a_host(unpaced: SeveralHosts) -> None:
    """A smaller bench/several_hosts.py, with answers in the background beside the chats."""
    a, b = unpaced.a, unpaced.b
    load = SteadyLoad(unpaced.front, KEY, rate=4)
    body = {"model": MODEL, "background": True, "stream": False}
    kept = [
        host.post("/v1/responses", {**body, "input": f"{number}. wait 12"}).json()["id"]
        for number, host in enumerate((a, a, b, b))
    ]
    until(lambda: unpaced.horde_calls().get("POST", 0) == 4)

    def losses() -> None:
        time.sleep(4)
        a.kill()
        time.sleep(5)
        a.start()
        unpaced.until_both_serve()
        b.machine.cut()
        time.sleep(24)
        b.machine.mend()

    with unpaced.client.pool(80) as pool:
        load.run(pool, 30, losses)
    counts = load.counts
    assert (counts.answered, counts.lost) == (counts.sent, 0)
    # Whatever failed ended in one of these ways, which every client understands.
    legal = {"stream cut", "stream without its last line", "answer cut", "status 502 host_lost"}
    assert set(counts.ends) <= legal
    assert counts.retried > 0
    # Chats and answers in the background; twice only what was lost with its connection.
    submits = unpaced.horde_calls()["POST"] - 4
    assert counts.sent <= submits <= counts.tries

    def is_complete(name: str) -> bool:
        return bool(a.get(f"/v1/responses/{name}").json()["status"] == "completed")

    until(lambda: all(map(is_complete, kept)), 90)
    for name in kept:
        assert b.get(f"/v1/responses/{name}").json() == a.get(f"/v1/responses/{name}").json()


def test_a_stream_of_a_killed_host_ends_and_its_background_answer_goes_on_elsewhere(
    unpaced: SeveralHosts,
) -> None:
    a, b = unpaced.a, unpaced.b
    messages = [{"role": "user", "content": "wait 60"}]
    body = {"model": MODEL, "messages": messages, "stream": True}
    kept = {"model": MODEL, "input": "wait 20", "background": True, "stream": True}
    with unpaced.client.joined():
        headers = {"Authorization": f"Bearer {KEY}"}
        streams = [
            requests.post(f"{a.url}{path}", json=sent, headers=headers, stream=True, timeout=90)
            for path, sent in (("/v1/chat/completions", body), ("/v1/responses", kept))
        ]
        chat_lines, response_lines = (stream.iter_lines(chunk_size=1) for stream in streams)
        assert next(chat_lines).startswith(b"data: {")
        event = next(line for line in response_lines if b'"id"' in line)
        until(lambda: unpaced.horde_calls().get("POST", 0) == 2)
        # Until the horde's id is in the database, a kill has the request submitted again.
        time.sleep(3)
        a.kill()
        for lines in (chat_lines, response_lines):
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                list(lines)
        response = json.loads(event.removeprefix(b"data: "))["response"]
        path = f"/v1/responses/{response['id']}?stream=true&starting_after=0"
        rest = b.get(path, stream=True, timeout=120).text
    events = [json.loads(line[6:]) for line in rest.splitlines() if line.startswith("data: {")]
    assert events[-1]["type"] == "response.completed"
    assert [entry["sequence_number"] for entry in events] == list(range(1, len(events) + 1))
    # The horde's request of the killed host was polled on, not submitted again.
    assert unpaced.horde_calls()["POST"] == 2


def test_a_post_that_a_host_has_accepted_is_not_sent_to_the_other(
    unpaced: SeveralHosts,
) -> None:
    def send(number: int) -> tuple[int, str]:
        messages = [{"role": "user", "content": "wait 30"}]
        answer = requests.post(
            f"{unpaced.front}/v1/chat/completions",
            json={"model": MODEL, "messages": messages, "user": str(number)},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=90,
        )
        return answer.status_code, answer.json()["error"]["code"]

    with unpaced.client.pool(4) as pool:
        sent = [pool.submit(send, number) for number in range(4)]
        until(lambda: unpaced.horde_calls().get("POST", 0) == 4)
        unpaced.a.kill()
        unpaced.b.kill()
        assert [answer.result() for answer in sent] == [(502, "host_lost")] * 4
    assert unpaced.horde_calls()["POST"] == 4
