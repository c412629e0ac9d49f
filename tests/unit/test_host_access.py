"""What a host may be called and where it may lie: nothing that means something to a shell or a path walk gets in."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ltp.contracts.host_access import Access, HostRegistered
from services.gateway.routes.host_access import NewHost

GOOD: dict[str, Any] = {"address": "gpu.example.org", "user": "ltp", "work_dir": "~/ltp"}
HOSTILE = [
    "$(reboot)",
    "`id`",
    "a;b",
    "a b",
    "a|b",
    "a&b",
    "a\nb",
    "a'b",
    'a"b',
    "-oProxyCommand=id",
    "a\0b",
    "é",
    "",
    "a>b",
    "*",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["address", "user", "work_dir", "python", "host_key"])
def test_hostile_words_are_refused_in_every_field(field: str, text: str) -> None:
    value = f"/srv/{text}" if field in {"work_dir", "python"} and text else text
    with pytest.raises(ValidationError):
        Access(**{**GOOD, field: value})


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_labels_are_refused(text: str) -> None:
    access = Access(**GOOD)
    with pytest.raises(ValidationError):
        HostRegistered(host_id=text, access=access, labels={})
    with pytest.raises(ValidationError):
        HostRegistered(host_id="gpu1", access=access, labels={text: "x"})


@pytest.mark.parametrize(
    "folder", ["/srv/../etc", "~/../x", "relative", "~other/ltp", "/", "/etc", "/tmp", "~", "/root/", "//srv"]
)
def test_working_directories_that_are_not_ones_own_are_refused(folder: str) -> None:
    with pytest.raises(ValidationError):
        Access(**{**GOOD, "work_dir": folder})


@pytest.mark.parametrize("address", ["10.0.0.7", "::1", "fe80::1", "host", "a-b.example.org"])
@pytest.mark.parametrize("python", [None, "/opt/venv", "~/ltp/env", "conda:verl", "/usr/bin/python3.11"])
def test_usual_hosts_are_let_in(address: str, python: str | None) -> None:
    assert Access(**{**GOOD, "address": address, "python": python}).port == 22


@pytest.mark.parametrize(
    "secrets",
    [
        {},
        {"token": "t"},
        {"password": "p", "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----"},
        {"private_key": "ssh-ed25519 AAAA"},
    ],
)
def test_an_ssh_host_has_one_secret_of_its_kind(secrets: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        NewHost(host_id="gpu1", **GOOD, **secrets)


def test_a_refusal_and_a_printout_keep_the_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        NewHost(host_id="gpu1", **{**GOOD, "user": "a b"}, password="canary-1")
    assert "canary" not in str(caught.value)
    host = NewHost(host_id="gpu1", **GOOD, password="canary-1")
    assert "canary" not in repr(host) + host.model_dump_json() + host.access().model_dump_json()


def test_a_ray_cluster_is_a_url() -> None:
    assert Access(backend="ray", address="http://127.0.0.1:8265").user is None
    for address in ("127.0.0.1:8265", "http://a b", "file:///etc/passwd", "http://x/$(id)"):
        with pytest.raises(ValidationError):
            Access(backend="ray", address=address)
