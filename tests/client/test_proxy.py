"""The proxy in a site's file, and the private file with its password."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from privet.client.proxy import Proxy, load_proxy, route
from privet.common.config.site import MembershipSpec
from privet.common.errors import ConfigError

TABLE: dict[str, Any] = {"address": "hub.example:9092", "ca": Path("ca"), "key": Path("k"), "epsilon": 1, "delta": 1e-6}


def member(**keys: object) -> MembershipSpec:
    return MembershipSpec.model_validate(TABLE | keys)


def secret(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_no_proxy_is_no_proxy() -> None:
    assert load_proxy(member()) is None


@pytest.mark.parametrize(
    ("url", "address"),
    [("http://proxy.hospital:3128", "proxy.hospital:3128"), ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080")],
)
def test_a_proxy_is_named_by_a_url(url: str, address: str) -> None:
    assert load_proxy(member(proxy=url)) == Proxy(address)
    assert Proxy(address).headers() == ""


@pytest.mark.parametrize(
    "url", ["proxy:3128", "https://proxy:3128", "socks5://proxy:1080", "http://user:word@proxy:3128", "http://proxy"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        member(proxy=url)


def test_a_password_without_a_proxy_is_refused() -> None:
    with pytest.raises(ValidationError, match="Expected proxy beside proxy_auth"):
        member(proxy_auth=Path("auth"))


@pytest.mark.parametrize("content", [b"clinic:pass:word", b"clinic:pass:word\n", b"clinic:pass:word\r\n"])
def test_the_password_comes_from_a_private_file_and_is_never_shown(tmp_path: Path, content: bytes) -> None:
    proxy = load_proxy(member(proxy="http://p:1", proxy_auth=secret(tmp_path / "auth", content)))
    assert proxy is not None
    assert proxy.headers() == "Proxy-Authorization:Basic Y2xpbmljOnBhc3M6d29yZA=="  # of clinic:pass:word
    assert "pass" not in repr(proxy)
    assert "pass" not in route(proxy)


@pytest.mark.parametrize("content", [b"", b"clinic", b":word", b"a:b\nX-Header: c\n", b"a:b\r\nX: c", b"a:\xff"])
def test_what_is_not_one_line_is_refused(tmp_path: Path, content: bytes) -> None:
    """A second line would be a header of its own in the request to the proxy."""
    with pytest.raises(ConfigError, match="one line user:password") as caught:
        load_proxy(member(proxy="http://p:1", proxy_auth=secret(tmp_path / "auth", content)))
    assert "X-Header" not in str(caught.value)


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="may be read by others") as caught:
        load_proxy(member(proxy="http://p:1", proxy_auth=secret(tmp_path / "auth", b"a:b", 0o640)))
    assert caught.value.mend.startswith("chmod 600 ")
    with pytest.raises(ConfigError, match="no such file"):
        load_proxy(member(proxy="http://p:1", proxy_auth=tmp_path / "none"))


def test_the_environments_proxy_is_named_and_its_value_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "GRPC_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert route(None) == ""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:1")
    assert "https_proxy of the environment is not followed" in route(None)
    assert "secret" not in route(None)
    assert route(Proxy("p:1")) == " by the proxy p:1"
