import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from stream.errors import ConfigInvalid
from stream.worker.health import HealthServer
from stream.worker.watchdog import Watchdog


class Checks:
    live = True
    ready = False


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def server(checks: Checks) -> Iterator[HealthServer]:
    registry = CollectorRegistry()
    Counter("lurm_things", "Things", registry=registry).inc(3)
    server = HealthServer(("127.0.0.1", 0), registry, lambda: checks.live, lambda: checks.ready)
    yield server
    server.close()


def get(server: HealthServer, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_registry_is_served_as_prometheus_text(server: HealthServer) -> None:
    status, text = get(server, "/metrics")
    assert status == 200
    assert "lurm_things_total 3.0" in text


def test_each_check_answers_for_itself(server: HealthServer, checks: Checks) -> None:
    assert get(server, "/livez") == (200, "ok\n")
    assert get(server, "/readyz") == (503, "service unavailable\n")
    checks.ready, checks.live = True, False
    assert get(server, "/livez")[0] == 503
    assert get(server, "/readyz")[0] == 200


def test_with_a_token_metrics_are_for_who_shows_it_and_health_for_everybody() -> None:
    server = HealthServer(("127.0.0.1", 0), CollectorRegistry(), lambda: True, lambda: True, token="geheim-ü")
    shown = "geheim-ü".encode().decode("latin-1")
    for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer geheim"}, {"Authorization": shown}):
        status, text = get(server, "/metrics", **wrong)
        assert (status, "geheim" in text) == (401, False)
    assert get(server, "/metrics", Authorization=f"Bearer {shown}")[0] == 200
    assert get(server, "/livez")[0] == get(server, "/readyz")[0] == 200
    server.close()


def test_a_worker_whose_watchdog_is_gone_is_not_alive() -> None:
    """Nothing would end it when it stands still, so a restart helps; all else is for the watchdog to see."""
    dead: list[str] = []
    watchdog = Watchdog(list, lambda: dead, 1.0, end=lambda reason: None)
    watchdog.start()
    server = HealthServer(("127.0.0.1", 0), CollectorRegistry(), watchdog.is_alive, lambda: False)
    assert get(server, "/livez")[0] == 200
    dead.append("the sender")
    watchdog.join(30)
    assert get(server, "/livez")[0] == 503
    server.close()


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nHost: "])
def test_a_visitor_who_says_nothing_keeps_neither_the_others_nor_the_end_waiting(
    said: bytes, server: HealthServer
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(said)
        assert get(server, "/livez") == (200, "ok\n")
        assert get(server, "/metrics")[0] == 200
        closing = threading.Thread(target=server.close, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()


def test_another_page_is_not_found(server: HealthServer) -> None:
    assert get(server, "/")[0] == 404


def test_a_taken_port_is_named(server: HealthServer) -> None:
    with pytest.raises(ConfigInvalid, match=f"address=127.0.0.1:{server.port}; set LURM_METRICS__PORT"):
        HealthServer(("127.0.0.1", server.port), CollectorRegistry(), lambda: True, lambda: True)


def test_a_closed_server_frees_its_port() -> None:
    first = HealthServer(("127.0.0.1", 0), CollectorRegistry(), lambda: True, lambda: True)
    first.close()
    HealthServer(("127.0.0.1", first.port), CollectorRegistry(), lambda: True, lambda: True).close()
