"""What the configuration and ~/.ssh/config say of a host, and what of it is refused."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobmill.errors import ConfigError
from jobmill.systems.ssh_host import DEFAULT_KNOWN_HOSTS, OPTIONS, SshHost

pytestmark = pytest.mark.timeout(60)
CONFIG = """
Include extra/*.conf
Host bird
  HostName bird.example.org
  User ann
  Port 2222
  IdentityFile ~/.ssh/bird
  UserKnownHostsFile /etc/known_one /etc/known_two
  HostKeyAlias the-bird
  ProxyJump gate,bob@inner:2022
Host gate
  HostName gate.example.org
  User guest
  ProxyJump outer.example.org
Host circle
  ProxyJump circle2
Host circle2
  ProxyJump circle
Host piped
  ProxyCommand nc -X 5 %h %p
Host only
  IdentitiesOnly yes
Host bad-port
  Port many
Host *
  User everybody
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the configuration above."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh" / "extra").mkdir(parents=True)
    (tmp_path / ".ssh" / "config").write_text(CONFIG)
    (tmp_path / ".ssh" / "extra" / "one.conf").write_text("Host included\n  HostName 192.0.2.7\n")
    return tmp_path


def host(name: str = "bird", **options: Any) -> SshHost:
    return SshHost.of(name, options, f"systems.{name}")


def test_everything_from_the_users_configuration(home: Path) -> None:
    found = host("bird")
    assert (found.address, found.port, found.user) == ("bird.example.org", 2222, "ann")
    assert found.keys == (f"{home}/.ssh/bird",) and found.agent
    assert found.known_hosts == ("/etc/known_one", "/etc/known_two")
    assert found.known_as == "the-bird"
    assert found.label == "ann@bird.example.org:2222"
    assert [it.label for it in found.proxy_jump] == [
        "everybody@outer.example.org",
        "guest@gate.example.org",
        "bob@inner:2022",
    ]


def test_the_options_win(home: Path) -> None:
    found = host("x", host="bird", port=22, user="eve", keys="~/k", known_hosts=["/a", "/b"], proxy_jump="none")
    assert (found.name, found.alias, found.port, found.user) == ("x", "bird", 22, "eve")
    assert found.keys == (f"{home}/k",) and not found.agent  # keys by name: only these
    assert found.known_hosts == ("/a", "/b") and found.proxy_jump == ()


def test_included_files_and_what_follows_them(home: Path) -> None:
    assert host("included").address == "192.0.2.7"
    assert host("included").user == "everybody"


def test_without_anything(home: Path) -> None:
    (home / ".ssh" / "config").unlink()
    (home / ".ssh" / "id_rsa").write_text("")
    found = host("plain", ssh_config="none")
    assert (found.address, found.port, found.user) == ("plain", 22, getpass.getuser())
    assert found.keys == (f"{home}/.ssh/id_rsa",) and found.agent
    assert found.known_hosts == tuple(it.replace("~", str(home)) for it in DEFAULT_KNOWN_HOSTS)


def test_ways(home: Path) -> None:
    assert host("piped").proxy_command == "nc -X 5 piped 22"
    own = host("x", host="bird", proxy_command="connect %r@%h:%p %% %n")
    assert own.proxy_command == "connect ann@bird.example.org:2222 % bird" and own.proxy_jump == ()
    jump = host("piped", proxy_jump="[2001:db8::1]:2022, user@2001:db8::2", connect_timeout=3, known_hosts="/k")
    assert [(it.user, it.address, it.port) for it in jump.proxy_jump] == [
        ("everybody", "2001:db8::1", 2022),
        ("user", "2001:db8::2", 22),
    ]
    assert jump.proxy_command is None
    assert all(it.connect_timeout == 3 and it.known_hosts == ("/k",) for it in jump.proxy_jump)
    assert jump.proxy_jump[0].known_as == "[2001:db8::1]:2022"
    assert host("only").agent is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 0}, "systems.bird.port: 0 is not a whole number from 1 to 65535"),
        ({"port": True}, "systems.bird.port"),
        ({"port": "22; rm"}, "systems.bird.port"),
        ({"host": ["a"]}, "systems.bird.host"),
        ({"host": "-oProxyCommand=x"}, "not the name of a host"),
        ({"host": "two words"}, "not the name of a host"),
        ({"user": "ann\nbob"}, "systems.bird.user"),
        ({"keys": []}, "systems.bird.keys"),
        ({"keys": 7}, "systems.bird.keys"),
        ({"keys": "id_rsa"}, "write an absolute path"),
        ({"keys": "~nobody-of-that-name/id"}, "systems.bird.keys"),
        ({"known_hosts": ""}, "systems.bird.known_hosts"),
        ({"ssh_config": "/no/such/file"}, "no file /no/such/file"),
        ({"proxy_jump": "a", "proxy_command": "b"}, "exclude each other"),
        ({"proxy_jump": "a:b"}, "systems.bird.proxy_jump"),
        ({"proxy_jump": "a,,b"}, "not the name of a host"),
        ({"host": "circle"}, "goes in circles"),
        ({"host": "bad-port"}, "Host bad-port"),
        ({"keepalive": 0}, "systems.bird.keepalive"),
        ({"idle": float("nan")}, "systems.bird.idle"),
        ({"connect_timeout": "soon"}, "systems.bird.connect_timeout"),
    ],
)
def test_nonsense_is_refused_with_its_place(home: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        host("bird", **options)
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["Host", "Match nonsense", "Host x\n  Port", 'Host "x', "Include config\n"])
def test_a_broken_ssh_config_is_told_with_its_name(home: Path, text: str) -> None:
    (home / ".ssh" / "config").write_text(text)
    with pytest.raises(ConfigError, match=r"\.ssh/config"):
        host("x")


def test_the_same_text_is_the_same_host(home: Path) -> None:
    found = host("bird")
    again = SshHost.from_json(found.to_json())
    assert again == found and again.digest == found.digest
    assert host("another", host="bird").digest == found.digest  # only our name differs: they share a connection
    assert host("bird", keepalive=29).digest != found.digest


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(sorted(OPTIONS - {"ssh_config"})),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
    )
)
def test_whatever_the_options_are_it_is_a_host_or_a_configuration_error(options: dict[str, Any]) -> None:
    try:
        found = SshHost.of("bird", options | {"ssh_config": "none"}, "systems.bird")
    except ConfigError as error:
        assert "systems.bird" in str(error)
    else:
        assert SshHost.from_json(found.to_json()) == found
